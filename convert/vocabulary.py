"""The vocabulary that a GGUF file needs, from tokenizer.model and what a fine-tune added to it.

Types are copied one to one, for llama.cpp then finds SentencePiece's ids; the two role pieces become CONTROL, so that
no text can forge a role.
"""

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from bq.convert.checkpoint import read_json, refuse_pointer
from bq.runtime.errors import BqError
from bq.runtime.language import say
from bq.runtime.prompt import Roles
from bq.runtime.releases import role_generation

MAX_MODEL_BYTES = 64 << 20
_BPE = 2  # TrainerSpec.ModelType
_SPACE = "\u2581"  # SentencePiece writes a space as this mark


class TokenType(IntEnum):
    """llama.cpp's token types (enum llama_token_type); SentencePiece's piece types have the same numbers."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Vocabulary:
    """Pieces by id, with scores and types, and how a text is prepared before it is cut."""

    pieces: tuple[str, ...]
    scores: tuple[float, ...]
    types: tuple[int, ...]
    unk: int
    bos: int
    eos: int
    pad: int
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    padding: int  # rows of the embedding that no piece stands for
    added: int  # pieces that a fine-tune added
    model_path: Path

    def role_generation(self) -> int | None:
        """1 or 2 by the names of the pieces at the usual role ids, None if they are others."""
        roles = Roles()
        if len(self.pieces) <= max(roles.user, roles.assistant):
            return None
        return role_generation(self.pieces[roles.user], self.pieces[roles.assistant])


def read_vocabulary(folder: Path, rows: int, roles: tuple[int, int]) -> Vocabulary:
    """The vocabulary of a checkpoint whose embedding has `rows` rows.

    Raises BqError if tokenizer.model is missing, damaged or no BPE model, or has more pieces than there are rows.
    """
    path = folder / "tokenizer.model"
    model = _parse(path)
    pieces = [piece.piece for piece in model.pieces]
    scores = [piece.score for piece in model.pieces]
    types = [int(piece.type) for piece in model.pieces]
    if len(pieces) > rows:
        raise BqError(
            say(
                f"tokenizer.model has {len(pieces):,} pieces, the embedding only {rows:,} rows.",
                f"tokenizer.model 有 {len(pieces):,} 个词元，而嵌入只有 {rows:,} 行。",
            ),
            say("Take tokenizer and weights from the same release.", "请使用同一发布中的分词器与权重。"),
        )
    padding = rows - len(pieces)
    pieces += [f"[PAD{i}]" for i in range(len(pieces), rows)]
    scores += [0.0] * padding
    types += [TokenType.UNUSED] * padding
    added = _add_tokens(folder, pieces, types, rows - padding)
    for role in roles:
        if not 2 < role < rows:
            raise BqError(
                say(
                    f"The role id {role} is outside the vocabulary of {rows:,}.",
                    f"角色 id {role} 超出 {rows:,} 的词表。",
                )
            )
        types[role] = TokenType.CONTROL
    for i, kind in enumerate(types):  # llama.cpp looks for these in the raw text, where a space is a space
        if kind in (TokenType.USER_DEFINED, TokenType.CONTROL):
            pieces[i] = pieces[i].replace(_SPACE, " ")
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    return Vocabulary(
        pieces=tuple(pieces),
        scores=tuple(scores),
        types=tuple(types),
        unk=trainer.unk_id,
        bos=trainer.bos_id,
        eos=trainer.eos_id,
        pad=trainer.pad_id if trainer.pad_id >= 0 else trainer.unk_id,
        add_dummy_prefix=normalizer.add_dummy_prefix,
        remove_extra_whitespaces=normalizer.remove_extra_whitespaces,
        padding=padding - added,
        added=added,
        model_path=path,
    )


def _parse(path: Path) -> Any:
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    refuse_pointer(path)
    model = sentencepiece_model_pb2.ModelProto()
    try:
        if path.stat().st_size > MAX_MODEL_BYTES:
            raise DecodeError("too large")
        model.ParseFromString(path.read_bytes())
    except FileNotFoundError:
        raise BqError(
            say(f"tokenizer.model is missing in {path.parent}.", f"{path.parent} 中缺少 tokenizer.model。"),
            say("Download it from the same release.", "请从同一发布中下载。"),
        ) from None
    except (DecodeError, OSError) as error:
        raise BqError(
            say(f"tokenizer.model cannot be read: {error}.", f"无法读取 tokenizer.model：{error}。"),
            say("Download it again.", "请重新下载该文件。"),
        ) from None
    spec = model.trainer_spec
    if spec.model_type != _BPE or not all(0 <= i < len(model.pieces) for i in (spec.unk_id, spec.bos_id, spec.eos_id)):
        raise BqError(
            say(
                "tokenizer.model is no SentencePiece BPE model, as every Baichuan release has.",
                "tokenizer.model 不是 SentencePiece BPE 模型，而 Baichuan 的发布都是。",
            ),
            say("Take the tokenizer of the release.", "请使用原发布的分词器。"),
        )
    return model


def _add_tokens(folder: Path, pieces: list[str], types: list[int], first: int) -> int:
    """Write a fine-tune's added tokens over the padding, which begins at `first`; returns how many were added."""
    count = 0
    for token, (number, special) in sorted(_added_tokens(folder).items(), key=lambda item: item[1][0]):
        if not 0 <= number < len(pieces):
            raise BqError(
                say(
                    f"added_tokens.json gives {token!r} the id {number}, beyond the embedding's {len(pieces):,} rows.",
                    f"added_tokens.json 给 {token!r} 的 id 为 {number}，超出嵌入的 {len(pieces):,} 行。",
                ),
                say("Take tokenizer and weights from the same fine-tune.", "请使用同一微调中的分词器与权重。"),
            )
        if number < first and pieces[number] == token:
            continue
        pieces[number] = token
        types[number] = TokenType.CONTROL if special else TokenType.USER_DEFINED
        count += number >= first
    return count


def _added_tokens(folder: Path) -> dict[str, tuple[int, bool]]:
    """Token -> (id, is special) from added_tokens.json and tokenizer_config.json's added_tokens_decoder."""
    special = _special_tokens(folder)
    found: dict[str, tuple[int, bool]] = {}
    if (folder / "added_tokens.json").is_file():
        for token, number in read_json(folder / "added_tokens.json").items():
            if type(number) is not int:
                raise BqError(
                    say(
                        f"added_tokens.json: the id of {token!r} is {number!r}.",
                        f"added_tokens.json：{token!r} 的 id 是 {number!r}。",
                    )
                )
            found[token] = (number, token in special)
    decoder = _optional_json(folder / "tokenizer_config.json").get("added_tokens_decoder")
    for key, entry in (decoder if isinstance(decoder, dict) else {}).items():
        if key.isdecimal() and len(key) < 10 and isinstance(entry, dict) and isinstance(entry.get("content"), str):
            found[entry["content"]] = (int(key), entry.get("special") is True)
    return found


def _special_tokens(folder: Path) -> set[str]:
    names: set[str] = set()
    for value in _optional_json(folder / "special_tokens_map.json").values():
        for token in value if isinstance(value, list) else [value]:
            content = token.get("content") if isinstance(token, dict) else token
            if isinstance(content, str):
                names.add(content)
    return names


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
