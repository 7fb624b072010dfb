"""Which type each tensor gets in each mixture: llama.cpp's own choice (src/llama-quant.cpp, llama_tensor_get_type_impl
and tensor_type_fallback), reduced to what a Baichuan model can meet: no grouped heads, no experts, an output of its own.
"""

from dataclasses import dataclass

from bq.runtime.errors import UsageError
from bq.runtime.ggml import GgmlType, block_size
from bq.runtime.known import FileType
from bq.runtime.language import say

T = GgmlType


@dataclass(frozen=True)
class Mixture:
    """A file type, and the type most tensors get."""

    file_type: FileType
    default: GgmlType

    @property
    def name(self) -> str:
        """Its name, as users give it."""
        return self.file_type.name


_ALL = (
    Mixture(FileType.F32, T.F32),
    Mixture(FileType.F16, T.F16),
    Mixture(FileType.BF16, T.BF16),
    Mixture(FileType.Q8_0, T.Q8_0),
    Mixture(FileType.Q6_K, T.Q6_K),
    Mixture(FileType.Q5_K_M, T.Q5_K),
    Mixture(FileType.Q5_K_S, T.Q5_K),
    Mixture(FileType.Q5_1, T.Q5_1),
    Mixture(FileType.Q5_0, T.Q5_0),
    Mixture(FileType.Q4_K_M, T.Q4_K),
    Mixture(FileType.Q4_K_S, T.Q4_K),
    Mixture(FileType.Q4_1, T.Q4_1),
    Mixture(FileType.Q4_0, T.Q4_0),
    Mixture(FileType.IQ4_NL, T.IQ4_NL),
    Mixture(FileType.IQ4_XS, T.IQ4_XS),
    Mixture(FileType.Q3_K_L, T.Q3_K),
    Mixture(FileType.Q3_K_M, T.Q3_K),
    Mixture(FileType.Q3_K_S, T.Q3_K),
    Mixture(FileType.IQ3_M, T.IQ3_S),
    Mixture(FileType.IQ3_S, T.IQ3_S),
    Mixture(FileType.Q2_K, T.Q2_K),
)
MIXTURES = {mixture.name: mixture for mixture in _ALL}
DEFAULT_MIXTURE = "Q4_K_M"
_UNQUANTIZED = (T.F32, T.F16, T.BF16)

# tensor_type_fallback: a 256-wide type whose rows do not divide becomes the 32-wide type beside it.
_FALLBACKS = {
    T.IQ3_S: T.IQ4_NL,
    T.IQ4_XS: T.IQ4_NL,
    T.Q2_K: T.Q4_0,
    T.Q3_K: T.Q4_0,
    T.Q4_K: T.Q5_0,
    T.Q5_K: T.Q5_1,
    T.Q6_K: T.Q8_0,
}


def find_mixture(name: str) -> Mixture:
    """The mixture of a name in any case. Raises UsageError with the names there are."""
    try:
        return MIXTURES[name.upper()]
    except KeyError:
        raise UsageError(
            say(f"There is no mixture {name}.", f"没有名为 {name} 的混合量化。"),
            say(f"Choose one of {' '.join(MIXTURES)}.", f"可选：{' '.join(MIXTURES)}。"),
        ) from None


def tensor_type(mixture: Mixture, name: str, columns: int, blocks: int) -> GgmlType:
    """The type of the matrix `name` (GGUF name) with rows of `columns` weights, in a model of `blocks` blocks."""
    if mixture.default in _UNQUANTIZED:
        return mixture.default
    if name == "output.weight":
        chosen = _output_type(mixture.default, columns)
    elif name.startswith("blk."):
        _, number, part, _ = name.split(".")
        chosen = _block_type(mixture, part, int(number), blocks)
    else:
        chosen = mixture.default
    return _fit(chosen, columns)


def _output_type(default: GgmlType, columns: int) -> GgmlType:
    if columns % block_size(default)[0]:
        return T.Q8_0
    return T.Q8_0 if default == T.Q8_0 else T.Q6_K


def _fit(chosen: GgmlType, columns: int) -> GgmlType:
    if columns % block_size(chosen)[0] == 0:
        return chosen
    narrower = _FALLBACKS.get(chosen, chosen)
    return narrower if columns % block_size(narrower)[0] == 0 else T.F16


def _gets_more_bits(block: int, blocks: int) -> bool:
    """use_more_bits: the first and last eighth of the blocks, and every third between."""
    return block < blocks // 8 or block >= 7 * blocks // 8 or (block - blocks // 8) % 3 == 2


def _block_type(mixture: Mixture, part: str, block: int, blocks: int) -> GgmlType:
    """The type of one of a block's matrices, before its row size is looked at."""
    rules = {"attn_v": _attn_v_type, "ffn_down": _ffn_down_type, "attn_output": _attn_output_type}
    rule = rules.get(part)
    return (rule(mixture.name, block, blocks) if rule else None) or mixture.default


def _attn_v_type(mixture: str, block: int, blocks: int) -> GgmlType | None:
    if mixture in ("Q4_K_M", "Q5_K_M"):
        return T.Q6_K if _gets_more_bits(block, blocks) else None
    if mixture == "Q3_K_M":
        return T.Q5_K if block < 2 else T.Q4_K
    if mixture == "Q4_K_S":
        return T.Q5_K if block < 4 else None
    return {"Q2_K": T.Q3_K, "Q3_K_L": T.Q5_K, "IQ3_M": T.Q4_K}.get(mixture)


def _ffn_down_type(mixture: str, block: int, blocks: int) -> GgmlType | None:
    if mixture in ("Q4_K_M", "Q5_K_M"):
        return T.Q6_K if _gets_more_bits(block, blocks) else None
    if mixture == "Q3_K_M":
        return T.Q5_K if block < blocks // 16 else T.Q4_K
    if block < blocks // 8:
        early = {"Q4_K_S": T.Q5_K, "IQ4_NL": T.Q5_K, "IQ4_XS": T.Q5_K, "IQ3_M": T.Q4_K}.get(mixture)
        if early is not None:
            return early
    return {"Q2_K": T.Q3_K, "Q3_K_L": T.Q5_K}.get(mixture)


def _attn_output_type(mixture: str, block: int, blocks: int) -> GgmlType | None:
    return {"Q2_K": T.Q3_K, "Q3_K_M": T.Q4_K, "Q3_K_L": T.Q5_K, "IQ3_M": T.Q4_K}.get(mixture)
