"""What `bq eval` needs beside the measuring itself: the reference that was named, and the line of its progress."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bq.runtime.errors import UsageError
from bq.runtime.language import say
from bq.tui.progress import Redrawn, bar, time_left
from bq.tui.user_files import path_named

if TYPE_CHECKING:
    from bq.convert.verify.forward import Forward
    from bq.runtime.evaluation.candidate import Candidate
    from bq.runtime.evaluation.comparison import Comparison
    from bq.runtime.evaluation.perplexity import Rows
    from bq.runtime.evaluation.reference import Reference
    from bq.runtime.evaluation.request import Step, Watcher, Wish

_TOKENS_OF_A_PASS = 8192  # through a checkpoint: their activations take some hundred MB of a 7B
_SHOWN = 28  # characters of a file's name in the progress line


@contextmanager
def compared(
    candidates: "Sequence[Candidate]", against: str | None, wish: "Wish", is_text_given: bool, watcher: "Watcher"
) -> "Iterator[Comparison]":
    """The files beside the reference that `against` names: a checkpoint, log probabilities, or another model file."""
    from bq.runtime.evaluation import comparison
    from bq.runtime.evaluation.candidate import open_candidate
    from bq.runtime.evaluation.logits_file import is_logits_file, open_logits

    if against is None:
        yield comparison.alone(candidates, wish, watcher)
        return
    path = path_named(against)
    if against == "demo" or path.is_dir():
        reference = checkpoint_reference(against, watcher)
        yield comparison.with_reference(candidates, reference, candidates[0].ids, wish, watcher)
    elif is_logits_file(path):
        if wish.save_logits is not None:
            raise UsageError(
                say(f"{path.name} already holds log probabilities.", f"{path.name} 已是对数概率文件。"),
                say("Leave out --save-logits.", "请去掉 --save-logits。"),
            )
        with open_logits(path) as logits:
            yield comparison.with_logits(candidates, logits, wish, is_text_given, watcher)
    else:
        yield comparison.with_file(candidates, open_candidate(path, wish.text), wish, watcher)


def checkpoint_reference(source: str, watcher: "Watcher") -> "Reference":
    """A checkpoint as the reference, by a forward pass of its own. Raises BqError for what cannot be converted."""
    from bq.convert.convert import find_source
    from bq.convert.verify.forward import open_forward
    from bq.runtime.evaluation.reference import Reference

    folder, known_as = find_source(source)
    forward = open_forward(folder)
    conversion = forward.conversion
    name = known_as or conversion.identity.name

    @contextmanager
    def rows() -> "Iterator[Rows]":
        yield _forward_rows(forward, lambda part: watcher.loading(name, part))

    files = [*conversion.checkpoint.files, folder / "config.json", conversion.vocabulary.model_path]
    marks = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    fingerprint = {"checkpoint": str(folder.resolve()), "files": marks}
    return Reference(name, fingerprint, forward.vocabulary, rows, conversion.vocabulary.pieces)


def _forward_rows(forward: "Forward", progress: Callable[[float], None]) -> "Rows":
    """As many chunks in each pass through the checkpoint as the memory takes well."""

    def rows(chunks: Sequence[Any], first: int) -> Iterator[tuple[int, Any]]:
        count = max(1, _TOKENS_OF_A_PASS // len(chunks[0]))
        for start in range(0, len(chunks), count):
            for index, _, part in forward.logits(chunks[start : start + count], first, progress):
                yield start + index, part

    return rows


class Progress(Redrawn):
    """The line of an evaluation, and its notes. `passes` are the models that are read, the reference among them."""

    def __init__(self, passes: int) -> None:
        super().__init__()
        self._passes = passes
        self._pass = 0
        self._current: tuple[str, bool] | None = None
        self._first, self._begun = 0, 0.0
        self._is_begun = False
        self.last: Step | None = None

    def loading(self, name: str, part: float) -> None:
        """A model is being loaded, or a checkpoint read."""
        if not self._is_begun:  # a checkpoint is read again and again in one pass
            self._is_begun, self._begun = True, time.monotonic()
        self.draw(lambda _: f"{bar(part)}  " + say(f"reading {_short(name)}", f"读取 {_short(name)}"))

    def step(self, step: "Step") -> None:
        """A chunk is done."""
        self.last = step
        if self._current != (step.name, step.is_reference):
            self._current, self._first = (step.name, step.is_reference), step.done - 1
            self._pass += 1
        self._is_begun = step.done < step.total
        self.draw(lambda _: self._describe(step), step.done == step.total)

    def note(self, text: str) -> None:
        """A line that stays."""
        import sys

        self.clear()
        print(text, file=sys.stderr)

    def _describe(self, step: "Step") -> str:
        each = (time.monotonic() - self._begun) / (step.done - self._first)
        left = each * (step.total - step.done + step.total * max(0, self._passes - self._pass))
        found = [say(f"perplexity {step.perplexity:.3f}", f"困惑度 {step.perplexity:.3f}")]
        if step.divergence is not None:
            found.append(f"KL {step.divergence:.4f}")
        return "  ".join(
            [f"{self._pass}/{self._passes}", _short(step.name), f"{step.done}/{step.total}", *found, time_left(left)]
        )


def _short(name: str) -> str:
    return name if len(name) <= _SHOWN else name[: _SHOWN - 1] + "…"
