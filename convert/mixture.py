"""Which type each tensor gets in each mixture: llama.cpp's own choice (src/llama-quant.cpp, llama_tensor_get_type_impl
and tensor_type_fallback), reduced to what a Baichuan model can meet: no grouped heads, no experts, an output of its own.

An importance matrix changes some choices, and the mixtures below 3 bits are no use without one (CALIBRATED). Beside llama.cpp's
mixtures stand some of bq's own, NAME_NL, which differ where rows do not divide into super-blocks of 256.
"""

from collections.abc import Callable, Mapping
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


def tensor_type(mixture: Mixture, name: str, columns: int, blocks: int, has_importance: bool = False) -> GgmlType:
    """The type of the matrix `name` (GGUF name) with rows of `columns` weights, in a model of `blocks` blocks."""
    if name == "output.weight" and columns % block_size(mixture.default)[0]:
        return fitting_type(mixture, T.Q8_0, columns)
    return fitting_type(mixture, wanted_type(mixture, name, blocks, has_importance), columns)


def fitting_type(mixture: Mixture, wanted: GgmlType, columns: int) -> GgmlType:
    """The type itself if rows of `columns` weights divide into its blocks, else what takes its place."""
    if columns % block_size(wanted)[0] == 0:
        return wanted
    narrower = mixture.fallbacks.get(wanted, wanted)
    return narrower if columns % block_size(narrower)[0] == 0 else T.F16


def wanted_type(mixture: Mixture, name: str, blocks: int, has_importance: bool = False) -> GgmlType:
    """The type that a matrix gets if its rows divide into blocks."""
    if mixture.default in UNQUANTIZED:
        return mixture.default
    if name == "output.weight":
        return _output_type(mixture)
    if name == "token_embd.weight":
        return _EMBEDDING.get(mixture.file_type.name, mixture.default)
    _, number, part, _ = name.split(".")
    rule = _RULES.get(part)
    place = _Place(mixture.file_type.name, int(number), blocks, has_importance)
    return (rule(place) if rule else None) or mixture.default


def type_needs_importance(mixture: Mixture, name: str, kind: GgmlType) -> bool:
    """Whether llama.cpp refuses to make this type without an importance (tensor_requires_imatrix).

    It lets embedding and output pass, and ends the process if they are of a type whose search divides by the importance.
    """
    if name in ("token_embd.weight", "output.weight"):
        return kind in _ENDS_WITHOUT
    return kind in _NEEDS_IMPORTANCE or (kind == T.Q2_K and mixture.file_type == FileType.Q2_K_S)


_NEEDS_IMPORTANCE = (T.IQ1_S, T.IQ1_M, T.IQ2_XXS, T.IQ2_XS, T.IQ2_S, T.IQ3_XXS)
_ENDS_WITHOUT = (T.IQ1_S, T.IQ2_XXS, T.IQ2_XS)  # ggml_quantize_requires_imatrix
_BELOW_3_BITS = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M")
_RICHER = {"IQ2_S": T.IQ3_S, "IQ2_M": T.IQ3_S}  # of these, what the others have in Q2_K
_EMBEDDING = {name: _RICHER.get(name, T.Q2_K) for name in _BELOW_3_BITS} | {"IQ3_XXS": T.IQ3_S}


def _output_type(mixture: Mixture) -> GgmlType:
    if mixture.file_type.name in (*_BELOW_3_BITS, "IQ3_XXS"):
        return T.Q5_K
    return T.Q8_0 if mixture.default == T.Q8_0 else T.Q6_K


@dataclass(frozen=True)
class _Place:
    """Where a block's matrix stands, and in what."""

    mixture: str
    block: int
    blocks: int
    has_importance: bool

    @property
    def is_early(self) -> bool:
        """In the first eighth of the blocks."""
        return self.block < self.blocks // 8

    @property
    def gets_more_bits(self) -> bool:
        """use_more_bits: the first and last eighth of the blocks, and every third between."""
        return self.is_early or self.block >= 7 * self.blocks // 8 or (self.block - self.blocks // 8) % 3 == 2


def _attn_v_type(place: _Place) -> GgmlType | None:
    mixture = place.mixture
    if mixture in _BELOW_3_BITS:
        return _RICHER.get(mixture, T.Q2_K)
    if mixture in ("Q4_K_M", "Q5_K_M"):
        return T.Q6_K if place.gets_more_bits else None
    if mixture == "Q3_K_M":
        return T.Q5_K if place.block < 2 else T.Q4_K
    if mixture == "Q4_K_S":
        return T.Q5_K if place.block < 4 else None
    if mixture == "IQ3_XXS":
        return None if place.has_importance else T.IQ3_S
    return {"Q2_K": T.Q3_K, "Q3_K_L": T.Q5_K, "IQ3_M": T.Q4_K}.get(mixture)


def _attn_q_k_type(place: _Place) -> GgmlType | None:
    return {"IQ3_XS": T.IQ3_XXS, "IQ3_XXS": T.IQ2_S}.get(place.mixture)


def _attn_output_type(place: _Place) -> GgmlType | None:
    return _ATTN_OUTPUT.get(place.mixture)


_ATTN_OUTPUT = {
    "Q2_K": T.Q3_K,
    "Q3_K_M": T.Q4_K,
    "Q3_K_L": T.Q5_K,
    "IQ3_M": T.Q4_K,
    "IQ3_XXS": T.IQ3_S,
    "IQ2_M": T.IQ3_S,
    "IQ2_S": T.IQ3_S,
    "IQ1_M": T.IQ2_XXS,
    "IQ1_S": T.IQ2_XXS,
}


def _ffn_down_type(place: _Place) -> GgmlType | None:
    mixture = place.mixture
    if mixture in ("Q4_K_M", "Q5_K_M"):
        return T.Q6_K if place.gets_more_bits else None
    if mixture == "Q3_K_M":
        return T.Q5_K if place.block < place.blocks // 16 else T.Q4_K
    if mixture == "IQ3_XXS" and not place.has_importance:
        return T.Q4_K if place.is_early else T.Q3_K
    early = _EARLY_FFN_DOWN | (_EARLY_WITH_IMPORTANCE if place.has_importance else _EARLY_WITHOUT)
    if place.is_early and mixture in early:
        return early[mixture]
    return {"Q2_K": T.Q3_K, "Q3_K_L": T.Q5_K}.get(mixture)


_EARLY_FFN_DOWN = {"Q4_K_S": T.Q5_K, "IQ3_M": T.Q4_K, "Q2_K_S": T.Q4_K} | {
    name: _RICHER.get(name, T.Q2_K) for name in _BELOW_3_BITS
}
_EARLY_WITH_IMPORTANCE = {"Q4_0": T.Q4_1, "Q5_0": T.Q5_1}
_EARLY_WITHOUT = {"IQ4_NL": T.Q5_K, "IQ4_XS": T.Q5_K}


def _ffn_gate_up_type(place: _Place) -> GgmlType | None:
    is_middle = not place.is_early and place.block < 7 * place.blocks // 8
    return T.IQ3_XXS if place.mixture == "IQ3_XS" and is_middle else None


_RULES: Mapping[str, Callable[[_Place], GgmlType | None]] = {
    "attn_q": _attn_q_k_type,
    "attn_k": _attn_q_k_type,
    "attn_v": _attn_v_type,
    "attn_output": _attn_output_type,
    "ffn_down": _ffn_down_type,
    "ffn_gate": _ffn_gate_up_type,
    "ffn_up": _ffn_gate_up_type,
}
