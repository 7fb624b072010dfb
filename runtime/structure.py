"""What llama.cpp needs of a Baichuan file, checked before it sees it: keys, vocabulary, tensors by name, shape and type.

It ends the process, or computes nonsense without a word, where these do not hold. Sources: llama_model_base::load_hparams
and llama_model_baichuan (src/llama-model.cpp, src/models/baichuan.cpp) for keys and tensors, llama_vocab::impl::load and
byte_to_token (src/llama-vocab.cpp) for the vocabulary, binary_op (ggml-cpu/binary-ops.cpp) for the types of vectors.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bq.runtime.errors import BqError, UsageError
from bq.runtime.ggml import GgmlType
from bq.runtime.gguf_file import GgufFile, TensorEntry
from bq.runtime.language import say

ARCHITECTURE = "baichuan"
_LEAST_CONTEXT, _MOST_CONTEXT = 64, 1 << 24
_MOST = (1 << 32) - 1
_BYTE_PIECES = frozenset(f"<0x{byte:02X}>" for byte in range(256))
_BYTE_TYPE, _LAST_TYPE = 6, 6  # enum llama_token_type
_TOKENS, _SCORES, _TYPES = (f"tokenizer.ggml.{name}" for name in ("tokens", "scores", "token_type"))
_ROLE_KEYS = ("bq.role.user_id", "bq.role.assistant_id")
_VECTOR_PARTS = ("attn_norm", "ffn_norm")


@dataclass(frozen=True)
class _Rule:
    """What a key must be: its type as llama.cpp names it, and a test with words for it (en, zh)."""

    kind: str
    is_sound: Callable[[Any], bool]
    words: tuple[str, str]
    required: bool = False


def check_structure(file: GgufFile) -> None:
    """Raise one clear line if llama.cpp could not run this file as the Baichuan that it claims to be."""
    _refuse_split(file)
    _refuse_other_models(file)
    _check_keys(file, _model_rules(file))
    check_vocabulary(file)
    _check_tensors(file)


def check_vocabulary(file: GgufFile) -> None:
    """Raise one clear line if llama.cpp could not tokenize with this file's vocabulary."""
    _check_keys(file, _VOCABULARY_RULES)
    pieces, types = file.metadata[_TOKENS], file.metadata[_TYPES]
    for key in (_SCORES, _TYPES):
        if len(file.metadata[key]) != len(pieces):
            found, expected = f"{len(file.metadata[key]):,}", f"{len(pieces):,}"
            raise _broken(
                file, f"{key} has {found} entries for {expected} pieces", f"{key} 有 {found} 项，而词元有 {expected} 个"
            )
    if not all(map(math.isfinite, file.metadata[_SCORES])):
        raise _broken(file, f"{_SCORES} holds what is no number", f"{_SCORES} 含有非数值")
    _check_pieces(file, pieces)
    strange = next((i for i, kind in enumerate(types) if not 0 <= kind <= _LAST_TYPE), None)
    if strange is not None:
        raise _broken(
            file, f"token {strange} has the type {types[strange]}", f"词元 {strange} 的类型为 {types[strange]}"
        )
    unreadable = next((i for i, kind in enumerate(types) if kind == _BYTE_TYPE and pieces[i] not in _BYTE_PIECES), None)
    if unreadable is not None:
        name = repr(pieces[unreadable][:40])
        raise _broken(file, f"token {unreadable}, {name}, is typed as a byte", f"词元 {unreadable}（{name}）被标为字节")
    _check_keys(file, {key: _whole(0, len(pieces) - 1) for key in (*_ROLE_KEYS, *_USED_IDS)})


def _check_pieces(file: GgufFile, pieces: list[str]) -> None:
    """llama.cpp wants each piece once, reads it up to a NUL, and looks for every byte when a text holds it."""
    if any("\0" in piece for piece in pieces):
        raise _broken(file, f"{_TOKENS} holds a piece with a NUL", f"{_TOKENS} 中有词元含 NUL")
    named = pieces if all(pieces) else [piece or f"[EMPTY_{i}]" for i, piece in enumerate(pieces)]
    distinct = set(named)
    if len(distinct) != len(named):
        first: dict[str, int] = {}
        token, twin = next((i, first[piece]) for i, piece in enumerate(named) if first.setdefault(piece, i) != i)
        piece = repr(named[token][:40])
        raise _broken(file, f"the tokens {twin} and {token} are both {piece}", f"词元 {twin} 与 {token} 都是 {piece}")
    missing = sorted(_BYTE_PIECES - distinct)
    if missing:
        raise _broken(file, f"{_TOKENS} lacks {missing[0]}, a byte's piece", f"{_TOKENS} 缺少字节词元 {missing[0]}")


def _refuse_split(file: GgufFile) -> None:
    count = file.count("split.count")
    if count > 1:
        name, part = file.path.name, file.count("split.no") + 1
        raise UsageError(
            say(
                f"{name} is part {part} of a file split into {count}.",
                f"{name} 是一个拆分为 {count} 份的文件的第 {part} 份。",
            ),
            say(
                "Merge them with llama.cpp's tool: llama-gguf-split --merge FIRST-PART MERGED.gguf",
                "请用 llama.cpp 的工具合并：llama-gguf-split --merge 第一份 合并后.gguf",
            ),
        )


def _refuse_other_models(file: GgufFile) -> None:
    architecture = file.text("general.architecture", "?")[:40]
    if architecture != ARCHITECTURE:
        raise UsageError(
            say(
                f"{file.path.name} is a {architecture} model; bq runs Baichuan models.",
                f"{file.path.name} 是 {architecture} 模型；bq 运行 Baichuan 模型。",
            ),
            say("Use llama.cpp itself for it.", "请直接使用 llama.cpp。"),
        )


def _broken(file: GgufFile, en: str, zh: str) -> BqError:
    return BqError(
        say(f"{file.path.name} is broken: {en}.", f"{file.path.name} 已损坏：{zh}。"),
        say("Convert the release again with `bq convert`.", "请用 `bq convert` 重新转换原版发布。"),
    )


def _whole(low: int, high: int, required: bool = False) -> _Rule:
    return _Rule("u32", lambda value: low <= value <= high, (f"{low} to {high}", f"{low} 至 {high}"), required)


def _only(kind: str, value: Any) -> _Rule:
    return _Rule(kind, lambda found: bool(found == value), (f"{value}", f"{value}"))


def _any(kind: str, required: bool = False) -> _Rule:
    return _Rule(kind, lambda _: True, ("", ""), required)


_POSITIVE = _Rule("f32", lambda value: 0 < value < math.inf, ("a number above 0", "大于 0 的数"))
_SCALINGS = ("none", "linear", "yarn", "longrope")
_SCALING = _Rule("str", lambda value: value in _SCALINGS, (" / ".join(_SCALINGS), " / ".join(_SCALINGS)))
# llama.cpp runs a model of any other number without positions, and says nothing.
_BLOCKS = _Rule("u32", lambda value: value in (32, 40), ("32 (7B) or 40 (13B)", "32（7B）或 40（13B）"), True)
_EPSILON = _Rule("f32", lambda value: 0 < value < 1, ("between 0 and 1", "0 与 1 之间"), True)
# What other architectures have; a Baichuan file that sets them differently computes something else, or ends the process.
_FOREIGN = {
    **dict.fromkeys(
        ("expert_count", "expert_used_count", "expert_group_count", "expert_group_used_count"), _only("u32", 0)
    ),
    **dict.fromkeys(("nextn_predict_layers", "pooling_type", "classifier.pooling_type"), _only("u32", 0)),
    "attention.causal": _only("bool", True),
    "classifier.output_labels": _Rule("[str]", lambda value: not value, ("empty", "空")),
}
_USED_IDS = tuple(f"tokenizer.ggml.{name}_token_id" for name in ("bos", "eos", "eot"))
_OTHER_IDS = ("eom", "unknown", "seperator", "padding", "mask", "prefix", "suffix", "middle")  # llama.cpp's spelling
_FIM_IDS = ("fim_pre", "fim_suf", "fim_mid", "fim_pad", "fim_rep", "fim_sep")
_FLAGS = ("add_space_prefix", "remove_extra_whitespaces", "add_bos_token", "add_eos_token", "add_sep_token")
_VOCABULARY_RULES = {
    "tokenizer.ggml.model": _Rule("str", lambda value: value == "llama", ("llama", "llama"), True),
    "tokenizer.ggml.pre": _any("str"),
    "tokenizer.ggml.token_type_count": _any("u32"),
    _TOKENS: _any("[str]", True),
    _SCORES: _any("[f32]", True),
    _TYPES: _any("[i32]", True),
    "tokenizer.ggml.suppress_tokens": _any("[i32]"),
    **{key: _any("u32") for key in _USED_IDS},
    **{f"tokenizer.ggml.{name}_token_id": _any("u32") for name in (*_OTHER_IDS, *_FIM_IDS)},
    **{
        f"tokenizer.ggml.{name}": _any("bool") for name in (*_FLAGS, "normalizer.lowercase", "normalizer.strip_accents")
    },
}


def _model_rules(file: GgufFile) -> Mapping[str, _Rule]:
    hidden, heads = _hidden(file), _heads(file)
    width = hidden // heads if heads > 0 else 0
    kv = (f"a divisor of {heads}, the number of heads", f"头数 {heads} 的约数")
    of_width = (f"a number of heads of an even width that make up {hidden}", f"均分 {hidden} 且头宽为偶数的头数")
    baichuan = {
        "block_count": _BLOCKS,
        "context_length": _whole(_LEAST_CONTEXT, _MOST_CONTEXT, required=True),
        "embedding_length": _whole(1, _MOST, required=True),
        "embedding_length_out": _only("u32", hidden),
        "feed_forward_length": _whole(1, _MOST, required=True),
        "attention.head_count": _Rule("u32", lambda n: n > 0 and hidden % (2 * n) == 0, of_width, True),
        "attention.head_count_kv": _Rule("u32", lambda n: n > 0 and heads % n == 0, kv),
        "attention.layer_norm_rms_epsilon": _EPSILON,
        **{f"attention.{name}_length": _only("u32", width) for name in ("key", "value")},
        **{f"attention.{name}_length_swa": _any("u32") for name in ("key", "value")},
        "rope.dimension_count": _only("u32", width),
        "rope.dimension_count_swa": _any("u32"),
        "rope.freq_base": _POSITIVE,
        "rope.scale_linear": _POSITIVE,
        "rope.scaling.type": _SCALING,
        "rope.scaling.finetuned": _any("bool"),
        "rope.scaling.original_context_length": _whole(1, _MOST_CONTEXT),
        **{f"rope.scaling.{name}": _POSITIVE for name in ("factor", "attn_factor", "alpha")},
        **_FOREIGN,
    }
    general = {"general.name": _any("str"), "general.file_type": _any("u32"), "split.count": _any("u16")}
    return general | {f"{ARCHITECTURE}.{key}": rule for key, rule in baichuan.items()}


def _check_keys(file: GgufFile, rules: Mapping[str, _Rule]) -> None:
    for key, rule in rules.items():
        if key not in file.metadata:
            if rule.required:
                raise _broken(file, f"{key} is missing", f"缺少 {key}")
            continue
        value, kind = file.metadata[key], file.kinds[key]
        if kind != rule.kind:
            raise _broken(
                file, f"{key} is of type {kind}, expected {rule.kind}", f"{key} 的类型为 {kind}，应为 {rule.kind}"
            )
        if not rule.is_sound(value):
            found, (en, zh) = repr(value)[:40], rule.words
            raise _broken(file, f"{key} is {found}, expected {en}", f"{key} 为 {found}，应为 {zh}")


def _hidden(file: GgufFile) -> int:
    return file.count(f"{ARCHITECTURE}.embedding_length")


def _heads(file: GgufFile) -> int:
    return file.count(f"{ARCHITECTURE}.attention.head_count")


def _check_tensors(file: GgufFile) -> None:
    expected = _expected_tensors(file)
    optional = _optional_tensors(file, expected)
    for name, shape in expected.items():
        if name not in file.tensors:
            raise _broken(file, f"the tensor {name} {list(shape)} is missing", f"缺少张量 {name} {list(shape)}")
    for name, entry in file.tensors.items():
        known = expected.get(name) or optional.get(name)
        if known is None:
            raise _broken(file, f"it holds {name}, which no Baichuan model has", f"它含有 Baichuan 模型没有的 {name}")
        _check_tensor(file, entry, known)


def _check_tensor(file: GgufFile, entry: TensorEntry, expected: tuple[int, ...]) -> None:
    found = entry.shape
    while len(found) > len(expected) and found[0] == 1:  # a dimension of 1 more says nothing
        found = found[1:]
    if found != expected:
        shapes = list(entry.shape), list(expected)
        raise _broken(
            file,
            f"{entry.name} has the shape {shapes[0]}, expected {shapes[1]}",
            f"{entry.name} 的形状为 {shapes[0]}，应为 {shapes[1]}",
        )
    if len(expected) == 1 and entry.kind != GgmlType.F32:
        kind = entry.kind.name
        raise _broken(file, f"{entry.name} is {kind}, expected F32", f"{entry.name} 为 {kind}，应为 F32")


def _expected_tensors(file: GgufFile) -> dict[str, tuple[int, ...]]:
    """Name to shape, [rows, columns], of every tensor that must be there."""
    hidden, heads = _hidden(file), _heads(file)
    kv = hidden // heads * file.count(f"{ARCHITECTURE}.attention.head_count_kv", heads)
    ffn, vocabulary = file.count(f"{ARCHITECTURE}.feed_forward_length"), len(file.metadata[_TOKENS])
    square = (hidden, hidden)
    attention = {"attn_q": square, "attn_k": (kv, hidden), "attn_v": (kv, hidden), "attn_output": square}
    forward = {"ffn_gate": (ffn, hidden), "ffn_up": (ffn, hidden), "ffn_down": (hidden, ffn)}
    tensors: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (vocabulary, hidden),
        "output_norm.weight": (hidden,),
        "output.weight": (vocabulary, hidden),
    }
    for number in range(file.count(f"{ARCHITECTURE}.block_count")):
        parts = attention
        if f"blk.{number}.attn_qkv.weight" in file.tensors:  # create_tensor_qkv takes the three in one as well
            parts = {"attn_qkv": (hidden + 2 * kv, hidden), "attn_output": square}
        block = {**dict.fromkeys(_VECTOR_PARTS, (hidden,)), **parts, **forward}
        tensors |= {f"blk.{number}.{part}.weight": shape for part, shape in block.items()}
    return tensors


def _optional_tensors(file: GgufFile, expected: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The biases that llama.cpp would add; no release has them, a fine-tune may."""
    parts = ("attn_q", "attn_k", "attn_v", "attn_qkv")
    weights = [f"blk.{number}.{part}" for number in range(file.count(f"{ARCHITECTURE}.block_count")) for part in parts]
    return {f"{name}.bias": expected[f"{name}.weight"][:1] for name in weights if f"{name}.weight" in expected}
