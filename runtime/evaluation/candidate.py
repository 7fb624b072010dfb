"""Model files as an evaluation takes them: checked, with the ids of the text, and of one vocabulary with their reference."""

from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bq.runtime.errors import UsageError
from bq.runtime.evaluation.decoder import open_decoder
from bq.runtime.evaluation.figures import content_of
from bq.runtime.evaluation.logits_file import LogitsFile, first_scored
from bq.runtime.evaluation.perplexity import Rows, decoder_rows
from bq.runtime.evaluation.reference import Reference
from bq.runtime.evaluation.request import Text, Watcher, Wish
from bq.runtime.gguf_file import GgufFile, read_gguf
from bq.runtime.known import describe_file
from bq.runtime.language import say
from bq.runtime.session import ModelSource
from bq.runtime.structure import check_structure
from bq.runtime.tokenizer import load_tokenizer

DEFAULT_CONTEXT = 512  # llama-perplexity's
_OTHER_PIECES = 0.01
_KV = "f16"  # what keys and values in q8_0 would cost is no property of the file


@dataclass(frozen=True)
class Candidate:
    """A checked model file, and the ids that its own vocabulary makes of the text."""

    file: GgufFile
    ids: Sequence[int]
    content: Mapping[str, Any] = field(default_factory=dict)  # of the file when it was opened, as content_of tells it

    @property
    def path(self) -> Path:
        return self.file.path

    @property
    def pieces(self) -> Sequence[str]:
        pieces: Sequence[str] = self.file.metadata["tokenizer.ggml.tokens"]
        return pieces

    @property
    def context(self) -> int:
        """The longest chunk."""
        return self.file.shape_count("context_length")

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        source = ModelSource.of(self.file, describe_file(self.file).name)
        return {"path": str(self.path.resolve()), **source.fingerprint()}


def open_candidate(path: Path, text: Text) -> Candidate:
    """Check a file and encode the text by its vocabulary. Raises BqError for one that llama.cpp could not run."""
    file = read_gguf(path)
    check_structure(file)
    with load_tokenizer(path) as tokenizer:
        ids = array("i", tokenizer.encode(text.content.removesuffix("\n")))  # as llama-perplexity reads a file
    return Candidate(file, ids, content_of(path))


@contextmanager
def open_rows(candidate: Candidate, context: int, wish: Wish, watcher: Watcher) -> Iterator[Rows]:
    """What the file's model says of chunks of a context; it is loaded meanwhile."""

    def progress(part: float) -> bool:
        watcher.loading(candidate.path.name, part)
        return True

    options = replace(wish.options, kv=_KV)
    with open_decoder(candidate.path, context, first_scored(context), options, progress) as decoder:
        yield decoder_rows(decoder)


def gguf_reference(candidate: Candidate, context: int, wish: Wish, watcher: Watcher) -> Reference:
    """A model file as the reference."""

    @contextmanager
    def rows() -> Iterator[Rows]:
        with open_rows(candidate, context, wish, watcher) as found:
            yield found

    return Reference(candidate.path.name, candidate.fingerprint, len(candidate.pieces), rows, candidate.pieces)


def choose_context(candidates: Sequence[Candidate], asked: int | None, given: int | None = None) -> int:
    """Tokens of a chunk: those of a file of log probabilities (`given`), else the ones asked for, else 512 or the model's.

    Raises UsageError for more than a model has.
    """
    if given is not None and asked not in (None, given):
        raise UsageError(
            say(
                f"The log probabilities have chunks of {given} tokens, not {asked}.",
                f"对数概率的块长为 {given}，而非 {asked}。",
            ),
            say("Leave out --ctx.", "请去掉 --ctx。"),
        )
    shortest = min(candidates, key=lambda one: one.context)
    context = given or asked or min(DEFAULT_CONTEXT, shortest.context)
    if context > shortest.context:
        raise UsageError(
            say(
                f"{shortest.path.name} has a context of {shortest.context} tokens, not {context}.",
                f"{shortest.path.name} 的上下文为 {shortest.context} 个词元，不足 {context}。",
            ),
            say("Give a smaller --ctx.", "请给出更小的 --ctx。"),
        )
    return context


def check_vocabulary(candidates: Sequence[Candidate], reference: "Reference | LogitsFile") -> None:
    """Raises UsageError where rows of the reference and of a file do not stand for the same pieces."""
    pieces = reference.pieces if isinstance(reference, Reference) else None
    for one in candidates:
        if len(one.pieces) != reference.vocabulary or (pieces is not None and not _are_alike(one.pieces, pieces)):
            raise UsageError(
                say(
                    f"{one.path.name} ({len(one.pieces):,} pieces) and {reference.name} ({reference.vocabulary:,}) "
                    "have different vocabularies.",
                    f"{one.path.name}（{len(one.pieces):,} 个词元）与 {reference.name}（{reference.vocabulary:,} 个）词表不同。",
                ),
                say("Compare files of one release.", "请比较同一发布的文件。"),
            )


def _are_alike(ours: Sequence[str], theirs: Sequence[str]) -> bool:
    """Whether next to all pieces are the same: programs write padding and pieces of spaces in forms of their own."""
    others = sum(our != their for our, their in zip(ours, theirs, strict=True))
    return others <= _OTHER_PIECES * len(ours)
