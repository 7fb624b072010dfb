"""Batches of two shapes only, so that the compiled network is compiled twice: packed questions, long conversations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .recipe import Recipe
from .samples import IGNORED, Sample, Sampler


@dataclass(frozen=True)
class Batch:
    """Rows of samples end to end; attention stays within a sample."""

    ids: Tensor  # [rows, length]
    labels: Tensor  # [rows, length]
    subjects: Tensor  # [rows, length]
    mask: Tensor  # [rows, 1, length, length], true where attention goes

    def to(self, device: torch.device) -> Batch:
        """The same there."""
        return Batch(self.ids.to(device), self.labels.to(device), self.subjects.to(device), self.mask.to(device))


def pack(samples: Iterator[Sample], rows: int, length: int) -> Batch:
    """Fills each row with whole samples. RoPE is relative, so a sample may begin anywhere."""
    ids, numbers = torch.zeros(rows, length, dtype=torch.long), torch.zeros(rows, length, dtype=torch.long)
    labels, subjects = torch.full_like(ids, IGNORED), torch.full_like(ids, IGNORED)
    waiting = next(samples)
    for row in range(rows):
        at, number = 0, 1
        while at + len(waiting.ids) <= length:
            end = at + len(waiting.ids)
            ids[row, at:end], labels[row, at:end] = torch.tensor(waiting.ids), torch.tensor(waiting.labels)
            subjects[row, at:end], numbers[row, at:end] = torch.tensor(waiting.subjects), number
            at, number, waiting = end, number + 1, next(samples)
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    return Batch(ids, labels, subjects, ((numbers[:, None, :] == numbers[:, :, None]) & causal)[:, None])


def batches(sampler: Sampler, recipe: Recipe) -> Iterator[Batch]:
    """Packed short samples, and every few steps long conversations."""

    def shorts() -> Iterator[Sample]:
        while True:
            sample = sampler.short()
            if len(sample.ids) <= recipe.row_length:
                yield sample

    def longs() -> Iterator[Sample]:
        while True:
            yield sampler.long(recipe.long_length)

    short_samples, long_samples, step = shorts(), longs(), 0
    while True:
        step += 1
        if step % recipe.long_every:
            yield pack(short_samples, recipe.rows, recipe.row_length)
        else:
            yield pack(long_samples, recipe.long_rows, recipe.long_length)
