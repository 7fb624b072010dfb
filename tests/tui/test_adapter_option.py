"""`--adapter` as a person gives it: to `bq convert`, `bq verify` and `bq run`."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.adapters import write_adapter
from tests.support.families import Shape, write_checkpoint

Bq = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base-chat, and the adapter `mine`."""
    folder = tmp_path_factory.mktemp("given")
    checkpoint = write_checkpoint(folder / "base-chat", Shape(hidden=32, heads=4, ffn=64, form="safetensors"))
    write_adapter(folder / "mine", checkpoint, base_model_name_or_path="")
    return folder


def test_a_plan_tells_what_is_merged(bq: Bq, folder: Path) -> None:
    done = bq("convert", "base-chat", "--adapter", "mine:0.5", "--dry-run", "--json", cwd=folder)
    plan = json.loads(done.stdout)
    assert (plan["name"], plan["adapters"]) == ("base-chat-mine", ["mine:0.5"])


def test_a_merged_file_is_verified_with_its_adapter(bq: Bq, folder: Path) -> None:
    made = bq("convert", "base-chat", "--adapter", "mine:0.5", "-q", "Q8_0", cwd=folder)
    assert made.stdout == b"base-chat-mine-Q8_0.gguf\n"
    assert "Adapters: mine:0.5 (added to 160 matrices" in made.stderr.decode()

    alone = bq("verify", "base-chat-mine-Q8_0.gguf", "--against", "base-chat", cwd=folder)
    assert (alone.returncode, alone.stdout) == (2, b"")
    assert "was merged with mine:0.5" in alone.stderr.decode()
    assert "--adapter mine:0.5" in alone.stderr.decode()

    right = bq(
        "verify",
        "base-chat-mine-Q8_0.gguf",
        "--against",
        "base-chat",
        "--adapter",
        "mine:0.5",
        "--threads",
        "1",
        cwd=folder,
    )
    assert right.returncode == 0, right.stdout.decode()
    assert "291 of 291 tensors are bit for bit" in right.stdout.decode()

    more = bq("verify", "base-chat-mine-Q8_0.gguf", "--against", "base-chat", "--adapter", "mine", cwd=folder)
    assert (more.returncode, more.stdout) == (2, b"")


def test_an_adapter_file_is_run_with_its_model(bq: Bq, folder: Path) -> None:
    made = bq("convert", "base-chat", "--adapter", "mine", "--adapter-gguf", cwd=folder)
    assert made.stdout == b"mine-F32-LoRA.gguf\n", made.stderr.decode()
    assert bq("convert", "base-chat", "-q", "F32", "-o", "base.gguf", cwd=folder).returncode == 0
    ask = ("run", "-m", "base.gguf", "--greedy", "--max-tokens", "8", "--threads", "1", "你好")
    plain, adapted = bq(*ask, cwd=folder), bq(*ask, "--adapter", "mine-F32-LoRA.gguf", cwd=folder)
    assert (plain.returncode, adapted.returncode) == (0, 0), adapted.stderr.decode()
    assert plain.stdout != adapted.stdout


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--adapter-gguf",), "--adapter-gguf goes with --adapter"),
        (("--adapter", "mine", "--adapter-gguf", "-q", "Q8_0"), "-q is about a model's file"),
        (("--adapter", "mine:much"), "'much' is no weight"),
        (("--adapter", "nowhere"), "nowhere is not a folder"),
        (("--adapter", "base-chat"), "adapter_config.json is missing"),
    ],
)
def test_what_cannot_work_is_one_line(bq: Bq, folder: Path, options: tuple[str, ...], says: str) -> None:
    done = bq("convert", "base-chat", *options, cwd=folder)
    (line,) = done.stderr.decode().splitlines()
    assert (done.returncode > 0, done.stdout) == (True, b"")
    assert says in line
