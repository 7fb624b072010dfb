"""The layout of an architecture, in llama.cpp's order."""

from collections.abc import Callable, Container, Iterator, Mapping

from bq.convert.layouts.baichuan import baichuan_slots
from bq.convert.layouts.baichuan_m1 import baichuan_m1_slots
from bq.convert.layouts.qwen2 import qwen2_slots
from bq.convert.layouts.qwen3moe import qwen3moe_slots
from bq.convert.layouts.slot import Slot
from bq.convert.model_config import BAICHUAN, BAICHUAN_M1, QWEN2, QWEN3MOE, ModelConfig

_LAYOUTS: Mapping[str, Callable[[ModelConfig, Container[str], bool], Iterator[Slot]]] = {
    BAICHUAN: baichuan_slots,
    BAICHUAN_M1: baichuan_m1_slots,
    QWEN2: qwen2_slots,
    QWEN3MOE: qwen3moe_slots,
}


def slots_of(config: ModelConfig, names: Container[str], fold: bool) -> list[Slot]:
    """Every output tensor in llama.cpp's order: those outside the blocks, then by block and name (weight_name_comparer,
    src/llama-model-loader.h).
    """
    return sorted(_LAYOUTS[config.architecture](config, names, fold), key=_place)


def _place(slot: Slot) -> tuple[int, str]:
    block = int(slot.name.split(".")[1]) if slot.name.startswith("blk.") else -1
    return block, slot.name
