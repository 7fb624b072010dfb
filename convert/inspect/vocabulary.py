"""A vocabulary for looking at: how many pieces of each type with some of them, what the special ids mean, how texts are prepared.

It comes from a GGUF file's metadata or from a checkpoint's tokenizer, and looks the same.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bq.convert.vocabulary import TokenType, Vocabulary
from bq.runtime.gguf_file import GgufFile
from bq.runtime.known import roles_of
from bq.runtime.prompt_format import CHATML
from bq.runtime.structure import ARCHITECTURE
from bq.runtime.tokenizer import DUMMY_PREFIX_KEY

SAMPLES = 10  # of each type
_PREFIX = "tokenizer.ggml."
_SPECIAL = re.compile(re.escape(_PREFIX) + r"(\w+)_token_id")


@dataclass(frozen=True)
class PieceKind:
    """The pieces of one type: llama.cpp's name of it in small letters, how many, and some spread over all of them."""

    kind: str
    count: int
    samples: tuple[str, ...]


@dataclass(frozen=True)
class SpecialToken:
    """What an id is for ("bos", "user"), and the piece there; None if the vocabulary has no such id."""

    use: str
    id: int
    piece: str | None
    kind: str


@dataclass(frozen=True)
class VocabularyReport:
    """None stands for a flag that is not set. `add_dummy_prefix` is SentencePiece's own, which bq honours."""

    model: str
    size: int
    kinds: tuple[PieceKind, ...]
    special: tuple[SpecialToken, ...]
    add_space_prefix: bool | None
    add_bos: bool | None
    add_eos: bool | None
    add_dummy_prefix: bool | None
    padding: int | None
    added: int | None
    chat_template: str
    pieces: Sequence[str]
    types: Sequence[int]
    scores: Sequence[float]


def vocabulary_of_file(file: GgufFile) -> VocabularyReport | None:
    """The vocabulary in a file's metadata, None if there is none."""
    pieces = [one for one in _list(file, "tokens") if isinstance(one, str)]
    if not pieces:
        return None
    types = [one for one in _list(file, "token_type") if isinstance(one, int)]
    uses = {}
    for key, value in file.metadata.items():
        named = _SPECIAL.fullmatch(key)
        if named and isinstance(value, int):
            uses[named[1]] = value
    if file.text("general.architecture") == ARCHITECTURE:
        roles = roles_of(file)
        uses |= {"user": roles.user, "assistant": roles.assistant}
    return VocabularyReport(
        model=file.text(_PREFIX + "model"),
        size=len(pieces),
        kinds=_kinds(pieces, types),
        special=_special(uses, pieces, types),
        add_space_prefix=_flag(file, _PREFIX + "add_space_prefix"),
        add_bos=_flag(file, _PREFIX + "add_bos_token"),
        add_eos=_flag(file, _PREFIX + "add_eos_token"),
        add_dummy_prefix=_flag(file, DUMMY_PREFIX_KEY),
        padding=None,
        added=None,
        chat_template=file.text("tokenizer.chat_template"),
        pieces=pieces,
        types=types,
        scores=[one for one in _list(file, "scores") if isinstance(one, float)],
    )


def vocabulary_of_tokenizer(vocabulary: Vocabulary, roles: tuple[int, int] | None) -> VocabularyReport:
    """A checkpoint's vocabulary as its GGUF file would have it; `roles` None where they mean nothing."""
    numbers = {"bos": vocabulary.bos, "eos": vocabulary.eos, "unknown": vocabulary.unk, "padding": vocabulary.pad}
    uses = {use: number for use, number in numbers.items() if number >= 0}
    if roles is not None and vocabulary.prompt != CHATML:  # there a role is a word
        uses |= {"user": roles[0], "assistant": roles[1]}
    return VocabularyReport(
        model=vocabulary.model,
        size=len(vocabulary.pieces),
        kinds=_kinds(vocabulary.pieces, vocabulary.types),
        special=_special(uses, vocabulary.pieces, vocabulary.types),
        add_space_prefix=False,
        add_bos=False,
        add_eos=False,
        add_dummy_prefix=vocabulary.add_dummy_prefix if vocabulary.model == "llama" else None,
        padding=vocabulary.padding,
        added=vocabulary.added,
        chat_template=vocabulary.template,
        pieces=vocabulary.pieces,
        types=vocabulary.types,
        scores=vocabulary.scores if vocabulary.model == "llama" else (),
    )


def kind_name(number: int) -> str:
    """llama.cpp's name of a token type in small letters; the number itself where it has none."""
    return TokenType(number).name.lower() if number in TokenType.__members__.values() else str(number)


def _kinds(pieces: Sequence[str], types: Sequence[int]) -> tuple[PieceKind, ...]:
    places: dict[int, list[int]] = {}
    for place, kind in zip(range(len(pieces)), types, strict=False):
        places.setdefault(kind, []).append(place)
    most_first = sorted(places.items(), key=lambda item: -len(item[1]))
    return tuple(
        PieceKind(kind_name(kind), len(found), tuple(pieces[place] for place in _spread(found)))
        for kind, found in most_first
    )


def _spread(places: Sequence[int]) -> Iterable[int]:
    count = min(SAMPLES, len(places))
    return (places[i * len(places) // count] for i in range(count))


def _special(uses: Mapping[str, int], pieces: Sequence[str], types: Sequence[int]) -> tuple[SpecialToken, ...]:
    return tuple(_special_tokens(uses, pieces, types))


def _special_tokens(uses: Mapping[str, int], pieces: Sequence[str], types: Sequence[int]) -> Iterator[SpecialToken]:
    for use, number in uses.items():
        piece = pieces[number] if 0 <= number < len(pieces) else None
        yield SpecialToken(use, number, piece, kind_name(types[number]) if 0 <= number < len(types) else "")


def _list(file: GgufFile, name: str) -> list[object]:
    value = file.metadata.get(_PREFIX + name)
    return value if isinstance(value, list) else []


def _flag(file: GgufFile, key: str) -> bool | None:
    value = file.metadata.get(key)
    return value if isinstance(value, bool) else None
