"""How much faster many instructions are through parallel sequences than one by one, in turn in one run.

    .venv/bin/python -m bench.batch [MODEL.gguf] [--lines 64] [--parallel 1,2,4,8,16] [--max-tokens 48] [--rounds 3] [--threads N]

Without a file, the bundled model. The instructions are questions that it was trained on, answered greedily, once with nothing
in common and once below one system text of some 60 tokens, which parallel sequences read once. Prints instructions per
second, the ratio to one by one, and how many answers differ by a token: a batch is rounded differently.
Goal: at least 2 times with 8 sequences.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import models
from bq.demo.corpus import load_corpus
from bq.runtime.batch import Job, run_batch
from bq.runtime.generation import Generation, Options
from bq.runtime.loading import LoadOptions, load
from bq.runtime.model import Model
from bq.runtime.prompt import Message, Prompt
from bq.runtime.sampling import Sampling

SYSTEM = "bq converts Baichuan checkpoints to GGUF and runs them. Base、Chat 和 Instruct 有什么区别？ " * 2
Answers = dict[int, tuple[int, ...]]


def main() -> None:
    """Measure each number of sequences in turn and print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--lines", type=int, default=64)
    parser.add_argument("--parallel", default="1,2,4,8,16")
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    given = parser.parse_args()
    counts = [int(count) for count in given.parallel.split(",")]
    path = given.model or models.demo("Q8_0")
    with load(path, LoadOptions(threads=given.threads, n_seq=max(counts))) as model:
        print(
            f"{path.name}, {model.fit.plan.threads} threads, {given.lines} lines of up to {given.max_tokens} tokens",
            flush=True,
        )
        for name, system in (("nothing in common", ""), ("one system text", SYSTEM)):
            _measure(model, _jobs(model, system, given.lines, given.max_tokens), counts, given.rounds, name)


def _jobs(model: Model, system: str, lines: int, max_tokens: int) -> list[Job]:
    options = Options(sampling=Sampling(temperature=0, repeat_penalty=1), max_tokens=max_tokens)
    wordings = [text for question in load_corpus().questions for text in question.ask]
    random.Random(1).shuffle(wordings)
    front = [Message("system", system)] if system else []
    texts = (wordings * (1 + lines // len(wordings)))[:lines]
    return [
        Job(i, model.prompt([*front, Message("user", text)], max_tokens).ids, options) for i, text in enumerate(texts)
    ]


def _measure(model: Model, jobs: Sequence[Job], counts: Sequence[int], rounds: int, name: str) -> None:
    ways: dict[str, Callable[[], Answers]] = {"one by one": lambda: _one_by_one(model, jobs)}
    for count in counts:
        ways[f"{count} sequences"] = lambda count=count: _parallel(model, jobs, count)  # type: ignore[misc]
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    found: dict[str, Answers] = {}
    for _ in range(rounds):
        for way, answer in ways.items():
            begun = time.perf_counter()
            found[way] = answer()
            seconds[way].append(time.perf_counter() - begun)
    print(f"{name}: prompts of {sum(len(job.ids) for job in jobs) / len(jobs):.0f} tokens on average")
    alone = found["one by one"]
    for way, times in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(seconds["one by one"], times, strict=True))
        speed = len(jobs) / statistics.median(times)
        tokens = sum(map(len, found[way].values())) / statistics.median(times)
        differ = sum(found[way][key] != alone[key] for key in alone)
        print(
            f"  {way:14} {speed:7.2f} per second  {tokens:7.1f} tokens/s  ratio {ratio:5.2f}  {differ} differ",
            flush=True,
        )


def _one_by_one(model: Model, jobs: Sequence[Job]) -> Answers:
    return {job.key: _answer(model._generate(Prompt(job.ids), job.options)) for job in jobs}


def _answer(generation: Generation) -> tuple[int, ...]:
    return tuple(step.token for step in generation.steps() if step.token is not None)


def _parallel(model: Model, jobs: Sequence[Job], count: int) -> Answers:
    return {result.key: result.ids for result in run_batch(model, jobs, count)}


if __name__ == "__main__":
    main()
