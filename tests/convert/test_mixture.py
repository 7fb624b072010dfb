"""Types are those of llama.cpp's own table (llama-quant.cpp, written out in shared/llama.md section 2.3)."""

import pytest

from bq.convert.mixture import DEFAULT_MIXTURE, MIXTURES, OWN_MIXTURES, find_mixture, own_mixture, tensor_type
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
PARTS = ("attn_k", "attn_q", "attn_v", "attn_output", "ffn_down", "ffn_gate", "ffn_up")


def by_table(mixture: str, part: str, block: int, blocks: int) -> str:
    default, rules = TABLE[mixture]
    for where, kind in rules.get(part, []):
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
            found = tensor_type(chosen, f"blk.{block}.{part}.weight", 4096, blocks)
            assert found.name == by_table(mixture, part, block, blocks), (part, block)
    assert tensor_type(chosen, "output.weight", 4096, blocks).name == ("Q8_0" if mixture == "Q8_0" else "Q6_K")
    assert tensor_type(chosen, "token_embd.weight", 4096, blocks).name == TABLE[mixture][0]


@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
def test_unquantized_mixtures_have_one_type(name: str) -> None:
    for tensor in ("output.weight", "token_embd.weight", "blk.0.attn_v.weight"):
        for columns in (4096, 96, 33):
            assert tensor_type(MIXTURES[name], tensor, columns, 32).name == name


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
        ("Q8_0", "Q8_0"),
        ("Q4_0", "Q4_0"),
        ("IQ4_NL", "IQ4_NL"),
    ],
)
def test_rows_that_do_not_divide_fall_back(mixture: str, narrow: str) -> None:
    gate = "blk.20.ffn_gate.weight"
    assert tensor_type(MIXTURES[mixture], gate, 13696, 40).name == narrow
    assert tensor_type(MIXTURES[mixture], gate, 48, 40).name == "F16"
    is_wide = GgmlType[MIXTURES[mixture].default.name].name not in ("Q8_0", "Q4_0", "IQ4_NL")
    assert tensor_type(MIXTURES[mixture], "output.weight", 13696, 40).name == "Q8_0"
    assert tensor_type(MIXTURES[mixture], "output.weight", 48, 40).name == "F16"
    assert is_wide or narrow == mixture


def test_all_mixtures_are_there_under_llama_cpps_numbers() -> None:
    from gguf import LlamaFileType

    assert list(MIXTURES) == ALL.split()
    assert DEFAULT_MIXTURE == "Q4_K_M"
    for name, mixture in MIXTURES.items():
        number = LlamaFileType(mixture.file_type).name.removeprefix("MOSTLY_").removeprefix("ALL_")
        assert number == name


def test_a_name_is_found_in_any_case_and_another_refused_with_the_list() -> None:
    assert find_mixture("q4_k_m").name == "Q4_K_M"
    message = refusal(find_mixture, "Q7_K")
    assert "There is no mixture Q7_K" in message
    assert ALL in message


@pytest.mark.parametrize("mixture", OWN_MIXTURES)
def test_a_mixture_of_ours_is_llama_cpps_where_rows_divide(mixture: str) -> None:
    ours = OWN_MIXTURES[mixture]
    theirs = MIXTURES[mixture.removesuffix("_NL")]
    assert own_mixture(theirs) is ours
    for block in range(40):
        for part in PARTS:
            name = f"blk.{block}.{part}.weight"
            assert tensor_type(ours, name, 5120, 40) == tensor_type(theirs, name, 5120, 40)


@pytest.mark.parametrize("mixture", OWN_MIXTURES)
def test_a_mixture_of_ours_is_never_larger(mixture: str) -> None:
    from bq.runtime.ggml import row_bytes

    ours, theirs = OWN_MIXTURES[mixture], MIXTURES[mixture.removesuffix("_NL")]
    for block in range(40):
        name = f"blk.{block}.ffn_down.weight"
        kinds = [tensor_type(one, name, 13696, 40) for one in (ours, theirs)]
        assert row_bytes(kinds[0], 13696) <= row_bytes(kinds[1], 13696)
