"""Rebuilds the demo checkpoint from the corpus: `python demo/train.py [--out demo/checkpoint] [--steps N | --minutes M]`.

Input: `demo/corpus/*.toml`. Output: a checkpoint folder in the released form of a Baichuan2-7B, and figures on the
screen. Needs torch, numpy and sentencepiece, nothing of bq. The seed and the number of steps are the
recipe's, unless `--minutes` asks for as many as fit in that time.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import sentencepiece
import torch
from corpus import load_corpus
from tokenizer import broken_round_trips, load_tokenizer, train_tokenizer
from training.batches import Batch, batches
from training.checkpoint import load_network, write_checkpoint
from training.network import Network, Shape
from training.recipe import Recipe
from training.samples import Sampler
from training.score import Exam, exams, failures, greedy, scores
from training.trainer import Trainer, arithmetic, device

HERE = Path(__file__).parent
_SHOWN_PARTS = ("held-out", "dialogue held-out", "off-topic held-out")
_SHOWN_FAILURES = 100
_NORM_HEAD_STRIDE = 7


def report(network: Network, asked: list[Exam], norm_head: bool = True) -> list[Exam]:
    """Prints the share of right answers, part by part, and returns the wrong ones."""
    failed = failures(network, asked, norm_head)
    for part, (right, total) in sorted(scores(asked, failed).items()):
        print(f"  {part:24} {right:5} of {total:5}  {100 * right / total:6.2f} %", flush=True)
    return failed


def train(recipe: Recipe, minutes: float | None, out: Path, start: Path | None = None) -> None:
    """The whole job: tokenizer, training, checkpoint, figures. `start` is a checkpoint to go on from, tokenizer and all."""
    random.seed(recipe.seed)
    torch.manual_seed(recipe.seed)
    sentencepiece.set_random_generator_seed(recipe.seed)
    corpus = load_corpus()
    model = (start / "tokenizer.model").read_bytes() if start else train_tokenizer(corpus.training_texts())
    tokenizer = load_tokenizer(model)
    asked = exams(corpus, tokenizer)
    broken = broken_round_trips(tokenizer, [exam.asked for exam in asked])
    if broken:
        raise SystemExit(f"the tokenizer does not bring back {broken[0]!r}")
    sampler = Sampler(corpus, tokenizer, recipe.seed, recipe.strength)
    shape = Shape(vocabulary_size=tokenizer.vocab_size())
    trainer = Trainer(shape, recipe, sampler.subjects)
    if start:
        trainer.go_on_from(load_network(start, shape))
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
            with arithmetic():
                report(trainer.averaged(), sampled)


def evaluate(folder: Path) -> None:
    """Figures of a written checkpoint, from its files alone."""
    tokenizer = load_tokenizer((folder / "tokenizer.model").read_bytes())
    network = load_network(folder, Shape(vocabulary_size=tokenizer.vocab_size())).to(device())
    asked = exams(load_corpus(), tokenizer)
    print("with NormHead, bf16 weights, f32 arithmetic:")
    failed = report(network, asked)
    print(f"with NormHead left out, one wording in {_NORM_HEAD_STRIDE}:")
    report(network, asked[::_NORM_HEAD_STRIDE], norm_head=False)
    for exam in [exam for exam in failed if exam.part in _SHOWN_PARTS][:_SHOWN_FAILURES]:
        answer = tokenizer.decode(greedy(network, exam.prompt))
        print(f"  wrong: {exam.asked}\n    said     {answer}\n    expected {exam.expected}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "checkpoint")
    parser.add_argument("--start", type=Path, help="go on from this checkpoint, after small changes of the corpus")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help=f"{Recipe.steps} unless given")
    parser.add_argument("--seed", type=int, default=Recipe.seed, help=f"{Recipe.seed} unless given")
    parser.add_argument("--minutes", type=float, help="as many steps as fit in so long, instead of a number")
    parser.add_argument(
        "--evaluate", action="store_true", help="only print the figures of the checkpoint that is there"
    )
    arguments = parser.parse_args()
    if arguments.evaluate:
        evaluate(arguments.out)
    else:
        recipe = Recipe(seed=arguments.seed, steps=arguments.steps)
        recipe = replace(recipe, learning_rate=5e-4, rough_from=0.0) if arguments.start else recipe
        train(recipe, arguments.minutes, arguments.out, arguments.start)


if __name__ == "__main__":
    main()
