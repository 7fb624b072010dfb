"""Whether a checkpoint holds the tensors of its model: none missing, none too many, each of the right shape and not quantized."""

from bq.convert.checkpoint import Checkpoint
from bq.convert.gptq import Source
from bq.convert.layouts.slot import Slot
from bq.runtime.errors import BqError
from bq.runtime.language import say

# What bitsandbytes, Baichuan's own int8 and GPTQ or AWQ call the parts of a quantized matrix.
_REPACKED = (".weight.data", ".quant_state", ".absmax", ".SCB", ".weight_scale", ".qweight")


def check_names(checkpoint: Checkpoint, found: set[str], wanted: set[str]) -> None:
    """Raises BqError unless the names of the tensors are those that the model has."""
    if repacked := sorted(name for name in found if name.endswith(_REPACKED)):
        raise BqError(
            say(
                f"This is a 4-bit or int8 repack: it holds {repacked[0]}.",
                f"这是 4 位或 int8 量化的重打包版本：含有 {repacked[0]}。",
            ),
            say("Use the bf16 release.", "请使用 bf16 的原版发布。"),
        )
    for names, en, zh in (
        (wanted - found, "{} tensors are missing, the first is {}.", "缺少 {} 个张量，第一个是 {}。"),
        (
            found - wanted,
            "{} tensors are too many for this config, the first is {}.",
            "比 config 多出 {} 个张量，第一个是 {}。",
        ),
    ):
        if names:
            raise BqError(
                say(en, zh).format(len(names), min(names)),
                say(
                    f"Expected {len(wanted)} and found {len(found)} in {len(checkpoint.files)} file(s); take weights and "
                    "config.json from the same release, and download missing shards.",
                    f"应有 {len(wanted)} 个，在 {len(checkpoint.files)} 个文件中找到 {len(found)} 个；请使用同一发布中的权重与 "
                    "config.json，并下载缺失的分片。",
                ),
            )


def checked(source: Source, slot: Slot) -> Source:
    """The source, if it is what the slot expects; raises BqError if not."""
    if source.shape != slot.expected:
        raise BqError(
            say(
                f"{source.name} in {source.file.path.name} has the shape {list(source.shape)}, by config.json it should be "
                f"{list(slot.expected)}.",
                f"{source.file.path.name} 中 {source.name} 的形状为 {list(source.shape)}，按 config.json 应为 {list(slot.expected)}。",
            ),
            say("Take weights and config.json from the same release.", "请使用同一发布中的权重与 config.json。"),
        )
    if not source.is_float:
        raise BqError(
            say(
                f"{source.name} in {source.file.path.name} is {source.dtype}, expected bf16, f16 or f32: a quantized repack.",
                f"{source.file.path.name} 中 {source.name} 为 {source.dtype}，应为 bf16、f16 或 f32：这是量化后的重打包版本。",
            ),
            say("Use the bf16 release.", "请使用 bf16 的原版发布。"),
        )
    return source
