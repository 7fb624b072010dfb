"""Types are those of llama.cpp's own table (llama-quant.cpp, written out in shared/llama.md section 2.3)."""

import pytest

from bq.convert.mixture import (
    ALL_MIXTURES,
    CALIBRATED_MIXTURES,
    DEFAULT_MIXTURE,
    MIXTURES,
    OWN_MIXTURES,
    find_mixture,
    own_mixture,
)
from bq.convert.tensor_types import Traits, tensor_type, type_needs_importance
from bq.runtime.ggml import GgmlType
from tests.support.refusals import refusal

ALL = "F32 F16 BF16 Q8_0 Q6_K Q5_K_M Q5_K_S Q5_1 Q5_0 Q4_K_M Q4_K_S Q4_1 Q4_0 IQ4_NL IQ4_XS Q3_K_L Q3_K_M Q3_K_S IQ3_M IQ3_S Q2_K"
MORE = {
    32: {*range(4), *range(6, 28, 3), *range(28, 32)},
    40: {*range(5), *range(7, 35, 3), *range(35, 40)},
}
# mixture: default, attn_v, ffn_down, attn_output; a rule is (type, blocks) or a type for all, else the default.
EIGHTH, SIXTEENTH = "eighth", "sixteenth"
TABLE: dict[str, tuple[str, dict[str, list[tuple[object, str]]]]] = {
    "Q8_0": ("Q8_0", {}),
    "Q6_K": ("Q6_K", {}),
    "Q5_K_S": ("Q5_K", {}),
    "Q3_K_S": ("Q3_K", {}),
    "Q5_K_M": ("Q5_K", {"attn_v": [("more", "Q6_K")], "ffn_down": [("more", "Q6_K")]}),
    "Q4_K_M": ("Q4_K", {"attn_v": [("more", "Q6_K")], "ffn_down": [("more", "Q6_K")]}),
    "Q4_K_S": ("Q4_K", {"attn_v": [(4, "Q5_K")], "ffn_down": [(EIGHTH, "Q5_K")]}),
    "Q3_K_L": ("Q3_K", {part: [("all", "Q5_K")] for part in ("attn_v", "ffn_down", "attn_output")}),
    "Q3_K_M": (
        "Q3_K",
        {
            "attn_v": [(2, "Q5_K"), ("all", "Q4_K")],
            "ffn_down": [(SIXTEENTH, "Q5_K"), ("all", "Q4_K")],
            "attn_output": [("all", "Q4_K")],
        },
    ),
    "Q2_K": ("Q2_K", {part: [("all", "Q3_K")] for part in ("attn_v", "ffn_down", "attn_output")}),
    "Q4_0": ("Q4_0", {}),
    "Q4_1": ("Q4_1", {}),
    "Q5_0": ("Q5_0", {}),
    "Q5_1": ("Q5_1", {}),
    "IQ4_XS": ("IQ4_XS", {"ffn_down": [(EIGHTH, "Q5_K")]}),
    "IQ4_NL": ("IQ4_NL", {"ffn_down": [(EIGHTH, "Q5_K")]}),
    "IQ3_M": ("IQ3_S", {"attn_v": [("all", "Q4_K")], "ffn_down": [(EIGHTH, "Q4_K")], "attn_output": [("all", "Q4_K")]}),
    "IQ3_S": ("IQ3_S", {}),
}
# The same with an importance matrix, where the mixture needs one or is another with it. "middle" is between the first and the last
# eighth.
LOW = {"attn_v": [("all", "Q2_K")], "ffn_down": [(EIGHTH, "Q2_K")]}
RICH = {"attn_v": [("all", "IQ3_S")], "ffn_down": [(EIGHTH, "IQ3_S")], "attn_output": [("all", "IQ3_S")]}
WITH_IMPORTANCE: dict[str, tuple[str, dict[str, list[tuple[object, str]]]]] = {
    "Q4_0": ("Q4_0", {"ffn_down": [(EIGHTH, "Q4_1")]}),
    "Q5_0": ("Q5_0", {"ffn_down": [(EIGHTH, "Q5_1")]}),
    "IQ4_XS": ("IQ4_XS", {}),
    "IQ4_NL": ("IQ4_NL", {}),
    "Q2_K_S": ("Q2_K", {"ffn_down": [(EIGHTH, "Q4_K")]}),
    "IQ3_XS": (
        "IQ3_S",
        {part: [("all", "IQ3_XXS")] for part in ("attn_q", "attn_k")}
        | {part: [("middle", "IQ3_XXS")] for part in ("ffn_gate", "ffn_up")},
    ),
    "IQ3_XXS": (
        "IQ3_XXS",
        {"attn_q": [("all", "IQ2_S")], "attn_k": [("all", "IQ2_S")], "attn_output": [("all", "IQ3_S")]},
    ),
    "IQ2_M": ("IQ2_S", RICH),
    "IQ2_S": ("IQ2_XS", RICH),
    "IQ2_XS": ("IQ2_XS", LOW),
    "IQ2_XXS": ("IQ2_XXS", LOW),
    "IQ1_M": ("IQ1_M", LOW | {"attn_output": [("all", "IQ2_XXS")]}),
    "IQ1_S": ("IQ1_S", LOW | {"attn_output": [("all", "IQ2_XXS")]}),
}
Q5_OUTPUT = ("IQ3_XXS", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S")
EMBEDDING = {"IQ3_XXS": "IQ3_S", "IQ2_M": "IQ3_S", "IQ2_S": "IQ3_S", **dict.fromkeys(Q5_OUTPUT[3:], "Q2_K")}
PARTS = ("attn_k", "attn_q", "attn_v", "attn_output", "ffn_down", "ffn_gate", "ffn_up")


def by_table(entry: tuple[str, dict[str, list[tuple[object, str]]]], part: str, block: int, blocks: int) -> str:
    default, rules = entry
    for where, kind in rules.get(part, []):
        if where == "middle":
            if blocks // 8 <= block < 7 * blocks // 8:
                return kind
            continue
        bound = {EIGHTH: blocks // 8, SIXTEENTH: blocks // 16, "all": blocks}.get(str(where), where)
        if block in MORE[blocks] if where == "more" else block < bound:  # type: ignore[operator]
            return kind
    return default


@pytest.mark.parametrize("blocks", [32, 40])
@pytest.mark.parametrize("mixture", TABLE)
def test_every_type_is_that_of_the_table(mixture: str, blocks: int) -> None:
    chosen = MIXTURES[mixture]
    for block in range(blocks):
        for part in PARTS:
            found = tensor_type(chosen, f"blk.{block}.{part}.weight", 4096, Traits(blocks))
            assert found.name == by_table(TABLE[mixture], part, block, blocks), (part, block)
    assert tensor_type(chosen, "output.weight", 4096, Traits(blocks)).name == ("Q8_0" if mixture == "Q8_0" else "Q6_K")
    assert tensor_type(chosen, "token_embd.weight", 4096, Traits(blocks)).name == TABLE[mixture][0]


@pytest.mark.parametrize("blocks", [32, 40])
@pytest.mark.parametrize("mixture", TABLE | WITH_IMPORTANCE)
def test_every_type_with_an_importance_is_that_of_the_table(mixture: str, blocks: int) -> None:
    chosen, entry = ALL_MIXTURES[mixture], (TABLE | WITH_IMPORTANCE)[mixture]
    for block in range(blocks):
        for part in PARTS:
            found = tensor_type(chosen, f"blk.{block}.{part}.weight", 4096, Traits(blocks), True)
            assert found.name == by_table(entry, part, block, blocks), (part, block)
    output = "Q5_K" if mixture in Q5_OUTPUT else "Q8_0" if mixture == "Q8_0" else "Q6_K"
    assert tensor_type(chosen, "output.weight", 4096, Traits(blocks), True).name == output
    assert tensor_type(chosen, "token_embd.weight", 4096, Traits(blocks), True).name == EMBEDDING.get(mixture, entry[0])


@pytest.mark.parametrize("mixture", CALIBRATED_MIXTURES)
def test_a_mixture_that_needs_an_importance_has_types_that_do(mixture: str) -> None:
    chosen = CALIBRATED_MIXTURES[mixture]
    assert chosen.needs_importance
    assert type_needs_importance(
        chosen, "blk.20.attn_q.weight", tensor_type(chosen, "blk.20.attn_q.weight", 4096, Traits(32))
    )
    for other in MIXTURES.values():
        kinds = {tensor_type(other, f"blk.{i}.{part}.weight", 4096, Traits(32)) for i in range(32) for part in PARTS}
        assert not any(type_needs_importance(other, "blk.0.attn_q.weight", kind) for kind in kinds)
        assert not other.needs_importance


@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
def test_unquantized_mixtures_have_one_type(name: str) -> None:
    for tensor in ("output.weight", "token_embd.weight", "blk.0.attn_v.weight"):
        for columns in (4096, 96, 33):
            assert tensor_type(MIXTURES[name], tensor, columns, Traits(32)).name == name


@pytest.mark.parametrize(
    ("mixture", "narrow"),
    [
        ("Q2_K", "Q4_0"),
        ("Q3_K_S", "Q4_0"),
        ("Q4_K_S", "Q5_0"),
        ("Q5_K_S", "Q5_1"),
        ("Q6_K", "Q8_0"),
        ("IQ3_S", "IQ4_NL"),
        ("IQ4_XS", "IQ4_NL"),
        ("IQ3_XXS", "IQ4_NL"),
        ("IQ2_M", "IQ4_NL"),
        ("IQ2_S", "IQ4_NL"),
        ("IQ2_XXS", "IQ4_NL"),
        ("IQ1_M", "IQ4_NL"),
        ("IQ1_S", "IQ4_NL"),
        ("Q2_K_S", "Q4_0"),
        ("Q8_0", "Q8_0"),
        ("Q4_0", "Q4_0"),
        ("IQ4_NL", "IQ4_NL"),
    ],
)
def test_rows_that_do_not_divide_fall_back(mixture: str, narrow: str) -> None:
    gate = "blk.20.ffn_gate.weight"
    assert tensor_type(ALL_MIXTURES[mixture], gate, 13696, Traits(40)).name == narrow
    assert tensor_type(ALL_MIXTURES[mixture], gate, 48, Traits(40)).name == "F16"
    is_wide = GgmlType[ALL_MIXTURES[mixture].default.name].name not in ("Q8_0", "Q4_0", "IQ4_NL")
    assert tensor_type(ALL_MIXTURES[mixture], "output.weight", 13696, Traits(40)).name == "Q8_0"
    assert tensor_type(ALL_MIXTURES[mixture], "output.weight", 48, Traits(40)).name == "F16"
    assert is_wide or narrow == mixture


def test_all_mixtures_are_there_under_llama_cpps_numbers() -> None:
    from gguf import LlamaFileType

    assert list(MIXTURES) == ALL.split()
    assert DEFAULT_MIXTURE == "Q4_K_M"
    for name, mixture in (MIXTURES | CALIBRATED_MIXTURES).items():
        number = LlamaFileType(mixture.file_type).name.removeprefix("MOSTLY_").removeprefix("ALL_")
        assert number == name


def test_a_name_is_found_in_any_case_and_another_refused_with_the_list() -> None:
    assert find_mixture("q4_k_m").name == "Q4_K_M"
    message = refusal(find_mixture, "Q7_K")
    assert "There is no mixture Q7_K" in message
    assert ALL in message
    assert f"with an importance matrix also {' '.join(CALIBRATED_MIXTURES)}" in message


@pytest.mark.parametrize("mixture", OWN_MIXTURES)
def test_a_mixture_of_ours_is_llama_cpps_where_rows_divide(mixture: str) -> None:
    ours = OWN_MIXTURES[mixture]
    theirs = MIXTURES[mixture.removesuffix("_NL")]
    assert own_mixture(theirs) is ours
    for block in range(40):
        for part in PARTS:
            name = f"blk.{block}.{part}.weight"
            assert tensor_type(ours, name, 5120, Traits(40)) == tensor_type(theirs, name, 5120, Traits(40))


@pytest.mark.parametrize("mixture", OWN_MIXTURES)
def test_a_mixture_of_ours_is_never_larger(mixture: str) -> None:
    from bq.runtime.ggml import row_bytes

    ours, theirs = OWN_MIXTURES[mixture], MIXTURES[mixture.removesuffix("_NL")]
    for block in range(40):
        name = f"blk.{block}.ffn_down.weight"
        kinds = [tensor_type(one, name, 13696, Traits(40)) for one in (ours, theirs)]
        assert row_bytes(kinds[0], 13696) <= row_bytes(kinds[1], 13696)
