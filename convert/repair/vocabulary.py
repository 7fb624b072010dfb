"""The vocabulary that a file should have: from its tokenizer.model, or from the layout that both generations share.

`<unk>`, `<s>`, `</s>`; user-defined pieces, all of score 0, from 3 up to the first byte piece; the 256 byte pieces in
order; ordinary pieces; padding. Baichuan 1 has its user-defined pieces at 3 to 392, Baichuan 2 at 3 to 1088. Old
converters lost which ones they are, but neither ids nor names nor scores. A vocabulary is known by the names of its role
pieces; what does not have this layout is not guessed at.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from bq.convert.norm_head import BAICHUAN_1_VOCAB, BAICHUAN_2_VOCAB
from bq.convert.vocabulary import TokenType, Vocabulary, read_vocabulary
from bq.runtime.errors import BqError, UsageError
from bq.runtime.gguf_file import GgufFile
from bq.runtime.known import generation_of, roles_of
from bq.runtime.language import Both, say
from bq.runtime.releases import role_generation
from bq.runtime.tokenizer import EXTRA_WHITESPACE_KEY

TOKENS, SCORES, TYPES = (f"tokenizer.ggml.{name}" for name in ("tokens", "scores", "token_type"))
_FIRST = ("<unk>", "<s>", "</s>")
_FIRST_TYPES = (TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL)
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_PADDING = re.compile(r"\[PAD\d+\]|<dummy\d+>")  # what llama.cpp's converters call rows that no piece stands for
_SPACE = "\u2581"
_USED = (TokenType.USER_DEFINED, TokenType.CONTROL)
# Of each generation's releases: how many pieces, and the id of the first byte piece.
_RELEASED: Mapping[int, tuple[int, int]] = {1: (BAICHUAN_1_VOCAB, 393), 2: (BAICHUAN_2_VOCAB, 1089)}


@dataclass(frozen=True)
class RightVocabulary:
    """What the file's vocabulary should be, by which `source`; pieces from `first_added` on are not the release's."""

    vocabulary: Vocabulary
    generation: int
    source: Both
    first_added: int


def right_vocabulary(file: GgufFile, tokenizer: Path | None) -> RightVocabulary:
    """By the user's tokenizer.model if there is one, else by the layout. Raises BqError or UsageError for one unknown."""
    if tokenizer is not None:
        return _by_tokenizer(file, tokenizer)
    pieces, roles = file.metadata[TOKENS], role_ids(file)
    user, assistant = roles
    named = role_generation(pieces[user], pieces[assistant]) if max(roles) < len(pieces) else None
    first_byte = _first_byte(file, named) if named else None
    if named and first_byte:
        return _by_layout(file, named, first_byte)
    if file.text("bq.variant") and (own := generation_of(file)):
        source = Both("the file itself", "文件自身")
        return RightVocabulary(
            _vocabulary(file, _with_roles(file, file.metadata[TYPES]), own), own, source, len(pieces)
        )
    raise UsageError(
        say(
            f"{file.path.name} has a vocabulary that bq does not know: {len(pieces):,} pieces, {_shown(file)} at the role "
            f"ids {user} and {assistant}.",
            f"bq 不认识 {file.path.name} 的词表：{len(pieces):,} 个词元，角色 id {user} 与 {assistant} 处为 {_shown(file)}。",
        ),
        say(
            "Give the tokenizer of its checkpoint: --tokenizer tokenizer.model",
            "请给出其检查点的分词器：--tokenizer tokenizer.model",
        ),
    )


def role_ids(file: GgufFile) -> tuple[int, int]:
    """The ids of the user's and the assistant's role."""
    roles = roles_of(file)
    return roles.user, roles.assistant


def _shown(file: GgufFile) -> str:
    pieces = file.metadata[TOKENS]
    return ", ".join(repr(pieces[role][:40]) if role < len(pieces) else "-" for role in role_ids(file))


# By the layout.


def _first_byte(file: GgufFile, generation: int) -> int | None:
    """The id of `<0x00>`, if everything is where the layout has it."""
    pieces, scores, types = (file.metadata[key] for key in (TOKENS, SCORES, TYPES))
    first = pieces.index(_BYTES[0]) if _BYTES[0] in pieces else 0
    size, expected = _RELEASED[generation]
    is_placed = first == expected if len(pieces) >= size else first > max(role_ids(file))
    is_whole = tuple(pieces[:3]) == _FIRST and pieces[first : first + 256] == _BYTES
    # A piece that is already typed may be a fine-tune's, of a score of its own.
    is_scored = all(scores[i] == 0 or types[i] in _USED for i in range(3, first))
    return first if is_placed and is_whole and is_scored else None


def _by_layout(file: GgufFile, generation: int, first_byte: int) -> RightVocabulary:
    types = [*_FIRST_TYPES, *file.metadata[TYPES][3:]]
    for i in range(3, first_byte):
        types[i] = types[i] if types[i] in _USED else TokenType.USER_DEFINED
    types[first_byte : first_byte + 256] = [TokenType.BYTE] * 256
    _type_padding(file, types, first_byte + 256)
    size = _RELEASED[generation][0]
    first_added = next(
        (i for i in range(first_byte + 256, len(types)) if i >= size or types[i] in (*_USED, TokenType.UNUSED)),
        len(types),
    )
    source = Both(
        f"the layout of Baichuan {generation} (user-defined: ids 3 to {first_byte - 1})",
        f"Baichuan {generation} 的词表布局（用户自定义：id 3 至 {first_byte - 1}）",
    )
    vocabulary = _vocabulary(file, _with_roles(file, types), generation, first_added)
    return RightVocabulary(vocabulary, generation, source, first_added)


def _type_padding(file: GgufFile, types: list[int], start: int) -> None:
    pieces = file.metadata[TOKENS]
    for i in range(start, len(types)):
        if _PADDING.fullmatch(pieces[i]):
            types[i] = TokenType.UNUSED


def _with_roles(file: GgufFile, types: list[int]) -> list[int]:
    roles = role_ids(file)
    return [TokenType.CONTROL if i in roles else kind for i, kind in enumerate(types)]


def _vocabulary(file: GgufFile, types: list[int], generation: int, first_added: int = 0) -> Vocabulary:
    pieces = file.metadata[TOKENS]
    unused = sum(kind == TokenType.UNUSED for kind in types[first_added:])
    plain = Vocabulary(
        # llama.cpp looks for user-defined pieces in the raw text, where a space is a space
        pieces=tuple(one.replace(_SPACE, " ") if types[i] in _USED else one for i, one in enumerate(pieces)),
        scores=tuple(file.metadata[SCORES]),
        types=tuple(types),
        unk=0,
        bos=1,
        eos=2,
        pad=0,
        add_dummy_prefix=generation == 1,
        remove_extra_whitespaces=file.flag(EXTRA_WHITESPACE_KEY, False),
        padding=unused,
        added=len(types) - first_added - unused if first_added else 0,
        model_path=file.path,
    )
    return _with_own_ids(file, plain, first_added)


def _with_own_ids(file: GgufFile, vocabulary: Vocabulary, first_added: int) -> Vocabulary:
    """A fine-tune's added token that ends answers, or has another such office, keeps it."""

    def own(name: str, released: int) -> int:
        number = file.count(f"tokenizer.ggml.{name}_token_id", released)
        return number if first_added <= number < len(vocabulary.pieces) else released

    eos = own("eos", vocabulary.eos)
    return replace(
        vocabulary,
        types=tuple(TokenType.CONTROL if i == eos else kind for i, kind in enumerate(vocabulary.types)),
        unk=own("unknown", vocabulary.unk),
        bos=own("bos", vocabulary.bos),
        eos=eos,
        pad=own("padding", vocabulary.pad),
    )


# By tokenizer.model.


def _by_tokenizer(file: GgufFile, tokenizer: Path) -> RightVocabulary:
    folder = tokenizer if tokenizer.is_dir() else tokenizer.parent
    if not tokenizer.is_dir() and tokenizer.name != "tokenizer.model":
        raise UsageError(
            say(f"{tokenizer} is no tokenizer.model.", f"{tokenizer} 不是 tokenizer.model。"),
            say("Give the file of that name, or its folder.", "请给出该名称的文件，或其所在文件夹。"),
        )
    pieces = file.metadata[TOKENS]
    read = read_vocabulary(folder, len(pieces), role_ids(file))
    own = len(pieces) - read.padding - read.added  # the tokenizer's; those behind are a fine-tune's or padding
    _check_pieces(file, read, own)
    kept = [i for i in range(own, len(pieces)) if read.types[i] == TokenType.UNUSED]
    names, scores, types = list(read.pieces), list(read.scores), list(read.types)
    for i in kept:
        names[i], scores[i], types[i] = pieces[i], file.metadata[SCORES][i], file.metadata[TYPES][i]
    _type_padding(file, types, own)
    added = sum(types[i] != TokenType.UNUSED for i in range(own, len(pieces)))
    right = replace(
        read,
        pieces=tuple(names),
        scores=tuple(scores),
        types=tuple(types),
        added=added,
        padding=len(pieces) - own - added,
    )
    generation = read.role_generation() or generation_of(file) or (1 if read.add_dummy_prefix else 2)
    source = Both("tokenizer.model", "tokenizer.model")
    return RightVocabulary(_with_own_ids(file, right, own), generation, source, own)


def _check_pieces(file: GgufFile, read: Vocabulary, own: int) -> None:
    """Raises BqError unless the tokenizer has the file's pieces; a space may still be SentencePiece's mark there."""
    pieces = file.metadata[TOKENS]
    other = next((i for i in range(own) if pieces[i].replace(_SPACE, " ") != read.pieces[i].replace(_SPACE, " ")), None)
    if other is not None:
        raise BqError(
            say(
                f"This tokenizer.model is another model's: token {other} is {read.pieces[other][:40]!r} there and "
                f"{pieces[other][:40]!r} in {file.path.name}.",
                f"该 tokenizer.model 属于另一个模型：词元 {other} 在其中为 {read.pieces[other][:40]!r}，在 {file.path.name} 中为 "
                f"{pieces[other][:40]!r}。",
            ),
            say("Take the tokenizer of the file's own checkpoint.", "请使用该文件对应检查点的分词器。"),
        )
