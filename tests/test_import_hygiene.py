"""The rooms know only those below them, and what must start at once imports nothing heavy."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ABOVE = {
    "runtime": {"convert", "library", "tui", "demo"},
    "convert": {"library", "tui", "demo"},
    "library": {"tui", "demo"},
    "tui": {"demo"},
}
HEAVY = ("numpy", "gguf", "llama_cpp", "textual", "sentencepiece", "google.protobuf", "huggingface_hub", "httpx2")


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def sources(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("room", ABOVE)
def test_a_room_imports_only_what_lies_below(room: str) -> None:
    assert sources(room)
    for path in sources(room):
        rooms = {name.split(".")[1] for name in imports(path) if name.startswith("bq.")}
        assert not rooms & ABOVE[room], path


@pytest.mark.parametrize("room", ABOVE)
def test_nothing_imports_torch_or_transformers(room: str) -> None:
    for path in sources(room):
        assert not {name.split(".")[0] for name in imports(path)} & {"torch", "transformers", "safetensors"}, path


@pytest.mark.parametrize(
    "code",
    [
        "import bq.tui.cli",
        "import bq.tui.main",
        "import sys; from bq.tui.main import run; sys.stdout = open('/dev/null', 'w'); run(['--help'], False)",
    ],
)
def test_help_imports_nothing_heavy(code: str) -> None:
    show = f"{code}; import sys; print([m for m in {HEAVY} if m in sys.modules], file=sys.__stdout__)"
    done = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_nothing_but_the_trainer_needs_torch_at_run_time() -> None:
    code = "import sys, bq.convert.convert, bq.runtime.model as _; print(*({'torch', 'transformers'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    "code",
    [
        "from bq.convert.convert import demo_checkpoint, prepare; prepare(demo_checkpoint(), 'Q8_0')",
        "from types import SimpleNamespace as Of; from bq.convert.convert import demo_checkpoint as demo;"
        "from bq.convert.reference_tokenizer import reference_tokenizer as read;"
        "read(Of(model='llama', model_path=demo() / 'tokenizer.model'))",
        "from bq.runtime import load; load(sys.argv[1]).close()",
        "from bq.runtime.devices import build; build()",
        "from bq.tui.main import run; run(['doctor'], False)",
        "from bq.tui.main import run; run(['verify', sys.argv[1]], False)",
        "from pathlib import Path; from bq.runtime.values import LoadOptions; from bq.tui.engine import Engine;"
        "engine = Engine(LoadOptions()); engine.examine([Path(sys.argv[1])]); engine.close();"
        "print(engine.trace, file=sys.stderr)",  # the model's process
    ],
)
def test_openmp_is_told_not_to_spin_before_anything_brings_it(code: str, demo_gguf: Path) -> None:
    """Every copy of GNU's OpenMP says, when it is loaded, what it has read in the environment; on a busy machine a token can take
    seconds with its own patience."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("GOMP_", "OMP_"))}
    command = [sys.executable, "-c", f"import sys; {code}", str(demo_gguf)]
    done = subprocess.run(command, env={**environment, "OMP_DISPLAY_ENV": "verbose"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = re.findall(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr)
    if not said and not _has_gnus_openmp():
        pytest.skip("llama.cpp has another OpenMP here, or none")
    assert {*said} == {"1000"}


def _has_gnus_openmp() -> bool:
    """Whether llama.cpp's first library brings it."""
    code = "from bq.runtime.ggml import open_library; open_library('ggml-base')"
    environment = {**os.environ, "OMP_DISPLAY_ENV": "verbose"}
    return (
        "GOMP_SPINCOUNT"
        in subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True).stderr
    )
