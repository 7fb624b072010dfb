"""Which type each tensor gets in each mixture: llama.cpp's own choice (src/llama-quant.cpp, llama_tensor_get_type_impl), reduced
to the architectures of Baichuan's models.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bq.convert.mixture import UNQUANTIZED, Mixture, T, fitting_type
from bq.convert.model_config import BAICHUAN, QWEN2, QWEN3MOE, ModelConfig
from bq.runtime.ggml import GgmlType, block_size
from bq.runtime.gguf_file import GgufFile
from bq.runtime.known import FileType

_BLOCKS_OF_70B = 80  # src/models/qwen2.cpp, LLM_TYPE_70B
_FEW_EXPERTS = 8  # a number that llama.cpp treats as Mixtral's


@dataclass(frozen=True)
class Traits:
    """What llama.cpp's choice looks at beside a tensor's name; `grouped` is the query heads to one key-value head."""

    blocks: int
    grouped: int = 1
    experts: int = 0
    is_tied: bool = False  # no output.weight: the embedding gets its type
    is_70b: bool = False

    @property
    def is_grouped(self) -> bool:
        """Whether attn_v is small enough to give it more bits."""
        return self.grouped >= 4


def traits_of(config: ModelConfig) -> Traits:
    """Of a checkpoint's model."""
    return Traits(
        blocks=config.blocks,
        grouped=config.heads // config.kv_heads,
        experts=config.experts.total if config.experts else 0,
        is_tied=config.is_tied and config.architecture in (QWEN2, QWEN3MOE),
        is_70b=config.architecture == QWEN2 and config.blocks == _BLOCKS_OF_70B,
    )


def traits_of_file(file: GgufFile) -> Traits:
    """Of the model in a GGUF file."""
    blocks = file.shape_count("block_count")
    heads, kv_heads = file.shape_count("attention.head_count"), file.shape_count("attention.head_count_kv")
    return Traits(
        blocks=blocks,
        grouped=heads // kv_heads if kv_heads > 0 else 1,
        experts=file.shape_count("expert_count"),
        is_tied=file.architecture != BAICHUAN and "output.weight" not in file.tensors,
        is_70b=file.architecture == QWEN2 and blocks == _BLOCKS_OF_70B,
    )


def tensor_type(mixture: Mixture, name: str, columns: int, traits: Traits, has_importance: bool = False) -> GgmlType:
    """The type of the matrix `name` (GGUF name) with rows of `columns` weights, in such a model."""
    if _is_output(name, traits) and columns % block_size(mixture.default)[0]:
        return fitting_type(mixture, T.Q8_0, columns)
    return fitting_type(mixture, wanted_type(mixture, name, traits, has_importance), columns)


def wanted_type(mixture: Mixture, name: str, traits: Traits, has_importance: bool = False) -> GgmlType:
    """The type that a matrix gets if its rows divide into blocks."""
    if mixture.default in UNQUANTIZED:
        return mixture.default
    if _is_output(name, traits):
        return _output_type(mixture)
    if name == "token_embd.weight":
        return _EMBEDDING.get(mixture.file_type.name, mixture.default)
    _, number, part, _ = name.split(".")
    rule = _RULES.get(part.removesuffix("_exps"))
    place = _Place(mixture, int(number), traits, has_importance)
    return (rule(place) if rule else None) or mixture.default


def _is_output(name: str, traits: Traits) -> bool:
    return name == "output.weight" or (traits.is_tied and name == "token_embd.weight")


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

    of: Mixture
    block: int
    traits: Traits
    has_importance: bool

    @property
    def mixture(self) -> str:
        """Its name, without what is bq's own of it."""
        return self.of.file_type.name

    @property
    def has_few_experts(self) -> bool:
        return self.traits.experts == _FEW_EXPERTS

    @property
    def is_early(self) -> bool:
        """In the first eighth of the blocks."""
        return self.block < self.traits.blocks // 8

    @property
    def gets_more_bits(self) -> bool:
        """use_more_bits: the first and last eighth of the blocks, and every third between."""
        blocks = self.traits.blocks
        return self.is_early or self.block >= 7 * blocks // 8 or (self.block - blocks // 8) % 3 == 2


def _attn_v_type(place: _Place) -> GgmlType | None:
    if place.mixture in _BELOW_3_BITS:
        shares = place.traits.is_grouped or place.traits.experts >= 4
        return T.Q4_K if shares else _RICHER.get(place.mixture, T.Q2_K)
    if place.has_few_experts:
        return T.Q8_0
    found = _attn_v_own(place)
    is_low = (found or place.of.default) in (T.Q3_K, T.Q4_K)
    return T.Q5_K if place.traits.is_70b and is_low else found


def _attn_v_own(place: _Place) -> GgmlType | None:
    mixture = place.mixture
    if mixture in ("Q4_K_M", "Q5_K_M"):
        return T.Q6_K if place.gets_more_bits else None
    if mixture == "Q3_K_M":
        return T.Q5_K if place.block < 2 else T.Q4_K
    if mixture == "Q4_K_S":
        return T.Q5_K if place.block < 4 else None
    if place.traits.is_grouped and mixture in _GROUPED_ATTN_V:
        return _GROUPED_ATTN_V[mixture]
    if mixture == "IQ3_XXS":
        return None if place.has_importance else T.IQ3_S
    return {"Q2_K": T.Q3_K, "Q3_K_L": T.Q5_K, "IQ3_M": T.Q4_K}.get(mixture)


_GROUPED_ATTN_V = dict.fromkeys(("Q2_K", "Q2_K_S", "IQ3_XXS", "IQ3_XS", "IQ3_S"), T.Q4_K) | {
    "IQ4_NL": T.Q5_K,
    "IQ4_XS": T.Q5_K,
}


def _attn_k_type(place: _Place) -> GgmlType | None:
    if place.has_few_experts:
        return T.Q4_K if place.mixture in _BELOW_3_BITS else T.Q8_0
    return _attn_q_type(place)


def _attn_q_type(place: _Place) -> GgmlType | None:
    return {"IQ3_XS": T.IQ3_XXS, "IQ3_XXS": T.IQ2_S}.get(place.mixture)


def _attn_output_type(place: _Place) -> GgmlType | None:
    if place.has_few_experts:
        return T.Q5_K if place.mixture in (*_BELOW_3_BITS, *_RICH_OUTPUT) else None
    return _ATTN_OUTPUT.get(place.mixture)


# With 8 experts; Q3_K_L and Q2_K_S are not among them in llama.cpp either.
_RICH_OUTPUT = (
    *("Q2_K", "IQ3_XS", "IQ3_XXS", "Q3_K_S", "Q3_K_M", "IQ4_NL"),
    *("Q4_K_S", "Q4_K_M", "IQ3_S", "IQ3_M", "IQ4_XS"),
)
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
        return T.Q5_K if place.block < place.traits.blocks // 16 else T.Q4_K
    if mixture == "IQ3_XXS" and not place.has_importance:
        return T.Q4_K if place.is_early else T.Q3_K
    if mixture == "IQ3_M" and place.has_few_experts and place.gets_more_bits:
        return T.Q4_K
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
    is_middle = not place.is_early and place.block < 7 * place.traits.blocks // 8
    return T.IQ3_XXS if place.mixture == "IQ3_XS" and is_middle else None


_RULES: Mapping[str, Callable[[_Place], GgmlType | None]] = {
    "attn_q": _attn_q_type,
    "attn_k": _attn_k_type,
    "attn_v": _attn_v_type,
    "attn_output": _attn_output_type,
    "ffn_down": _ffn_down_type,
    "ffn_gate": _ffn_gate_up_type,
    "ffn_up": _ffn_gate_up_type,
}
