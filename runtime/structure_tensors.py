"""The tensors that llama.cpp takes of a file, by name and shape, for each architecture that bq runs.

Sources: load_arch_tensors of src/models/baichuan.cpp, qwen2.cpp and qwen3moe.cpp, create_tensor_qkv (src/llama-model.cpp), and
binary_op (ggml-cpu/binary-ops.cpp) for the types of vectors.
"""

from collections.abc import Mapping

from bq.runtime.ggml import GgmlType
from bq.runtime.gguf_file import GgufFile, TensorEntry
from bq.runtime.structure_rules import broken
from bq.runtime.structure_shape import attention_of, expert_width
from bq.runtime.structure_vocabulary import TOKENS

Shapes = dict[str, tuple[int, ...]]  # [rows, columns], or [experts, rows, columns], or [columns]
_FAMILIES = {"baichuan": "Baichuan", "qwen2": "Qwen2", "qwen3moe": "Qwen3-MoE"}


def check_tensors(file: GgufFile) -> None:
    """Raise one clear line for a tensor that is missing, too many, of another shape or type."""
    expected = _expected(file)
    optional = _optional(file, expected)
    for name, shape in expected.items():
        if name not in file.tensors:
            raise broken(file, f"the tensor {name} {list(shape)} is missing", f"缺少张量 {name} {list(shape)}")
    for name, entry in file.tensors.items():
        known = expected.get(name) or optional.get(name)
        if known is None:
            family = _FAMILIES[file.architecture]
            raise broken(file, f"it holds {name}, which no {family} model has", f"它含有 {family} 模型没有的 {name}")
        _check(file, entry, known)


def _check(file: GgufFile, entry: TensorEntry, expected: tuple[int, ...]) -> None:
    if _plain(entry.shape) != _plain(expected):
        shapes = list(entry.shape), list(expected)
        raise broken(
            file,
            f"{entry.name} has the shape {shapes[0]}, expected {shapes[1]}",
            f"{entry.name} 的形状为 {shapes[0]}，应为 {shapes[1]}",
        )
    if len(expected) == 1 and entry.kind != GgmlType.F32:
        kind = entry.kind.name
        raise broken(file, f"{entry.name} is {kind}, expected F32", f"{entry.name} 为 {kind}，应为 F32")


def _plain(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Without dimensions of 1 in front, which say nothing."""
    while len(shape) > 1 and shape[0] == 1:
        shape = shape[1:]
    return shape


def _expected(file: GgufFile) -> Shapes:
    """Every tensor that must be there."""
    hidden, vocabulary = attention_of(file).hidden, len(file.metadata[TOKENS])
    tensors: Shapes = {"token_embd.weight": (vocabulary, hidden), "output_norm.weight": (hidden,)}
    if not _ties_output(file):
        tensors["output.weight"] = (vocabulary, hidden)
    feed_forward = _experts(file) if file.architecture == "qwen3moe" else _dense(file)
    for number in range(file.shape_count("block_count")):
        block = _attention(file, number) | feed_forward
        tensors |= {f"blk.{number}.{part}.weight": shape for part, shape in block.items()}
    return tensors


def _ties_output(file: GgufFile) -> bool:
    """Whether the embedding is the output as well; in a Baichuan file llama.cpp does not take it so."""
    return file.architecture != "baichuan" and "output.weight" not in file.tensors


def _attention(file: GgufFile, number: int) -> Shapes:
    """q, k and v may be one tensor; Qwen3 has a norm for the queries and one for the keys, of a head's width."""
    attention = attention_of(file)
    hidden, queries, keys = attention.hidden, attention.queries, attention.keys
    parts: Shapes = {"attn_q": (queries, hidden), "attn_k": (keys, hidden), "attn_v": (keys, hidden)}
    if f"blk.{number}.attn_qkv.weight" in file.tensors:
        parts = {"attn_qkv": (queries + 2 * keys, hidden)}
    if file.architecture == "qwen3moe":
        parts |= dict.fromkeys(("attn_q_norm", "attn_k_norm"), (attention.width,))
    return {**dict.fromkeys(("attn_norm", "ffn_norm"), (hidden,)), **parts, "attn_output": (hidden, queries)}


def _dense(file: GgufFile) -> Shapes:
    hidden, ffn = attention_of(file).hidden, file.shape_count("feed_forward_length")
    return {"ffn_gate": (ffn, hidden), "ffn_up": (ffn, hidden), "ffn_down": (hidden, ffn)}


def _experts(file: GgufFile) -> Shapes:
    """The router, and the matrices of all experts in one tensor each."""
    hidden, experts, units = attention_of(file).hidden, file.shape_count("expert_count"), expert_width(file)
    wide = (experts, units, hidden)
    return {
        "ffn_gate_inp": (experts, hidden),
        "ffn_gate_exps": wide,
        "ffn_up_exps": wide,
        "ffn_down_exps": (experts, hidden, units),
    }


def _optional(file: GgufFile, expected: Mapping[str, tuple[int, ...]]) -> Shapes:
    """The biases that llama.cpp would add: those of a Qwen2, and of fine-tunes. One for q, k and v needs them in one tensor."""
    attention, biases = attention_of(file), Shapes()
    rows = {"attn_q": attention.queries, "attn_k": attention.keys, "attn_v": attention.keys}
    for number in range(file.shape_count("block_count")):
        block = f"blk.{number}."
        biases |= {f"{block}{part}.bias": (size,) for part, size in rows.items()}
        if f"{block}attn_qkv.weight" in expected:
            biases[f"{block}attn_qkv.bias"] = (sum(rows.values()),)
    if file.architecture == "qwen2":
        biases["output.bias"] = (len(file.metadata[TOKENS]),)
    return biases
