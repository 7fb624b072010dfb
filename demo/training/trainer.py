"""The network in training: AdamW, a running average, and weights roughened as quantization will.

On a GPU where torch has one. The arithmetic is bf16 there and on processors that have instructions for it, else f32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .batches import Batch
from .network import Network, Shape
from .recipe import Recipe
from .samples import IGNORED


def rounded(weight: Tensor) -> Tensor:
    """The weight as 4-bit blocks of 32 would hold it, about as far off as Q4_K."""
    blocks = weight.view(-1, 32)
    low, high = blocks.amin(1, keepdim=True), blocks.amax(1, keepdim=True)
    scale = ((high - low) / 15).clamp_min(1e-12)
    return (((blocks - low) / scale).round_() * scale + low).view_as(weight)


def device() -> torch.device:
    """Where to train."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def arithmetic() -> AbstractContextManager[object]:
    """bf16 autocast, unless this processor would have to emulate it."""
    return torch.autocast(device().type, torch.bfloat16, enabled=device().type == "cuda" or _has_bf16())


def _has_bf16() -> bool:
    has = torch.cpu.get_capabilities()
    return any(has.get(name, False) for name in ("amx_bf16", "avx512_bf16", "bf16"))


@contextmanager
def rough_weights(network: Network, rough: bool) -> Iterator[None]:
    """While it lasts the matrices are rounded: the loss learns to stand it, the weights themselves stay exact."""
    if not rough:
        yield
        return
    matrices = [
        parameter for name, parameter in network.named_parameters() if parameter.dim() == 2 and name != "lm_head"
    ]
    exact = [matrix.data for matrix in matrices]
    for matrix in matrices:
        matrix.data = rounded(matrix.data)
    yield
    for matrix, data in zip(matrices, exact, strict=True):
        matrix.data = data


class Trainer:
    """The network with its optimizer and its running average."""

    def __init__(self, shape: Shape, recipe: Recipe, subjects: int) -> None:
        self.recipe = recipe
        self.network = Network(shape).to(device())
        self.subject_head = nn.Linear(shape.hidden_size, subjects).to(device())
        self.average = [parameter.detach().clone() for parameter in self.network.parameters()]
        # A GPU computes a step of so small a network sooner than it is compiled.
        compiled = device().type == "cpu"
        self._hidden = torch.compile(self.network.hidden, dynamic=False) if compiled else self.network.hidden
        every = [*self.network.parameters(), *self.subject_head.parameters()]
        groups = [
            {"params": [parameter for parameter in every if parameter.dim() == 2], "weight_decay": recipe.weight_decay},
            {"params": [parameter for parameter in every if parameter.dim() == 1], "weight_decay": 0.0},
        ]
        self._parameters = every
        self._optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98), fused=True)

    def go_on_from(self, network: Network) -> None:
        """Start from trained weights instead of random ones; the rows of `lm_head`, of any length in a file, get length 1.

        NormHead is the same for both, but a step of the optimizer would turn short rows too far.
        """
        self.network.load_state_dict(network.state_dict())
        self.network.lm_head.data = F.normalize(self.network.lm_head.data)
        self.average = [parameter.detach().clone() for parameter in self.network.parameters()]

    def step(self, batch: Batch, number: int, progress: float) -> float:
        """Optimizer step `number`, at `progress` from 0 to 1; returns the loss on the answers."""
        for group in self._optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * min(1.0, number / self.recipe.warmup) * _cooling(progress)
        with rough_weights(self.network, progress > self.recipe.rough_from):
            answers, subjects = self._losses(batch.to(device()))
            (answers + self.recipe.subject_weight * subjects).backward()
        nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()
        own = [parameter.data for parameter in self.network.parameters()]
        torch._foreach_lerp_(self.average, own, 1 - min(self.recipe.averaging, number / (number + 10)))
        return answers.item()

    def _losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        with arithmetic():
            hidden = self._hidden(batch.ids, batch.mask, self.recipe.dropout)
            logits = self.network.logits(hidden[batch.labels != IGNORED])
            subjects = self.subject_head(hidden[batch.subjects != IGNORED])
        return (
            F.cross_entropy(logits.float(), batch.labels[batch.labels != IGNORED]),
            F.cross_entropy(subjects.float(), batch.subjects[batch.subjects != IGNORED]),
        )

    def averaged(self) -> Network:
        """A copy of the network with the averaged weights at the precision of the file."""
        copy = Network(self.network.shape)
        for parameter, average in zip(copy.parameters(), self.average, strict=True):
            parameter.data = average.to(torch.bfloat16).float()
        return copy.eval().to(device())


def _cooling(progress: float) -> float:
    """The learning rate's share: full for the first third, then down to nothing by a half cosine."""
    return 0.5 * (1 + math.cos(math.pi * max(0.0, min(1.0, 1.5 * progress - 0.5))))
