"""`bq convert` where quality is chosen: types, kernels, effort, an importance matrix."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest

from bq.runtime.gguf_file import read_gguf
from tests.support.families import Shape, write_checkpoint

from .common import PATIENCE_SECONDS, Bq, failed


def test_rows_that_do_not_divide_are_told_with_a_mixture_that_serves_them_better(bq: Bq, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "m13-chat", Shape("b2-13b", hidden=256, heads=4, ffn=352))
    text = bq("convert", tmp_path / "m13-chat", "--dry-run").stdout
    assert "Q4_K_M: 20 × ffn_down has rows of 352, which do not divide by 256: Q8_0 in place of Q6_K (+" in text
    assert "Q4_K_M: 20 × ffn_down has rows of 352, which do not divide by 256: Q5_0 in place of Q4_K (+" in text
    assert "Q4_K_M: -q Q4_K_M_NL shares the bits out more evenly" in text
    plan = json.loads(bq("convert", tmp_path / "m13-chat", "--dry-run", "--json").stdout)
    assert [(one["wanted"], one["given"], one["tensors"]) for one in plan["fallbacks"]] == [
        ("Q6_K", "Q8_0", 20),
        ("Q4_K", "Q5_0", 20),
    ]
    assert all(one["more_bytes"] > 0 for one in plan["fallbacks"])
    done = bq("convert", tmp_path / "m13-chat", "-q", "q4_k_m_nl")
    assert done.stdout == "m13-chat-Q4_K_M_NL.gguf\n"
    assert "(m13-chat, Q4_K_M_NL)" in bq("doctor", "m13-chat-Q4_K_M_NL.gguf").stdout
    assert bq("run", "-m", "m13-chat-Q4_K_M_NL.gguf", "--max-tokens", 1, "--ctx", 256, "a").returncode == 0


def test_a_mixture_of_ours_that_changes_nothing_is_refused(bq: Bq) -> None:
    failed(bq("convert", "demo", "-q", "Q4_K_M_NL"), 2, "Q4_K_M_NL is the same as Q4_K_M", "-q Q4_K_M")


def test_an_effort_that_cannot_be_made_is_refused_before_the_work(bq: Bq) -> None:
    failed(bq("convert", "demo", "--effort", "high", "-q", "Q8_0", "--dry-run"), 2, "--effort high has no effect")
    failed(bq("convert", "demo", "--effort", "high", "--quantizer", "ggml"), 2, "have no --effort high")
    failed(bq("convert", "demo", "--effort", "high", "-q", "Q8_0"), 2, "--effort high has no effect on any type here")
    assert bq.files() == []


def test_the_kernels_are_named_when_they_work(bq: Bq) -> None:
    pytest.importorskip("numba", reason="numba (the extra `fast`) is not installed")
    done = bq("convert", "demo", "-q", "Q6_K", "--quantizer", "fast")
    assert "fast kernels for Q6_K" in done.stderr
    assert "their bytes are llama.cpp's" in done.stderr


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows that divide by 256, for types that need an importance matrix."""
    folder = tmp_path_factory.mktemp("wide") / "wide-chat"
    write_checkpoint(folder, Shape(hidden=256, heads=4, ffn=256))
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chunk of 512 tokens and some more."""
    path = tmp_path_factory.mktemp("text") / "mine.txt"
    path.write_text("你好，世界！What can it do? " * 40, encoding="utf-8")
    return path


def test_an_importance_matrix_is_gathered_on_the_way_and_its_file_removed(bq: Bq, wide: Path, text: Path) -> None:
    done = bq("convert", wide, "-q", "Q2_K_S", "--calibrate", "--text", text)
    assert (done.returncode, done.stdout) == (0, "wide-chat-Q2_K_S.gguf\n"), done.stderr
    assert bq.files() == ["wide-chat-Q2_K_S.gguf"]
    steps = [line for line in done.stderr.splitlines() if line.startswith("Step ")]
    assert [step[:12] for step in steps] == ["Step 1 of 3:", "Step 2 of 3:", "Step 3 of 3:"]
    assert "BF16 to gather from" in steps[0]
    keys = read_gguf(bq.folder / "wide-chat-Q2_K_S.gguf").metadata
    assert keys["quantize.imatrix.dataset"] == "mine.txt"
    assert keys["quantize.imatrix.entries_count"] == 7 * 32
    assert "quantize.imatrix.file" not in keys


def test_the_steps_one_by_one_give_the_same_file(bq: Bq, wide: Path, text: Path) -> None:
    assert bq("convert", wide, "-q", "Q3_K_S", "--calibrate", "--text", text, "-o", "at-once.gguf").returncode == 0
    assert bq("convert", wide, "-q", "BF16", "-o", "exact.gguf").returncode == 0
    assert bq("imatrix", "exact.gguf", "--text", text, "-o", "my.imatrix").returncode == 0
    done = bq("convert", wide, "-q", "Q3_K_S", "--imatrix", "my.imatrix", "-o", "steps.gguf")
    assert done.returncode == 0, done.stderr
    one, other = (read_gguf(bq.folder / name) for name in ("at-once.gguf", "steps.gguf"))
    assert other.metadata.pop("quantize.imatrix.file") == "my.imatrix"
    assert one.metadata == other.metadata
    for name, tensor in one.tensors.items():
        parts = [file.bytes[file.tensors[name].start :][: tensor.size_bytes] for file in (one, other)]
        assert np.array_equal(*parts), name


def test_what_calibration_cannot_use_is_told_before_the_work_and_nothing_is_left(
    bq: Bq, wide: Path, text: Path
) -> None:
    (bq.folder / "short.txt").write_text("你好", encoding="utf-8")
    call = ("convert", wide, "-q", "Q2_K_S", "--calibrate", "--text")
    failed(bq(*call, "none.txt"), 2, "There is no file none.txt")
    failed(bq(*call, "short.txt"), 2, "a chunk takes 512")
    (bq.folder / "wide-chat-Q2_K_S.gguf").write_bytes(b"mine")
    failed(bq(*call, text), 2, "wide-chat-Q2_K_S.gguf exists already")
    assert bq.files() == ["short.txt", "wide-chat-Q2_K_S.gguf"]


def test_a_calibration_that_is_stopped_leaves_nothing(bq: Bq, wide: Path, tmp_path: Path) -> None:
    long = tmp_path / "long.txt"
    long.write_text("你好，世界！What can it do? " * 4_000, encoding="utf-8")
    process = bq.start("convert", wide, "-q", "Q2_K_S", "--calibrate", "--text", long, "-o", "out.gguf")
    assert process.stderr is not None
    while "Step 2 of 3" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, out) == (130, ""), errors
    assert "Traceback" not in errors
    assert bq.files() == ["long.txt"]


def test_a_plan_of_types_is_followed_and_named(bq: Bq, small: Path) -> None:
    plan = {"format": "bq-types-1", "name": "mine", "base": "Q4_0", "types": {"blk.0.*": "Q8_0"}, "note": {}}
    (bq.folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    done = bq("convert", small, "--types", "plan.json")
    assert done.stdout == "mine-chat-mine.gguf\n", done.stderr
    kinds = {name: one.kind.name for name, one in read_gguf(bq.folder / "mine-chat-mine.gguf").tensors.items()}
    assert (kinds["blk.0.attn_q.weight"], kinds["blk.1.attn_q.weight"]) == ("Q8_0", "Q4_0")
    told = json.loads(bq("convert", small, "--types", "plan.json", "--dry-run", "--json").stdout)
    assert (told["mixture"], told["base"], told["importance"]) == ("mine", "Q4_0", False)
    failed(bq("convert", small, "--types", "plan.json", "-q", "Q8_0"), 2, "-q and --types do not go together")
    (bq.folder / "plan.json").write_text(json.dumps(plan | {"types": {"blk.77.*": "Q8_0"}}), encoding="utf-8")
    failed(bq("convert", small, "--types", "plan.json"), 1, "blk.77.* matches no matrix")


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["-q", "IQ2_M"], 2, "no use without an importance matrix"),
        (["--imatrix", "none"], 2, "There is no file none"),
        (["--imatrix", "a", "--calibrate"], 2, "--imatrix and --calibrate do not go together"),
        (["--text", "a"], 2, "--text goes with --calibrate"),
        (["--types", "none.json"], 2, "There is no file none.json"),
    ],
)
def test_options_of_quality_that_cannot_work_are_refused(
    arguments: list[str], status: int, says: str, bq: Bq, wide: Path
) -> None:
    failed(bq("convert", wide, *arguments), status, says)
    assert bq.files() == []
