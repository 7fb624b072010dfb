"""Whatever stands in a config.json, it is a shape that a plan can be made of, or refused in one short line."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bq.convert.checkpoint import Checkpoint
from bq.convert.config import read_config
from bq.convert.model_config import MOST_BLOCKS, MOST_EXPERTS, ModelConfig
from bq.runtime.errors import BqError
from tests.support import families, m1, qwen
from tests.support.gptq import Packing
from tests.support.refusals import refusal

Config = dict[str, Any]
YARN = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 1024}
AUTO_ROUND = {
    "quant_method": "auto-round",
    "packing_format": "auto_round:auto_gptq",
    "extra_config": {"x": {"bits": 16}},
}
BASES: dict[str, Config] = {
    "baichuan": families.config(families.Shape("b2-7b")) | {"num_key_value_heads": None, "quantization_config": None},
    "llama": families.config(families.Shape("b2-7b")) | {"architectures": ["LlamaForCausalLM"], "rope_scaling": YARN},
    "m1": m1.config(m1.Shape()),
    "qwen2": qwen.config(qwen.Shape("qwen2")) | {"quantization_config": Packing().config() | {"dynamic": {}}},
    "qwen3moe": qwen.config(qwen.Shape("qwen3moe", width=24))
    | {"quantization_config": Packing().config() | AUTO_ROUND, "rope_parameters": YARN},
}


def places(config: Config, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Each key, and each within what stands there."""
    for key, value in config.items():
        yield (*before, key)
        if isinstance(value, dict):
            yield from places(value, (*before, key))


def changed(config: Config, place: tuple[str, ...], value: Any) -> Config:
    key, *rest = place
    return config | {key: changed(config[key], tuple(rest), value) if rest else value}


def outcome(config: Config) -> tuple[ModelConfig | None, str]:
    """The shape, or the message of the refusal."""
    try:
        return read_config(Checkpoint(Path(), config, (), {})), ""
    except BqError as error:
        return None, str(error)


EVERY = [(name, place) for name, config in BASES.items() for place in places(config)]
LONG = "x" * 100_000
VALUES = st.sampled_from(
    [None, True, False, 0, -1, 1, 4.0, 1e308, float("inf"), float("nan"), 1 << 40, 1 << 9999, LONG]
) | (
    st.recursive(
        st.sampled_from([None, 1, "gptq", LONG, -1]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["bits", "a"]), inner, max_size=2),
        max_leaves=6,
    )
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(EVERY), VALUES)
def test_any_value_is_taken_or_refused(at: tuple[str, tuple[str, ...]], value: Any) -> None:
    name, place = at
    found, message = outcome(changed(BASES[name], place, value))
    assert "\n" not in message
    assert len(message) < 600
    if found is None:
        assert message
        return
    experts = found.experts.total if found.experts else 1
    assert 0 < found.blocks <= MOST_BLOCKS
    assert 0 < experts <= MOST_EXPERTS
    assert found.gptq is None or type(found.gptq.per_word) is int


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("value", [1, "true", [True]])
def test_whether_the_output_is_tied_is_not_guessed(name: str, value: Any) -> None:
    checkpoint = Checkpoint(Path(), BASES[name] | {"tie_word_embeddings": value}, (), {})
    assert "tie_word_embeddings is" in refusal(read_config, checkpoint)


def test_a_missing_number_of_key_value_heads_is_that_of_the_heads() -> None:
    assert read_config(Checkpoint(Path(), BASES["baichuan"], (), {})).kv_heads == 6
