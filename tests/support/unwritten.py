"""A checkpoint of any size that is not on disk: names, shapes and element types, for plans that read no weight."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bq.convert.checkpoint import Checkpoint
from bq.convert.source import MappedFile, SourceTensor, contiguous_strides
from tests.support import m1, qwen
from tests.support.families import Shape, config, weights


def unwritten(shape: Shape, folder: Path = Path("nowhere")) -> Checkpoint:
    """The checkpoint that `write_checkpoint` would write for `shape`, as `open_checkpoint` would see it."""
    file = MappedFile(folder / "pytorch_model.bin")
    tensors = {
        one.name: SourceTensor(one.name, shape.dtype, one.shape, contiguous_strides(one.shape), 0, file)
        for one in weights(shape)
    }
    return Checkpoint(folder, config(shape), (file.path,), tensors)


def release(layout: str) -> Checkpoint:
    """The checkpoint of a layout of models.toml. Of the M series, the shapes are those of their bases' own config.json."""
    if layout == "baichuan-m1-14b":
        heads = {"heads": 20, "kv_heads": 2, "window_heads": 40, "window_kv_heads": 8}
        return m1.unwritten(m1.Shape(hidden=5120, blocks=40, ffn=17408, vocab=133120, **heads))
    if layout == "baichuan-m2-32b":
        shape = qwen.Shape("qwen2", hidden=5120, blocks=64, heads=40, kv_heads=8, ffn=27648, context=131072)
        return qwen.unwritten(qwen.padded(shape, 152064))
    if layout == "baichuan-m3-235b":
        shape = qwen.Shape("qwen3moe", hidden=4096, blocks=94, heads=64, kv_heads=4, width=128, ffn=12288)
        return qwen.unwritten(qwen.padded(replace(shape, experts=128, used=8, expert_ffn=1536), 151936))
    return unwritten(release_shape(layout))


def release_shape(layout: str) -> Shape:
    """The shape of a layout of models.toml, such as "baichuan2-7b"."""
    family = layout.replace("baichuan-", "b1-").replace("baichuan2-", "b2-")
    vocab = 125696 if family.startswith("b2") else 64000
    if family.endswith("13b"):
        return Shape(family, hidden=5120, heads=40, ffn=13696, vocab=vocab)  # type: ignore[arg-type]
    return Shape(family, hidden=4096, heads=32, ffn=11008, vocab=vocab)  # type: ignore[arg-type]
