"""The mixtures by name: the type most tensors get, and what takes its place where rows do not divide (src/llama-quant.cpp,
tensor_type_fallback). Which type each tensor gets is in tensor_types.

An importance matrix changes some choices, and the mixtures below 3 bits are no use without one (CALIBRATED). Beside llama.cpp's
mixtures stand some of bq's own, NAME_NL, which differ where rows do not divide into super-blocks of 256.
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
    T.IQ1_S: T.IQ4_NL,
    T.IQ1_M: T.IQ4_NL,
    T.IQ2_XXS: T.IQ4_NL,
    T.IQ2_XS: T.IQ4_NL,
    T.IQ2_S: T.IQ4_NL,
    T.IQ3_XXS: T.IQ4_NL,
    T.IQ3_S: T.IQ4_NL,
    T.IQ4_XS: T.IQ4_NL,
    T.Q2_K: T.Q4_0,
    T.Q3_K: T.Q4_0,
    T.Q4_K: T.Q5_0,
    T.Q5_K: T.Q5_1,
    T.Q6_K: T.Q8_0,
    T.TQ1_0: T.Q4_0,
    T.TQ2_0: T.Q4_0,
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
    def needs_importance(self) -> bool:
        """Whether it is refused without an importance matrix."""
        return self.name in CALIBRATED_MIXTURES

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
_CALIBRATED = (
    Mixture(FileType.IQ3_XS, T.IQ3_S),
    Mixture(FileType.IQ3_XXS, T.IQ3_XXS),
    Mixture(FileType.Q2_K_S, T.Q2_K),
    Mixture(FileType.IQ2_M, T.IQ2_S),
    Mixture(FileType.IQ2_S, T.IQ2_XS),
    Mixture(FileType.IQ2_XS, T.IQ2_XS),
    Mixture(FileType.IQ2_XXS, T.IQ2_XXS),
    Mixture(FileType.IQ1_M, T.IQ1_M),
    Mixture(FileType.IQ1_S, T.IQ1_S),
)
CALIBRATED_MIXTURES = {mixture.name: mixture for mixture in _CALIBRATED}
DEFAULT_MIXTURE = "Q4_K_M"
UNQUANTIZED = (T.F32, T.F16, T.BF16)
_WITH_OWN = ("Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K")
_OWN = [Mixture(MIXTURES[name].file_type, MIXTURES[name].default, is_own=True) for name in _WITH_OWN]
OWN_MIXTURES = {mixture.name: mixture for mixture in _OWN}
ALL_MIXTURES = MIXTURES | CALIBRATED_MIXTURES | OWN_MIXTURES


def find_mixture(name: str) -> Mixture:
    """The mixture of a name in any case. Raises UsageError with the names there are."""
    try:
        return ALL_MIXTURES[name.upper()]
    except KeyError:
        raise UsageError(
            say(f"There is no mixture {name}.", f"没有名为 {name} 的混合量化。"),
            say(
                f"Choose one of {' '.join(MIXTURES)}; with an importance matrix also {' '.join(CALIBRATED_MIXTURES)}; for a 13B "
                f"also {' '.join(OWN_MIXTURES)}.",
                f"可选：{' '.join(MIXTURES)}；有重要性矩阵时还可选 {' '.join(CALIBRATED_MIXTURES)}；13B 还可选 "
                f"{' '.join(OWN_MIXTURES)}。",
            ),
        ) from None


def own_mixture(mixture: Mixture) -> Mixture | None:
    """bq's own variant of one of llama.cpp's mixtures."""
    return OWN_MIXTURES.get(mixture.name + OWN_SUFFIX)


def fitting_type(mixture: Mixture, wanted: GgmlType, columns: int) -> GgmlType:
    """The type itself if rows of `columns` weights divide into its blocks, else what takes its place."""
    if columns % block_size(wanted)[0] == 0:
        return wanted
    narrower = mixture.fallbacks.get(wanted, wanted)
    return narrower if columns % block_size(narrower)[0] == 0 else T.F16
