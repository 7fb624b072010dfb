"""What guessing ahead gives: several tokens in one decode, and answers with and without, in turn in one run.

    .venv/bin/python -m bench.draft [--models demo shallow | FILE.gguf …] [--threads N] [--kv f16|q8_0] [--tokens 160] [--rounds 3]

Three tables for each model. Decode times by width, and whether the logits are those of single steps to the bit: only such
widths are used. Answers that are written for it, token by token, whatever the model would say: a corrected text, extracted
sentences, and texts that repeat nothing; the work is that of a model that says this. For the bundled model also answers that
are really its own: questions asked again in one conversation, whose answer stands before, and questions asked once.
"""

import argparse
import functools
import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench import models
from bq.demo.corpus import load_corpus
from bq.runtime.draft import Draft, Steps
from bq.runtime.generation import Generation, Stats
from bq.runtime.loading import LoadOptions, load
from bq.runtime.model import Model
from bq.runtime.prompt import Message
from bq.runtime.sampling import F32, Logits, MakeConstraint, Sampling
from bq.runtime.tokenizer import Tokenizer

GREEDY = Sampling(temperature=0, repeat_penalty=1)
WIDTHS = (1, 2, 3, 4, 7, 8, 16)
PLACES = (128, 384)  # before and after the 256 cells from which attention by several threads rounds otherwise
PROMPT_TOKENS = 400
ROOT = Path(__file__).resolve().parent.parent


class Tape:
    """A constraint under which an answer is a given one."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens, self._next = tokens, 0

    def allows(self, token: int) -> bool:
        return self._next < len(self._tokens) and token == self._tokens[self._next]

    def mask(self, logits: F32) -> None:
        logits[:] = -np.inf
        logits[self._tokens[self._next]] = 0

    def accept(self, token: int) -> None:
        self._next += 1

    def may_end(self) -> bool:
        return True

    def must_end(self) -> bool:
        return self._next == len(self._tokens)

    def closing(self, logits: F32) -> int | None:
        return None

    def close(self) -> None:
        pass


@dataclass
class Result:
    """Answers of one kind: seconds per token of each without and with, and what was counted with."""

    plain: list[float] = field(default_factory=list)
    ahead: list[float] = field(default_factory=list)
    tokens: int = 0
    drafted: int = 0
    accepted: int = 0
    others: int = 0  # answers that came out differently

    def add(self, plain: Stats, ahead: Stats, is_same: bool) -> None:
        self.plain.append(1 / plain.tokens_per_second)
        self.ahead.append(1 / ahead.tokens_per_second)
        self.tokens += plain.tokens
        self.drafted += ahead.drafted
        self.accepted += ahead.accepted
        self.others += not is_same

    def line(self, name: str) -> str:
        ratio = statistics.median(plain / ahead for plain, ahead in zip(self.plain, self.ahead, strict=True))
        return (
            f"{name:28} {1000 * statistics.median(self.plain):8.2f} ms per token, with {1000 * statistics.median(self.ahead):8.2f}, "
            f"ratio {ratio:5.2f}; {self.accepted} of {self.drafted} guesses right in {self.tokens} tokens, "
            f"{self.others} of {len(self.plain)} answers differ"
        )


def main() -> None:
    """Each model in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["demo", "shallow"])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--kv", choices=["f16", "q8_0"])
    parser.add_argument("--tokens", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    for name in arguments.models:
        path = models.named(name)
        with load(path, LoadOptions(ctx=1024, threads=arguments.threads, kv=arguments.kv)) as model:
            print(
                f"\n== {path.name}: {path.stat().st_size / 1e6:,.0f} MB, {model.fit and model.fit.plan.threads} threads"
            )
            measure_widths(model, 3 * arguments.rounds)
            measure_draft(model, arguments.tokens, arguments.rounds)


def measure_widths(model: Model, rounds: int) -> None:
    """Milliseconds of one decode by its number of tokens, and whether its logits are those of single steps."""
    assert model._engine is not None
    engine, logits = model._engine, Logits(len(model.tokenizer))
    text = model.tokenizer.encode(_text("README.md"))
    for place in PLACES:
        engine.forget()
        engine.prefill(text[:place])
        tokens, single, times = text[place : place + WIDTHS[-1]], [], dict[int, list[float]]()
        for token in tokens:
            engine.add(token)
            single.append(logits.row(engine.context, -1).copy())
        same = dict[int, bool]()
        for width in WIDTHS * rounds:
            engine.truncate(place)
            begun = time.perf_counter()
            engine.add_several(tokens[:width])
            times.setdefault(width, []).append(time.perf_counter() - begun)
            rows = [logits.row(engine.context, i) for i in range(width)]
            same[width] = all(map(np.array_equal, rows, single))
        one = statistics.median(times[1])
        print(f"after {place} tokens: " + ", ".join(_width(width, times[width], one, same[width]) for width in WIDTHS))


def _width(width: int, times: Sequence[float], one: float, is_same: bool) -> str:
    median = statistics.median(times)
    return f"{width}: {1000 * median:.1f} ms ({median / one:.2f}, {'same' if is_same else 'other'} logits)"


def measure_draft(model: Model, tokens: int, rounds: int) -> None:
    """Tokens per second without and with, in turn; what was learnt of the steps stays from answer to answer."""
    steps = Steps()
    results: dict[str, Result] = {}
    for number in range(rounds):
        for name, prompt, answer in _written(model.tokenizer, tokens):
            result = results.setdefault(name, Result())
            make = functools.partial(_taped, answer)
            _both(result, model, steps, number, lambda options: model.complete(prompt, **options), make)  # noqa: B023
        if model.info.name == models.DEMO_NAME:
            _own_answers(model, steps, number, results)
    for name, result in results.items():
        print(result.line(name), flush=True)


def _taped(answer: Sequence[int], _: Tokenizer) -> Tape:
    return Tape(answer)


def _both(result: Result, model: Model, steps: Steps, number: int, ask: object, make: MakeConstraint | None) -> None:
    stats, answers = {}, {}
    for with_draft in (False, True) if number % 2 == 0 else (True, False):
        assert model._engine is not None
        model._engine.forget()
        draft = functools.partial(Draft, steps=steps) if with_draft else False
        options = {"sampling": GREEDY, "max_tokens": 256, "constraint": make, "draft": draft}
        generation: Generation = ask(options)  # type: ignore[operator]
        answers[with_draft] = [step.token for step in generation.steps()]
        stats[with_draft] = generation.stats
    result.add(stats[False], stats[True], answers[False] == answers[True])


def _written(tokenizer: Tokenizer, tokens: int) -> list[tuple[str, str, list[int]]]:
    """Kinds of answers: name, prompt, and the answer's ids."""
    english, chinese, licence = _text("README.md"), _text("README.zh-CN.md"), _text("LICENSE")
    english = _first(tokenizer, english, PROMPT_TOKENS)
    chinese = _first(tokenizer, chinese, PROMPT_TOKENS)
    sentences = re.split(r"(?<=[.!?:])\s+", english)
    extracted = "\n".join(f"{i}. {one}" for i, one in enumerate(sentences[1::2], 1))
    return [
        ("nothing to repeat", "bq ", tokenizer.encode(licence)[:tokens]),
        ("another text in the prompt", chinese, tokenizer.encode(licence)[:tokens]),
        ("a text corrected", _with_typos(english), tokenizer.encode(english)[:tokens]),
        ("a text corrected, Chinese", chinese.replace("的", "得"), tokenizer.encode(chinese)[:tokens]),
        ("sentences extracted", english, tokenizer.encode(extracted)[:tokens]),
    ]


def _own_answers(model: Model, steps: Steps, number: int, results: dict[str, Result]) -> None:
    longest = sorted(load_corpus().questions, key=lambda question: -len(question.answer))[:12]
    for question in longest:
        asked = Message("user", question.ask[0])
        again = [asked, Message("assistant", question.answer), asked]
        for name, messages in (("own answers, asked once", [asked]), ("own answers, asked again", again)):
            result = results.setdefault(name, Result())
            _both(result, model, steps, number, lambda options: model.chat(messages, **options), None)  # noqa: B023


def _with_typos(text: str) -> str:
    words = text.split(" ")
    words[5::12] = [word[:1] + word[2:3] + word[1:2] + word[3:] for word in words[5::12]]
    return " ".join(words)


def _first(tokenizer: Tokenizer, text: str, tokens: int) -> str:
    """The beginning of a text, whole lines of at most so many tokens."""
    lines = text.splitlines(keepends=True)
    while len(tokenizer.encode("".join(lines))) > tokens:
        lines.pop()
    return "".join(lines)


def _text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


if __name__ == "__main__":
    main()
