"""Measures model files one after the other, alone or against a reference, and goes on where an interrupted run stopped.

Everything that can be refused is refused before the first model is loaded: hours are not spent for a misspelt name.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import numpy as np

from bq.runtime.evaluation.candidate import Candidate, open_rows
from bq.runtime.evaluation.comparison import Comparison
from bq.runtime.evaluation.figures import Figures, content_of
from bq.runtime.evaluation.journal import Journal, open_journal
from bq.runtime.evaluation.logits_file import LogitsFile
from bq.runtime.evaluation.perplexity import concatenate, figures_of, from_record, measure, to_record
from bq.runtime.evaluation.reference import Asked, Reference, saved_base, temporary_base
from bq.runtime.evaluation.request import Step, Watcher, Wish
from bq.runtime.evaluation.score import Ids, Scores, to_perplexity
from bq.runtime.session import runtime_fingerprint


@dataclass(frozen=True)
class _Job:
    """A file with its chunks, its journal, and what that holds of them already."""

    candidate: Candidate
    chunks: Sequence[Ids]
    journal: Journal
    found: list[Scores] = field(default_factory=list)


def evaluate(comparison: Comparison, watcher: Watcher) -> Iterator[tuple[Candidate, Figures]]:
    """The figures of each file when they are there. What was found is forgotten only when all is done."""
    wish, reference = comparison.wish, comparison.reference
    wish.folder.mkdir(parents=True, exist_ok=True)
    against = reference.name if reference is not None else ""
    with ExitStack() as stack:
        jobs = [
            stack.enter_context(_job(candidate, own, reference, wish))
            for candidate, own in zip(comparison.candidates, comparison.chunks, strict=True)
        ]
        base = stack.enter_context(_base(jobs, reference, wish, watcher)) if reference is not None else None
        for job in jobs:
            scores = _scores(job, base, wish, watcher)
            yield job.candidate, figures_of(scores, len(job.chunks[0]), wish.text.name, wish.text.sha256, against)
        for job in jobs:
            if len(job.journal.records) <= len(job.chunks):  # a run of fewer chunks leaves a longer one's alone
                job.journal.forget()


@contextmanager
def _job(
    candidate: Candidate, chunks: Sequence[Ids], reference: "Reference | LogitsFile | None", wish: Wish
) -> Iterator[_Job]:
    key = {
        "model": candidate.fingerprint,
        "reference": _fingerprint(reference),
        "text": wish.text.sha256,
        "tokens": _digest(chunks[:1]),
        "context": len(chunks[0]),
        "runtime": runtime_fingerprint(),
    }
    with open_journal(wish.folder, key) as journal:
        job = _Job(candidate, chunks, journal)
        for number, record in enumerate(journal.records):
            scores = from_record(record, len(chunks[0]), reference is not None)
            if scores is None:
                journal.keep(number)
                break
            job.found.append(scores)
        del job.found[len(chunks) :]
        yield job


def _fingerprint(reference: "Reference | LogitsFile | None") -> Any:
    if isinstance(reference, LogitsFile):
        return content_of(reference.path)
    return dict(reference.fingerprint) if reference is not None else None


def _digest(chunks: Sequence[Ids]) -> str:
    return sha256(b"".join(np.asarray(one, "<i4").tobytes() for one in chunks)).hexdigest()


@contextmanager
def _base(
    jobs: Sequence[_Job], reference: "Reference | LogitsFile", wish: Wish, watcher: Watcher
) -> Iterator[LogitsFile | None]:
    """The reference's log probabilities; None if all was measured already and no one wants to keep them."""
    if isinstance(reference, LogitsFile):
        yield reference
        return
    chunks, likelihood = jobs[0].chunks, _Running()

    def on_chunk(done: int, scores: Scores) -> None:
        likelihood.add(scores)
        watcher.step(likelihood.step(reference.name, done, len(chunks), has_base=False, is_reference=True))

    asked, start = Asked(reference, chunks, on_chunk), min(len(job.found) for job in jobs)
    if wish.save_logits is not None:
        with saved_base(asked, wish.save_logits, wish.folder) as base:
            yield base
    elif start < len(chunks):
        with temporary_base(asked, start, wish.folder) as base:
            yield base
    else:
        yield None


def _scores(job: _Job, base: LogitsFile | None, wish: Wish, watcher: Watcher) -> Scores:
    """All scores of a file: those of the journal, and those that are still to be measured."""
    total, running = len(job.chunks), _Running()
    for scores in job.found:
        running.add(scores)
    if len(job.found) < total:
        with open_rows(job.candidate, len(job.chunks[0]), wish, watcher) as rows:
            for scores in measure(rows, job.chunks, base, len(job.found)):
                job.journal.add(to_record(scores))
                job.found.append(scores)
                running.add(scores)
                watcher.step(running.step(job.candidate.path.name, len(job.found), total, base is not None))
    return concatenate(job.found)


class _Running:
    """What the chunks say so far."""

    def __init__(self) -> None:
        self._count, self._nll, self._divergence = 0, 0.0, 0.0

    def add(self, scores: Scores) -> None:
        """Count in one more chunk."""
        self._count += len(scores)
        self._nll += float(scores.nll.sum())
        self._divergence += 0.0 if scores.divergence is None else float(scores.divergence.sum())

    def step(self, name: str, done: int, total: int, has_base: bool, is_reference: bool = False) -> Step:
        """The state after so many chunks."""
        kl = self._divergence / self._count if has_base else None
        return Step(name, done, total, to_perplexity(self._nll / self._count), kl, is_reference)
