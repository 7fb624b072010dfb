"""A checkpoint of any size that is not on disk: names, shapes and element types, for plans that read no weight."""

from __future__ import annotations

from pathlib import Path

from bq.convert.checkpoint import Checkpoint
from bq.convert.source import MappedFile, SourceTensor, contiguous_strides
from tests.support.families import Shape, config, weights


def unwritten(shape: Shape, folder: Path = Path("nowhere")) -> Checkpoint:
    """The checkpoint that `write_checkpoint` would write for `shape`, as `open_checkpoint` would see it."""
    file = MappedFile(folder / "pytorch_model.bin")
    tensors = {
        one.name: SourceTensor(one.name, shape.dtype, one.shape, contiguous_strides(one.shape), 0, file)
        for one in weights(shape)
    }
    return Checkpoint(folder, config(shape), (file.path,), tensors)


def release_shape(layout: str) -> Shape:
    """The shape of a layout of models.toml, such as "baichuan2-7b"."""
    family = layout.replace("baichuan-", "b1-").replace("baichuan2-", "b2-")
    vocab = 125696 if family.startswith("b2") else 64000
    if family.endswith("13b"):
        return Shape(family, hidden=5120, heads=40, ffn=13696, vocab=vocab)  # type: ignore[arg-type]
    return Shape(family, hidden=4096, heads=32, ffn=11008, vocab=vocab)  # type: ignore[arg-type]
