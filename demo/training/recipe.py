"""What was chosen by measurement for the training; README.md holds the figures."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """Every number that a run depends on."""

    seed: int = 2
    steps: int = 2400
    learning_rate: float = 2e-3
    warmup: int = 150
    weight_decay: float = 0.1
    dropout: float = 0.1
    strength: float = 1.0  # of augmentation
    subject_weight: float = 0.3
    rows: int = 20  # of packed short samples
    row_length: int = 192
    long_every: int = 5  # one step in so many has long conversations
    long_rows: int = 5
    long_length: int = 768
    rough_from: float = 0.6  # share of the steps after which weights are rounded in the forward pass
    averaging: float = 0.995
