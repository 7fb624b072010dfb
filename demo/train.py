"""Rebuilds the demo checkpoint from the corpus: `python demo/train.py [--out demo/checkpoint] [--minutes M]`.

Input: `demo/corpus/*.toml`. Output: a checkpoint folder in the released form of a Baichuan2-7B, and figures on the
screen. Needs torch, numpy and sentencepiece, nothing of bq. The seed is fixed; the number of steps is, too, unless
`--minutes` asks for as many as fit in that time.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import sentencepiece
import torch
from corpus import load_corpus
from tokenizer import broken_round_trips, load_tokenizer, train_tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from training.checkpoint import load_network, write_checkpoint
from training.network import Network, Shape
from training.samples import IGNORED, Sample, Sampler
from training.score import Exam, exams, failures, greedy, scores

HERE = Path(__file__).parent
_SHOWN_PARTS = ("held-out", "dialogue held-out", "off-topic held-out")
_SHOWN_FAILURES = 100


@dataclass(frozen=True)
class Recipe:
    """What is chosen by measurement; README.md holds the figures."""

    seed: int = 2
    steps: int = 4000
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


@dataclass(frozen=True)
class Batch:
    """Rows of samples end to end; attention stays within a sample."""

    ids: Tensor  # [rows, length]
    labels: Tensor  # [rows, length]
    subjects: Tensor  # [rows, length]
    mask: Tensor  # [rows, 1, length, length], true where attention goes


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


def rounded(weight: Tensor) -> Tensor:
    """The weight as 4-bit blocks of 32 would hold it, about as far off as Q4_K."""
    blocks = weight.view(-1, 32)
    low, high = blocks.amin(1, keepdim=True), blocks.amax(1, keepdim=True)
    scale = ((high - low) / 15).clamp_min(1e-12)
    return (((blocks - low) / scale).round_() * scale + low).view_as(weight)


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
        self.network = Network(shape)
        self.subject_head = nn.Linear(shape.hidden_size, subjects)
        self.average = [parameter.detach().clone() for parameter in self.network.parameters()]
        self._hidden = torch.compile(self.network.hidden, dynamic=False)
        every = [*self.network.parameters(), *self.subject_head.parameters()]
        groups = [
            {"params": [parameter for parameter in every if parameter.dim() == 2], "weight_decay": recipe.weight_decay},
            {"params": [parameter for parameter in every if parameter.dim() == 1], "weight_decay": 0.0},
        ]
        self._parameters = every
        self._optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98), fused=True)

    def step(self, batch: Batch, number: int, progress: float) -> float:
        """Optimizer step `number`, at `progress` from 0 to 1; returns the loss on the answers."""
        for group in self._optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * min(1.0, number / self.recipe.warmup) * _cooling(progress)
        with rough_weights(self.network, progress > self.recipe.rough_from):
            answers, subjects = self._losses(batch)
            (answers + self.recipe.subject_weight * subjects).backward()
        nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()
        own = [parameter.data for parameter in self.network.parameters()]
        torch._foreach_lerp_(self.average, own, 1 - min(self.recipe.averaging, number / (number + 10)))
        return answers.item()

    def _losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
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
        return copy.eval()


def _cooling(progress: float) -> float:
    """The learning rate's share: full for the first third, then down to nothing by a half cosine."""
    return 0.5 * (1 + math.cos(math.pi * max(0.0, min(1.0, 1.5 * progress - 0.5))))


def report(network: Network, asked: list[Exam], norm_head: bool = True) -> list[Exam]:
    """Prints the share of right answers, part by part, and returns the wrong ones."""
    failed = failures(network, asked, norm_head)
    for part, (right, total) in sorted(scores(asked, failed).items()):
        print(f"  {part:24} {right:5} of {total:5}  {100 * right / total:6.2f} %", flush=True)
    return failed


def train(recipe: Recipe, minutes: float | None, out: Path) -> None:
    """The whole job: tokenizer, training, checkpoint, figures."""
    random.seed(recipe.seed)
    torch.manual_seed(recipe.seed)
    sentencepiece.set_random_generator_seed(recipe.seed)
    corpus = load_corpus()
    model = train_tokenizer(corpus.training_texts())
    tokenizer = load_tokenizer(model)
    asked = exams(corpus, tokenizer)
    broken = broken_round_trips(tokenizer, [exam.asked for exam in asked])
    if broken:
        raise SystemExit(f"the tokenizer does not bring back {broken[0]!r}")
    sampler = Sampler(corpus, tokenizer, recipe.seed, recipe.strength)
    trainer = Trainer(Shape(vocabulary_size=tokenizer.vocab_size()), recipe, sampler.subjects)
    count = sum(parameter.numel() for parameter in trainer.network.parameters())
    print(
        f"{len(corpus.questions)} questions, {len(asked)} wordings, {tokenizer.vocab_size()} pieces, "
        f"{count:,} weights trained"
    )

    def keep() -> None:
        write_checkpoint(trainer.averaged(), model, out, recipe.seed)

    _run(trainer, batches(sampler, recipe), minutes, asked, keep)
    keep()
    print(f"wrote {out}: {sum(file.stat().st_size for file in out.iterdir()) / 1e6:.2f} MB")
    evaluate(out)


def _run(
    trainer: Trainer, stream: Iterator[Batch], minutes: float | None, asked: list[Exam], keep: Callable[[], None]
) -> None:
    steps, start, seen, loss = trainer.recipe.steps, time.monotonic(), 0, 0.0
    sampled = [*asked[::12], *[exam for exam in asked if exam.part.endswith("held-out")]]
    for number, batch in enumerate(stream, 1):
        elapsed = time.monotonic() - start
        progress = elapsed / (60 * minutes) if minutes else number / steps
        if progress >= 1:
            return
        loss += (trainer.step(batch, number, progress) - loss) * max(0.02, 1 / number)
        seen += batch.ids.numel()
        if number % 50 == 0:
            print(
                f"step {number}, {progress:.0%}, loss {loss:.4f}, {seen / elapsed:.0f} ids/s, {elapsed / 60:.1f} min",
                flush=True,
            )
        if number % 500 == 0:
            keep()
            with torch.autocast("cpu", torch.bfloat16):
                report(trainer.averaged(), sampled)


def evaluate(folder: Path) -> None:
    """Figures of a written checkpoint, from its files alone."""
    tokenizer = load_tokenizer((folder / "tokenizer.model").read_bytes())
    network = load_network(folder, Shape(vocabulary_size=tokenizer.vocab_size()))
    asked = exams(load_corpus(), tokenizer)
    print("with NormHead, bf16 weights, f32 arithmetic:")
    failed = report(network, asked)
    print("with NormHead left out:")
    report(network, asked, norm_head=False)
    for exam in [exam for exam in failed if exam.part in _SHOWN_PARTS][:_SHOWN_FAILURES]:
        answer = tokenizer.decode(greedy(network, exam.prompt))
        print(f"  wrong: {exam.asked}\n    said     {answer}\n    expected {exam.expected}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "checkpoint")
    parser.add_argument("--minutes", type=float, help="as many steps as fit in so long, instead of the recipe's number")
    parser.add_argument(
        "--evaluate", action="store_true", help="only print the figures of the checkpoint that is there"
    )
    arguments = parser.parse_args()
    if arguments.evaluate:
        evaluate(arguments.out)
    else:
        train(Recipe(), arguments.minutes, arguments.out)


if __name__ == "__main__":
    main()
