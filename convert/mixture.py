"""Which type each tensor gets in each mixture: llama.cpp's own choice (src/llama-quant.cpp, llama_tensor_get_type_impl
and tensor_type_fallback), reduced to what a Baichuan model can meet: no grouped heads, no experts, an output of its own.

Beside llama.cpp's mixtures stand some of bq's own, NAME_NL, which differ where rows do not divide into super-blocks of 256.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from bq.runtime.errors import UsageError
from bq.runtime.ggml import GgmlType, block_size
from bq.runtime.known import OWN_SUFFIX, FileType
from bq.runtime.language import say

T = GgmlType


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
# The 13B releases have an FFN width of 13,696, so all their ffn_down fall back, and Q4_K_M spends 8.5 bits on every second one.
# These share the bits out more evenly: 4-bit weights stay at 4.5 bits, those that were to have more get Q5_0's 5.5. What that
# saves and costs: `python -m bench.quality --narrow`.
_OWN_FALLBACKS = {T.Q2_K: T.IQ4_NL, T.Q3_K: T.IQ4_NL, T.Q4_K: T.IQ4_NL, T.Q5_K: T.Q5_0, T.Q6_K: T.Q5_0}


@dataclass(frozen=True)
class Mixture:
    """A file type, the type most tensors get, and what 256-wide types become where rows do not divide."""

    file_type: FileType
    default: GgmlType
    is_own: bool = False

    @property
    def name(self) -> str:
        """Its name, as users give it."""
        return self.file_type.name + (OWN_SUFFIX if self.is_own else "")

    @property
    def fallbacks(self) -> Mapping[GgmlType, GgmlType]:
        """A 256-wide type to the 32-wide one in its place."""
        return _OWN_FALLBACKS if self.is_own else _FALLBACKS


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
_WITH_OWN = ("Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K")
_OWN = [Mixture(MIXTURES[name].file_type, MIXTURES[name].default, is_own=True) for name in _WITH_OWN]
OWN_MIXTURES = {mixture.name: mixture for mixture in _OWN}


def find_mixture(name: str) -> Mixture:
    """The mixture of a name in any case. Raises UsageError with the names there are."""
    try:
        return (MIXTURES | OWN_MIXTURES)[name.upper()]
    except KeyError:
        raise UsageError(
            say(f"There is no mixture {name}.", f"没有名为 {name} 的混合量化。"),
            say(
                f"Choose one of {' '.join(MIXTURES)}; for a 13B also {' '.join(OWN_MIXTURES)}.",
                f"可选：{' '.join(MIXTURES)}；13B 还可选 {' '.join(OWN_MIXTURES)}。",
            ),
        ) from None


def own_mixture(mixture: Mixture) -> Mixture | None:
    """bq's own variant of one of llama.cpp's mixtures."""
    return OWN_MIXTURES.get(mixture.name + OWN_SUFFIX)


def tensor_type(mixture: Mixture, name: str, columns: int, blocks: int) -> GgmlType:
    """The type of the matrix `name` (GGUF name) with rows of `columns` weights, in a model of `blocks` blocks."""
    chosen = wanted_type(mixture, name, blocks)
    if name == "output.weight" and columns % block_size(mixture.default)[0]:
        chosen = T.Q8_0
    if columns % block_size(chosen)[0] == 0 or mixture.default in _UNQUANTIZED:
        return chosen
    narrower = mixture.fallbacks.get(chosen, chosen)
    return narrower if columns % block_size(narrower)[0] == 0 else T.F16


def wanted_type(mixture: Mixture, name: str, blocks: int) -> GgmlType:
    """The type that a matrix gets if its rows divide into blocks."""
    if mixture.default in _UNQUANTIZED:
        return mixture.default
    if name == "output.weight":
        return T.Q8_0 if mixture.default == T.Q8_0 else T.Q6_K
    if name.startswith("blk."):
        _, number, part, _ = name.split(".")
        return _block_type(mixture, part, int(number), blocks)
    return mixture.default


def _gets_more_bits(block: int, blocks: int) -> bool:
    """use_more_bits: the first and last eighth of the blocks, and every third between."""
    return block < blocks // 8 or block >= 7 * blocks // 8 or (block - blocks // 8) % 3 == 2


def _block_type(mixture: Mixture, part: str, block: int, blocks: int) -> GgmlType:
    """The type of one of a block's matrices, before its row size is looked at."""
    rules = {"attn_v": _attn_v_type, "ffn_down": _ffn_down_type, "attn_output": _attn_output_type}
    rule = rules.get(part)
    return (rule(mixture.file_type.name, block, blocks) if rule else None) or mixture.default


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
