"""`bq eval`: tables, plots and figures beside the files; what cannot be measured is refused in a line before any work."""

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bq.runtime import language
from bq.runtime.errors import BqError, Cancelled, UsageError
from bq.runtime.evaluation.figures import Figures, best_figures, figures_path
from bq.runtime.evaluation.request import Step
from bq.tui import measuring
from bq.tui.cli import cli
from bq.tui.commands import eval as eval_command
from bq.tui.measuring import Progress
from bq.tui.quality import Listed
from bq.tui.table import width

Convert = Callable[..., Path]
SMALL: dict[str, Any] = {"hidden": 64, "heads": 2, "ffn": 64}
QUICK = ("--ctx", 64, "--chunks", 2, "--threads", 1, "--gpu-layers", 0)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["eval", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture
def files(tmp_path: Path, converted: Convert) -> dict[str, Path]:
    """Three mixtures of one model, in a folder of this test's own."""
    found = {}
    for mixture in ("F32", "Q8_0", "Q4_K_M"):
        found[mixture] = tmp_path / f"b-{mixture}.gguf"
        found[mixture].write_bytes(converted("b2-7b", mixture, **SMALL).read_bytes())
    return found


def test_perplexity_of_a_file_is_printed_and_kept(files: dict[str, Path]) -> None:
    done = run(files["Q8_0"], *QUICK)
    head, row = done.stdout.splitlines()[:2]
    assert head.split() == ["FILE", "MIXTURE", "SIZE", "BITS", "PERPLEXITY"]
    kept = best_figures(files["Q8_0"])
    assert kept is not None
    assert row.split()[:2] == ["b-Q8_0.gguf", "Q8_0"]
    assert f"{kept.perplexity:,.0f} ± {kept.perplexity_error:,.0f}" in row
    assert (kept.text, kept.tokens, kept.context, kept.against) == ("bundled", 62, 64, "")
    assert "Text: bundled, 62 tokens scored in chunks of 64." in done.stdout


def test_several_files_are_compared_with_a_reference(files: dict[str, Path], tmp_path: Path) -> None:
    svg = tmp_path / "p.svg"
    done = run(files["Q8_0"], files["Q4_K_M"], "--against", files["F32"], "--plot", svg, *QUICK)
    lines = done.stdout.splitlines()
    assert lines[0].split()[-1] == "KL"
    assert [line.split()[0] for line in lines[1:3]] == ["b-Q4_K_M.gguf", "b-Q8_0.gguf"]  # the smallest first
    assert "Reference: b-F32.gguf" in done.stdout
    assert "KL divergence\n" in done.stdout
    assert max(map(width, lines)) <= 80
    labels = {element.text for element in ElementTree.fromstring(svg.read_text(encoding="utf-8")).iter()}
    assert {"Q8_0", "Q4_K_M"} <= labels
    coarse, fine = best_figures(files["Q4_K_M"]), best_figures(files["Q8_0"])
    assert coarse is not None
    assert fine is not None
    assert (coarse.kl_mean or 0) > (fine.kl_mean or 1) > 0
    assert not figures_path(files["F32"]).exists()


def test_json_has_every_figure_and_nothing_is_kept_on_request(files: dict[str, Path]) -> None:
    done = run(files["Q8_0"], "--against", files["F32"], "--json", "--no-store", *QUICK)
    (found,) = json.loads(done.stdout)
    assert (found["mixture"], found["size_bytes"]) == ("Q8_0", files["Q8_0"].stat().st_size)
    assert found["figures"]["kl_mean"] > 0
    assert found["figures"]["against"] == "b-F32.gguf"
    assert not figures_path(files["Q8_0"]).exists()


def test_a_checkpoint_is_the_same_reference_as_its_exact_file(files: dict[str, Path], converted: Convert) -> None:
    checkpoint = converted("b2-7b", "F32", **SMALL).parent / "checkpoint"
    by_file = json.loads(run(files["Q4_K_M"], "--against", files["F32"], "--json", *QUICK).stdout)[0]["figures"]
    by_checkpoint = json.loads(run(files["Q4_K_M"], "--against", checkpoint, "--json", *QUICK).stdout)[0]["figures"]
    assert by_checkpoint["kl_mean"] == pytest.approx(by_file["kl_mean"], rel=0.02)
    assert by_checkpoint["perplexity_change"] == pytest.approx(by_file["perplexity_change"], rel=2e-3)
    assert by_checkpoint["against"] == "checkpoint"


def test_kept_log_probabilities_serve_as_the_reference(files: dict[str, Path], tmp_path: Path) -> None:
    kept = tmp_path / "kept.logits"
    first = json.loads(run(files["Q8_0"], "--against", files["F32"], "--save-logits", kept, "--json", *QUICK).stdout)
    again = json.loads(run(files["Q8_0"], "--against", kept, "--json", "--threads", 1).stdout)
    assert again[0]["figures"]["kl_mean"] == first[0]["figures"]["kl_mean"]
    assert again[0]["figures"]["against"] == "kept.logits"


def test_an_interrupted_run_says_how_to_go_on(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Step] = []

    def stop(self: Progress, step: Step) -> None:
        self.last = step
        told.append(step)
        if len(told) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(measuring.Progress, "step", stop)
    with pytest.raises(Cancelled, match=r"after chunk 1 of 2 of b-Q8_0\.gguf\. The same command goes on"):
        run(files["Q8_0"], *QUICK)
    run(files["Q8_0"], *QUICK)
    assert [step.done for step in told] == [1, 2]


def test_a_folder_that_keeps_no_figures_is_told_and_no_failure(files: dict[str, Path]) -> None:
    blocked = figures_path(files["Q8_0"])
    blocked.with_name(blocked.name + ".part").mkdir()
    done = run(files["Q8_0"], *QUICK)
    assert done.exit_code == 0
    assert "cannot be written" in done.stderr
    assert "b-Q8_0.gguf" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--plot", "p.svg"), "--plot goes with --against"),
        (("--against", "{F32}", "--plot", "{Q4_K_M}"), "does not end in .svg"),
        (("--save-logits", "x"), "--save-logits goes with --against"),
        (("--against", "{F32}", "--save-logits", "none/x"), "no folder"),
        (("--against", "{none}"), "no file"),
        (("--against", "{folder}"), "config.json is missing"),
        (("--text", "{none}"), "no file"),
        (("--text", "{binary}"), "no UTF-8 text: byte 1"),
        (("--text", "{short}"), "tokens; a context of 512 needs 1,024 or more"),
        (("--ctx", "5000"), "has a context of 4096 tokens"),
        (("{none}",), "no file"),
        (("{folder}",), "is a folder"),
        (("{short}",), "is no whole GGUF file"),
    ],
)
def test_a_wrong_use_is_refused_in_a_line(
    files: dict[str, Path], tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "short").write_text("hello")
    names = {name: tmp_path / name for name in ("none", "binary", "short")} | files | {"folder": tmp_path}
    with pytest.raises(BqError) as caught:
        run(files["Q8_0"], *(one.format(**names) for one in arguments))
    assert says in str(caught.value)
    assert not figures_path(files["Q8_0"]).exists()


def test_log_probabilities_fix_the_context(files: dict[str, Path], tmp_path: Path) -> None:
    kept = tmp_path / "kept.logits"
    run(files["Q8_0"], "--against", files["F32"], "--save-logits", kept, *QUICK)
    with pytest.raises(UsageError, match="chunks of 64 tokens, not 128"):
        run(files["Q8_0"], "--against", kept, "--ctx", 128)
    with pytest.raises(UsageError, match="already holds"):
        run(files["Q8_0"], "--against", kept, "--save-logits", tmp_path / "other")
    with pytest.raises(UsageError, match="exists already"):
        run(files["Q8_0"], "--against", files["F32"], "--save-logits", kept, *QUICK)


def test_the_progress_line_has_the_time_left_of_all_passes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(float(second) for second in range(100))
    monkeypatch.setattr("bq.tui.progress.time.monotonic", lambda: next(clock))
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    progress = Progress(2)
    progress.loading("x" * 60 + ".gguf", 0.5)
    progress.step(Step("x" * 60 + ".gguf", 1, 4, 8.25, None, is_reference=True))
    progress.step(Step("b.gguf", 1, 4, 8.5, 0.0125))
    shown = capsys.readouterr().err.split("\r\x1b[K")
    assert shown[-1].startswith("2/2  b.gguf  1/4  perplexity 8.500  KL 0.0125  0:")
    assert shown[-2].startswith("1/2  xxx")
    assert max(map(width, shown)) < 80


def test_files_of_one_mixture_are_told_apart_by_their_names_in_a_plot(tmp_path: Path) -> None:
    figures = Figures(8.2, 0.05, 100, 512, "bundled", "ab", against="x", kl_mean=0.01)
    files = [
        Listed(tmp_path / f"{name}.gguf", mixture=mixture, size_bytes=size, figures=figures)
        for name, mixture, size in (("plain", "Q4_K_M", 2), ("better\x1b", "Q4_K_M", 3), ("other", "Q8_0", 1))
    ]
    assert [point.label for point in eval_command._points(files)] == ["Q8_0", "plain", "better"]


def test_the_time_left_beside_a_checkpoint_counts_all_passes_through_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its blocks are read, each told as loading, and then the chunks of that pass are done at once."""
    now = iter((0.0, 0.0, 10.0, 20.0, 20.0, 20.0))
    monkeypatch.setattr("bq.tui.progress.Redrawn.draw", lambda self, describe, is_last=False: print(describe(0)))
    monkeypatch.setattr("bq.tui.measuring.time.monotonic", lambda: next(now))
    progress = Progress(1)
    for part in (0.1, 0.5, 1.0):
        progress.loading("checkpoint", part)
    now = iter((20.0,) * 2)
    for done in (1, 2):
        progress.step(Step("checkpoint", done, 4, 8.0, None, is_reference=True))
    assert capsys.readouterr().out.splitlines()[-1].endswith("2/4  perplexity 8.000  0:20 left")


def test_chinese(files: dict[str, Path]) -> None:
    language.set_language("zh")
    text = run(files["Q8_0"], files["Q4_K_M"], "--against", files["F32"], "--no-store", *QUICK).stdout
    for words in ("文件", "困惑度之比", "文本：bundled", "KL 散度"):
        assert words in text
    assert max(map(width, text.splitlines())) <= 80
