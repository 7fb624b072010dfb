"""The vocabulary that a GGUF file needs, from tokenizer.model or tokenizer.json and what a fine-tune added to it.

Of a tokenizer.model, types are copied one to one, for llama.cpp then finds SentencePiece's ids; the role pieces become
CONTROL, so that no text can forge a role. A tokenizer.json counts where there is no tokenizer.model.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bq.convert import tokenizer_json
from bq.convert.added_tokens import add_tokens, optional_json
from bq.convert.chat_template import read_template
from bq.convert.checkpoint import refuse_pointer
from bq.runtime.errors import BqError
from bq.runtime.language import say
from bq.runtime.openmp import limit_spins
from bq.runtime.prompt_format import BAICHUAN, CHATML, END_OF_TEXT, IM_END, IM_START, M1, M1_USER, Roles
from bq.runtime.releases import role_generation
from bq.runtime.token_type import TokenType as TokenType  # where it is looked for

MAX_MODEL_BYTES = 64 << 20
_BPE = 2  # TrainerSpec.ModelType
_NO_TEXT = re.compile("[\0\ud800-\udfff]")  # NUL, and halves of surrogate pairs, which JSON can name
_SPACE = "\u2581"  # SentencePiece writes a space as this mark


@dataclass(frozen=True)
class Vocabulary:
    """Pieces by id, with scores and types, and how a text is prepared before it is cut.

    `model` and `pre` are llama.cpp's names of the kind: "llama" is SentencePiece's BPE, "gpt2" the byte-level one, which has
    `merges` instead of scores. `prompt` names the way in which prompts are written (bq.runtime.prompt_format), `template` is
    the release's own for other programs, "" if it has none.
    """

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
    model: str = "llama"
    pre: str = "default"
    merges: tuple[str, ...] = ()
    normalizer: str = ""
    prompt: str = BAICHUAN
    template: str = ""

    def role_generation(self) -> int | None:
        """1 or 2 by the names of the pieces at the usual role ids, None if they are others."""
        roles = Roles()
        if len(self.pieces) <= max(roles.user, roles.assistant):
            return None
        return role_generation(self.pieces[roles.user], self.pieces[roles.assistant])


def read_vocabulary(folder: Path, rows: int, roles: tuple[int, int]) -> Vocabulary:
    """The vocabulary of a checkpoint whose embedding has `rows` rows.

    Raises BqError if the tokenizer is missing, damaged or of another kind, or has more pieces than there are rows.
    """
    path = folder / "tokenizer.model"
    if not path.exists() and (folder / tokenizer_json.FILE).is_file():
        return _byte_pairs(folder, rows)
    model = _parse(path)
    pieces = [piece.piece for piece in model.pieces]
    types = [int(piece.type) for piece in model.pieces]
    _check_rows(path.name, len(pieces), rows)
    padding = rows - len(pieces)
    scores = [*(piece.score for piece in model.pieces), *[0.0] * padding]
    pieces += [f"[PAD{i}]" for i in range(len(pieces), rows)]
    types += [TokenType.UNUSED] * padding
    added = add_tokens(folder, pieces, types, rows - padding)
    _mark_roles(types, roles)
    _write_spaces(model, pieces, types)
    _check_pieces(path.name, pieces)
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    is_m1 = pieces[roles[0]] == M1_USER
    unk, pad = trainer.unk_id, trainer.pad_id if trainer.pad_id >= 0 else trainer.unk_id
    return Vocabulary(
        pieces=tuple(pieces),
        scores=tuple(scores),
        types=tuple(types),
        unk=_named(pieces, "<unk>", unk) if is_m1 else unk,
        bos=trainer.bos_id,
        eos=trainer.eos_id,
        pad=_named(pieces, "<pad>", pad) if is_m1 else pad,
        add_dummy_prefix=normalizer.add_dummy_prefix,
        remove_extra_whitespaces=normalizer.remove_extra_whitespaces,
        padding=padding - added,
        added=added,
        model_path=path,
        prompt=M1 if is_m1 else BAICHUAN,
        template=read_template(folder) if is_m1 else "",
    )


def _mark_roles(types: list[int], roles: tuple[int, int]) -> None:
    """No text can forge a CONTROL piece. Raises BqError for a role that is outside the vocabulary, or what others have."""
    for role in roles:
        if not 2 < role < len(types):
            raise BqError(
                say(
                    f"The role id {role} is outside the vocabulary of {len(types):,}.",
                    f"角色 id {role} 超出 {len(types):,} 的词表。",
                )
            )
        types[role] = TokenType.CONTROL


def _write_spaces(model: Any, pieces: list[str], types: list[int]) -> None:
    """llama.cpp looks for user-defined and control pieces in the raw text, where a space is a space.

    One with a plain space SentencePiece finds in no text, for all spaces of its texts are marks.
    """
    own = len(model.pieces)
    for i, kind in enumerate(types):
        if kind == TokenType.USER_DEFINED and i < own and " " in model.pieces[i].piece:
            types[i] = TokenType.NORMAL
        elif kind in (TokenType.USER_DEFINED, TokenType.CONTROL):
            pieces[i] = pieces[i].replace(_SPACE, " ")


def _check_rows(name: str, pieces: int, rows: int) -> None:
    if pieces > rows:
        raise BqError(
            say(
                f"{name} has {pieces:,} pieces, the embedding only {rows:,} rows.",
                f"{name} 有 {pieces:,} 个词元，而嵌入只有 {rows:,} 行。",
            ),
            say("Take tokenizer and weights from the same release.", "请使用同一发布中的分词器与权重。"),
        )


def _check_pieces(name: str, pieces: Sequence[str]) -> None:
    """llama.cpp wants each piece once, and a GGUF file holds them as UTF-8."""
    first: dict[str, int] = {}
    for number, piece in enumerate(pieces):
        twin = first.setdefault(piece, number) if piece else number
        if twin != number:
            raise _unusable(
                name,
                f"the tokens {twin} and {number} are both {piece[:40]!r}",
                f"词元 {twin} 与 {number} 都是 {piece[:40]!r}",
            )
        if _NO_TEXT.search(piece):
            raise _unusable(
                name, f"token {number}, {piece[:40]!r}, is no text", f"词元 {number}（{piece[:40]!r}）不是文本"
            )


def _unusable(name: str, en: str, zh: str) -> BqError:
    return BqError(
        say(f"{name} or what was added to it: {en}.", f"{name} 或其新增词元：{zh}。"),
        say("Take the tokenizer of the release.", "请使用原发布的分词器。"),
    )


def _named(pieces: Sequence[str], name: str, default: int) -> int:
    return pieces.index(name) if name in pieces else default


def _byte_pairs(folder: Path, rows: int) -> Vocabulary:
    """The vocabulary of a tokenizer.json."""
    read = tokenizer_json.read_tokenizer_json(folder)
    _check_rows(tokenizer_json.FILE, len(read.pieces), rows)
    pieces = [piece or f"[PAD{i}]" for i, piece in enumerate(read.pieces)]
    padding = rows - len(pieces)
    pieces += [f"[PAD{i}]" for i in range(len(pieces), rows)]
    _check_pieces(tokenizer_json.FILE, pieces)
    special = special_ids(folder, pieces)
    return Vocabulary(
        pieces=tuple(pieces),
        scores=(0.0,) * rows,
        types=(*read.types, *[TokenType.UNUSED] * padding),
        unk=special["unk"],
        bos=special["bos"],
        eos=special["eos"],
        pad=special["pad"],
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        padding=padding + read.types.count(TokenType.UNUSED),
        added=0,
        model_path=folder / tokenizer_json.FILE,
        model="gpt2",
        pre=tokenizer_json.PRE,
        merges=read.merges,
        normalizer=read.normalizer,
        prompt=CHATML,
        template=read_template(folder),
    )


def special_ids(folder: Path, pieces: Sequence[str]) -> dict[str, int]:
    """The ids of "bos", "eos", "pad" and "unk" (-1: none) by tokenizer_config.json, else by generation_config.json.

    Raises BqError for one beyond the pieces, and where the pieces are no ChatML model's.
    """
    for piece in (IM_START, IM_END, END_OF_TEXT):
        if piece not in pieces:
            raise BqError(
                say(
                    f"tokenizer.json has no {piece}, so no prompt can be written.",
                    f"tokenizer.json 中没有 {piece}，无法构造提示。",
                ),
                say("Take the tokenizer of a release of Baichuan-M2 or M3.", "请使用 Baichuan-M2 或 M3 发布的分词器。"),
            )
    named, numbered = (
        optional_json(folder / "tokenizer_config.json"),
        optional_json(folder / "generation_config.json"),
    )
    ids = {
        "bos": pieces.index(END_OF_TEXT),  # Qwen puts none before a text: what ends a document begins the next
        "eos": pieces.index(IM_END),
        "pad": pieces.index(END_OF_TEXT),
        "unk": -1,
    }
    for use in ids:
        token = named.get(f"{use}_token")
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str) and text in pieces:
            ids[use] = pieces.index(text)
        elif (number := _first_id(numbered.get(f"{use}_token_id"))) is not None:
            ids[use] = _checked_id(use, number, len(pieces))
    return ids


def _first_id(found: Any) -> Any:
    return found[0] if isinstance(found, list) and found else found


def _checked_id(use: str, number: Any, size: int) -> int:
    if type(number) is not int or not 0 <= number < size:
        raise BqError(
            say(
                f"generation_config.json: {use}_token_id is {number!r:.40}.",
                f"generation_config.json：{use}_token_id 为 {number!r:.40}。",
            ),
            say("Download generation_config.json again.", "请重新下载 generation_config.json。"),
        )
    return number


def _parse(path: Path) -> Any:
    limit_spins()
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
