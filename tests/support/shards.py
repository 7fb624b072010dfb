"""Splits a list of tensors over shards and writes the index that names them, as transformers' save_pretrained does.

Promise: shards hold consecutive tensors of about equal size; the index lists every tensor by name in sorted order and
the bytes of all of them as `total_size`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.support.stored import Stored


def split(tensors: Sequence[Stored], count: int) -> list[list[Stored]]:
    """`count` runs of consecutive tensors; the shard of a tensor is where its first byte falls."""
    total = sum(tensor.storage.size_bytes for tensor in tensors)
    runs: list[list[Stored]] = [[] for _ in range(count)]
    position = 0
    for tensor in tensors:
        runs[min(position * count // max(total, 1), count - 1)].append(tensor)
        position += tensor.storage.size_bytes
    if not all(runs):
        raise ValueError(f"{len(tensors)} tensors do not fill {count} shards")
    return runs


def write_shards(
    folder: Path,
    tensors: Sequence[Stored],
    count: int,
    names: tuple[str, str],
    write: Callable[[Path, Sequence[Stored]], None],
) -> None:
    """Write `stem-0000i-of-0000n.suffix` files and `stem.suffix.index.json`, for `names` = (stem, suffix)."""
    stem, suffix = names
    weight_map: dict[str, str] = {}
    for number, run in enumerate(split(tensors, count), start=1):
        shard = f"{stem}-{number:05d}-of-{count:05d}.{suffix}"
        write(folder / shard, run)
        weight_map.update((tensor.name, shard) for tensor in run)
    total = sum(tensor.storage.size_bytes for tensor in tensors)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
