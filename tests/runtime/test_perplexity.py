"""Perplexity and KL divergence are those that llama.cpp's raw logits give, also after an interruption.

The oracle takes the logits of whole chunks from llama.cpp and computes by the textbook, in double precision.
"""

import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bq.runtime.errors import BqError, UsageError
from bq.runtime.evaluation import comparison, perplexity
from bq.runtime.evaluation.candidate import Candidate, open_candidate
from bq.runtime.evaluation.decoder import open_decoder
from bq.runtime.evaluation.evaluate import evaluate
from bq.runtime.evaluation.figures import Figures
from bq.runtime.evaluation.logits_file import open_logits
from bq.runtime.evaluation.request import Step, Text, Wish
from bq.runtime.evaluation.score import Scores
from bq.runtime.values import LoadOptions

Convert = Callable[..., Path]
F64 = npt.NDArray[np.float64]
CONTEXT, CHUNKS = 64, 4
ON_CPU = LoadOptions(threads=1, gpu_layers=0, kv="f16")
TEXT = Text("mine.txt", "".join(f"{i} 个模型 says {i * i}，then it stops. " for i in range(40)) + "\n")


class Quiet:
    """A watcher that keeps what it hears, and interrupts the work after so many chunks."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.steps: list[Step] = []
        self.notes: list[str] = []
        self._stop_after = stop_after

    def loading(self, name: str, part: float) -> None:
        """Nothing is shown."""

    def step(self, step: Step) -> None:
        """Interrupted like by Ctrl+C."""
        self.steps.append(step)
        if len(self.steps) == self._stop_after:
            raise KeyboardInterrupt

    def note(self, text: str) -> None:
        """Nothing is shown."""
        self.notes.append(text)


@pytest.fixture(scope="session")
def pair(converted: Convert) -> tuple[Path, Path]:
    """A model and a coarse form of it."""
    shape = {"hidden": 64, "heads": 2, "ffn": 64}
    return converted("b2-7b", "F32", **shape), converted("b2-7b", "Q4_K_M", **shape)


@pytest.fixture(scope="session")
def whole(pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Figures], bytes]:
    """The figures of both files of the pair against the first, found without interruption, and what was kept meanwhile."""
    folder = tmp_path_factory.mktemp("whole")
    wish = Wish(TEXT, folder, CONTEXT, CHUNKS, folder / "base.logits", ON_CPU)
    return run(wish, pair, pair[0]), (folder / "base.logits").read_bytes()


@pytest.fixture
def wish(tmp_path: Path) -> Wish:
    return Wish(TEXT, tmp_path / "eval", CONTEXT, CHUNKS, options=ON_CPU)


def run(wish: Wish, files: Sequence[Path], against: Path | None = None, watcher: Quiet | None = None) -> list[Figures]:
    watcher = watcher or Quiet()
    candidates = [open_candidate(path, wish.text) for path in files]
    if against is None:
        chosen = comparison.alone(candidates, wish, watcher)
    elif against.suffix == ".gguf":
        chosen = comparison.with_file(candidates, open_candidate(against, wish.text), wish, watcher)
    else:
        with open_logits(against) as logits:
            chosen = comparison.with_logits(candidates, logits, wish, False, watcher)
            return found(chosen, watcher)
    return found(chosen, watcher)


def found(chosen: comparison.Comparison, watcher: Quiet) -> list[Figures]:
    """The figures without their date."""
    return [replace(figures, measured="") for _, figures in evaluate(chosen, watcher)]


def log_probabilities(path: Path, chunks: Sequence[Sequence[int]]) -> list[F64]:
    """What a file says of each next token of some chunks, from llama.cpp's logits, [positions, vocabulary]."""
    with open_decoder(path, CONTEXT, 0, ON_CPU) as decoder:
        rows = [np.concatenate([part.astype(np.float64) for _, part in decoder.logits(chunk)]) for chunk in chunks]
    return [row - np.log(np.exp(row).sum(axis=1, keepdims=True)) for row in rows]


def expected(path: Path, base: Path | None = None) -> dict[str, Any]:
    """All figures by the textbook."""
    ids = open_candidate(path, TEXT).ids
    chunks = [ids[start : start + CONTEXT] for start in range(0, CHUNKS * CONTEXT, CONTEXT)]
    both = log_probabilities(path, chunks), log_probabilities(base or path, chunks)
    nll, base_nll, divergences, same = [], [], [], []
    for chunk, ours, theirs in zip(chunks, *both, strict=True):
        for position in range(CONTEXT // 2, CONTEXT - 1):
            q, p = ours[position], theirs[position]
            nll.append(-q[chunk[position + 1]])
            base_nll.append(-p[chunk[position + 1]])
            divergences.append(float((np.exp(p) * (p - q)).sum()))
            same.append(q.argmax() == p.argmax())
    count = len(nll)
    differences = np.array(nll) - np.array(base_nll)
    found = {
        "tokens": count,
        "perplexity": math.exp(np.mean(nll)),
        "perplexity_error": math.exp(np.mean(nll)) * np.std(nll) / math.sqrt(count - 1),
    }
    if base:
        found |= {
            "kl_mean": np.mean(divergences),
            "kl_mean_error": np.std(divergences) / math.sqrt(count - 1),
            "kl_median": np.median(divergences),
            "kl_p99": np.quantile(divergences, 0.99),
            "kl_max": max(divergences),
            "top1": np.mean(same),
            "perplexity_change": math.exp(np.mean(differences)),
            "perplexity_change_error": math.exp(np.mean(differences)) * np.std(differences) / math.sqrt(count - 1),
        }
    return found


def test_perplexity_is_that_of_the_raw_logits(pair: tuple[Path, Path], wish: Wish) -> None:
    (figures,) = run(wish, [pair[1]])
    for name, value in expected(pair[1]).items():
        assert getattr(figures, name) == pytest.approx(value, rel=1e-6), name
    assert (figures.context, figures.text, figures.text_sha256) == (CONTEXT, "mine.txt", TEXT.sha256)
    assert (figures.against, figures.kl_mean, figures.perplexity_change) == ("", None, None)


def test_the_divergence_is_that_of_the_raw_logits(pair: tuple[Path, Path], wish: Wish) -> None:
    watcher = Quiet()
    (figures,) = run(wish, [pair[1]], pair[0], watcher)
    for name, value in expected(pair[1], pair[0]).items():
        assert getattr(figures, name) == pytest.approx(value, abs=1e-4, rel=1e-4), name
    assert figures.kl_mean is not None
    assert figures.kl_mean > 1e-3
    assert figures.against == pair[0].name
    assert not watcher.notes
    assert watcher.steps[-1].perplexity == pytest.approx(figures.perplexity)
    assert watcher.steps[-1].divergence == pytest.approx(figures.kl_mean)


def test_a_file_beside_itself_diverges_by_the_rounding_alone(whole: tuple[list[Figures], bytes]) -> None:
    figures = whole[0][0]
    assert figures.kl_mean == pytest.approx(0, abs=1e-5)
    assert figures.kl_max == pytest.approx(0, abs=1.3e-4)
    assert (figures.top1, figures.perplexity_change) == (1.0, 1.0)


def test_kept_log_probabilities_give_the_same_figures(
    pair: tuple[Path, Path], whole: tuple[list[Figures], bytes], wish: Wish, tmp_path: Path
) -> None:
    kept = tmp_path / "base.logits"
    kept.write_bytes(whole[1])
    first, watcher = whole[0][1], Quiet()
    (again,) = run(replace(wish, context=None, chunks=None), [pair[1]], kept, watcher)
    assert [step.is_reference for step in watcher.steps] == [False] * CHUNKS
    assert (again.text, again.text_sha256, again.against) == ("mine.txt", TEXT.sha256, "base.logits")
    assert (again.kl_mean, again.top1) == (first.kl_mean, first.top1)
    assert again.perplexity_change == pytest.approx(first.perplexity_change, rel=1e-4)
    (fewer,) = run(replace(wish, context=None, chunks=2), [pair[1]], kept)
    assert fewer.tokens == 2 * 31


def test_log_probabilities_of_another_text_say_so(pair: tuple[Path, Path], wish: Wish, tmp_path: Path) -> None:
    kept = tmp_path / "base.logits"
    wish = replace(wish, chunks=2)
    run(replace(wish, save_logits=kept, text=Text("other", TEXT.content[30:])), [pair[1]], pair[0])
    (figures,) = run(wish, [pair[1]], kept)
    assert figures.text == "base.logits"
    candidates = [open_candidate(pair[1], TEXT)]
    with open_logits(kept) as logits, pytest.raises(UsageError, match="another text"):
        comparison.with_logits(candidates, logits, wish, True, Quiet())


@pytest.mark.parametrize("stop_after", [2, CHUNKS + 3, 2 * CHUNKS + 1])
def test_an_interrupted_run_goes_on_and_finds_the_same(
    pair: tuple[Path, Path], whole: tuple[list[Figures], bytes], wish: Wish, tmp_path: Path, stop_after: int
) -> None:
    wish = replace(wish, save_logits=tmp_path / "base.logits")
    first, second = Quiet(stop_after), Quiet()
    with pytest.raises(KeyboardInterrupt):
        run(wish, pair, pair[0], first)
    assert run(wish, pair, pair[0], second) == whole[0]
    assert len(first.steps) + len(second.steps) == 3 * CHUNKS
    assert (tmp_path / "base.logits").read_bytes() == whole[1]
    assert [path.name for path in tmp_path.rglob("*") if path.suffix in (".part", ".lock", ".journal")] == []


def test_without_a_kept_file_only_the_missing_chunks_of_the_reference_are_made_again(
    pair: tuple[Path, Path], whole: tuple[list[Figures], bytes], wish: Wish
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(wish, [pair[1]], pair[0], Quiet(CHUNKS + 2))
    assert [path.suffix for path in wish.folder.iterdir()] == [".journal"]
    second = Quiet()
    assert run(wish, [pair[1]], pair[0], second) == whole[0][1:]
    assert [(step.is_reference, step.done) for step in second.steps] == [(True, 3), (True, 4), (False, 3), (False, 4)]


def test_a_torn_or_changed_journal_costs_no_more_than_its_chunks(
    pair: tuple[Path, Path], whole: tuple[list[Figures], bytes], wish: Wish
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(wish, [pair[1]], watcher=Quiet(3))
    (journal,) = wish.folder.iterdir()
    lines = journal.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b"[", b"[1", 1)  # the second chunk, another number; then half a line of the fourth
    journal.write_bytes(b"".join(lines) + lines[1][:40])
    second = Quiet()
    (figures,) = run(wish, [pair[1]], watcher=second)
    assert figures.perplexity == whole[0][1].perplexity
    assert [step.done for step in second.steps] == [2, 3, 4]


def test_a_changed_part_of_kept_log_probabilities_is_made_again(
    pair: tuple[Path, Path], wish: Wish, tmp_path: Path
) -> None:
    wish = replace(wish, save_logits=tmp_path / "base.logits")
    with pytest.raises(KeyboardInterrupt):
        run(wish, [pair[1]], pair[0], Quiet(3))
    part = tmp_path / "base.logits.part"
    content = bytearray(part.read_bytes())
    content[-1] ^= 1
    part.write_bytes(content)
    second = Quiet()
    run(wish, [pair[1]], pair[0], second)
    assert next(step.done for step in second.steps) == 3


def test_another_text_context_or_reference_begins_anew(pair: tuple[Path, Path], wish: Wish) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(wish, [pair[1]], watcher=Quiet(2))
    others = [replace(wish, text=Text("mine.txt", TEXT.content + "more")), replace(wish, context=65)]
    for other in others:
        watcher = Quiet()
        run(replace(other, chunks=2), [pair[1]], watcher=watcher)
        assert watcher.steps[0].done == 1
    watcher = Quiet()
    with pytest.raises(KeyboardInterrupt):
        run(replace(wish, chunks=2), [pair[1]], pair[0], Quiet(3))
    run(replace(wish, chunks=2), [pair[1]], pair[1], watcher)
    assert [step.done for step in watcher.steps] == [1, 2, 1, 2]


def test_fewer_chunks_leave_a_longer_run_to_go_on_with(pair: tuple[Path, Path], wish: Wish) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(wish, [pair[1]], watcher=Quiet(3))
    assert run(replace(wish, chunks=2), [pair[1]])[0].tokens == 2 * 31
    watcher = Quiet()
    run(wish, [pair[1]], watcher=watcher)
    assert [step.done for step in watcher.steps] == [4]


def test_a_kept_file_that_is_there_already_is_not_touched(pair: tuple[Path, Path], wish: Wish, tmp_path: Path) -> None:
    (tmp_path / "base.logits").write_bytes(b"something else")
    with pytest.raises(UsageError, match="exists already"):
        run(replace(wish, save_logits=tmp_path / "base.logits"), [pair[1]], pair[0])
    assert (tmp_path / "base.logits").read_bytes() == b"something else"


def test_a_full_disk_is_told_before_anything_is_computed(
    pair: tuple[Path, Path], wish: Wish, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9, 10**6))
    watcher = Quiet()
    with pytest.raises(BqError, match=r"0\.00 GB free"):
        run(wish, [pair[1]], pair[0], watcher)
    assert not watcher.steps


def test_a_text_that_is_too_short_says_how_long_it_must_be(pair: tuple[Path, Path], wish: Wish) -> None:
    with pytest.raises(UsageError, match=r"has \d+ tokens; a context of 64 needs 128 or more"):
        run(replace(wish, text=Text("short", "hello")), [pair[1]])
    assert len(perplexity.cut(range(2 * CONTEXT), CONTEXT)) == 2
    assert len(perplexity.cut(range(3 * CONTEXT - 1), CONTEXT)) == 2


def test_the_last_line_break_of_a_text_is_no_part_of_it(pair: tuple[Path, Path]) -> None:
    ids = open_candidate(pair[0], TEXT).ids
    assert open_candidate(pair[0], Text("x", TEXT.content.removesuffix("\n"))).ids == ids
    assert open_candidate(pair[0], Text("x", TEXT.content + "\n")).ids != ids


def test_a_longer_chunk_than_the_models_context_is_refused(pair: tuple[Path, Path], wish: Wish) -> None:
    with pytest.raises(UsageError, match=r"has a context of 4096 tokens, not 5000"):
        run(replace(wish, context=5000), [pair[1]])


def test_another_vocabulary_is_refused_and_another_order_of_ids_told(
    pair: tuple[Path, Path], wish: Wish, converted: Convert
) -> None:
    other = converted("b2-7b", "F32", hidden=64, heads=2, ffn=64, vocab=768)
    with pytest.raises(UsageError, match="different vocabularies"):
        run(wish, [other], pair[0])
    first, second = (open_candidate(path, TEXT) for path in pair)
    watcher = Quiet()
    comparison.alone([first, Candidate(second.file, second.ids[1:])], wish, watcher)
    comparison.with_file([Candidate(second.file, second.ids[1:])], first, wish, watcher)
    assert ["cannot be compared" in note for note in watcher.notes] == [True, False]
    assert "other tokens" in watcher.notes[1]


def test_logits_that_are_no_numbers_are_a_clear_failure() -> None:
    def rows(chunks: Sequence[Any], first: int) -> Iterator[tuple[int, Any]]:
        bad = np.zeros((4, 5), np.float32)
        bad[1, 2] = math.nan
        yield 0, bad

    chunks = [np.zeros(8, np.int32)]
    with pytest.raises(BqError, match="no numbers"):
        list(perplexity.measure(rows, chunks))


def test_rows_may_come_in_any_parts() -> None:
    logits = np.random.default_rng(1).standard_normal((2, 4, 9)).astype(np.float32)
    chunks = [np.arange(8, dtype=np.int32), np.arange(8, dtype=np.int32)]

    def rows(sizes: Sequence[int]) -> perplexity.Rows:
        def parts(chunks: Sequence[Any], first: int) -> Iterator[tuple[int, Any]]:
            assert first == 4
            for index in range(len(chunks)):
                for part in np.split(logits[index], np.cumsum(sizes)[:-1]):
                    yield index, part

        return parts

    whole, parted = (list(perplexity.measure(rows(sizes), chunks)) for sizes in ([4], [1, 2, 1]))
    assert [one.nll.tolist() for one in whole] == [one.nll.tolist() for one in parted]
    assert all(len(one) == 3 for one in whole)


def test_scores_pass_through_a_journal_bit_by_bit() -> None:
    random = np.random.default_rng(2)
    count = 31
    scores = Scores(random.random(count), random.random(count), random.random(count), random.random(count) > 0.5)
    record = json.loads(json.dumps(perplexity.to_record(scores)))
    found = perplexity.from_record(record, CONTEXT, has_base=True)
    assert found is not None
    for name in ("nll", "base_nll", "divergence", "same_top"):
        assert getattr(found, name).tolist() == getattr(scores, name).tolist()
    for bad in (
        {**record, "nll": record["nll"][1:]},
        {**record, "divergence": None},
        {**record, "nll": ["x"] * count},
        {},
    ):
        assert perplexity.from_record(bad, CONTEXT, has_base=True) is None
