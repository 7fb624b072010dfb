"""What is asked of an evaluation, and who hears how it goes: plain data, quick to import."""

from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from bq.runtime.values import LoadOptions


@dataclass(frozen=True)
class Text:
    """What is measured on. `name` is what the figures record."""

    name: str
    content: str

    @property
    def sha256(self) -> str:
        return sha256(self.content.encode("utf-8", "replace")).hexdigest()


@dataclass(frozen=True)
class Wish:
    """How to measure. `folder` is for journals and temporary files; `save_logits` keeps the reference's log probabilities."""

    text: Text
    folder: Path
    context: int | None = None
    chunks: int | None = None
    save_logits: Path | None = None
    options: LoadOptions = field(default_factory=LoadOptions)


@dataclass(frozen=True)
class Step:
    """Where the work is: chunks of a file that are done, and what they say so far."""

    name: str
    done: int
    total: int
    perplexity: float
    divergence: float | None
    is_reference: bool = False


class Watcher(Protocol):
    """Who hears how the work goes on."""

    def loading(self, name: str, part: float) -> None:
        """A model is being loaded, or a checkpoint read."""

    def step(self, step: Step) -> None:
        """A chunk is done."""

    def note(self, text: str) -> None:
        """Something that the reader of the figures should know."""
