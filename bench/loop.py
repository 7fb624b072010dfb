"""What our token loop adds to llama.cpp, against a bare loop and the bindings' `Llama` class, in turn in one run."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bq.runtime.llama import library, model_params
from bq.runtime.model import Model
from bq.runtime.sampling import Sampling

PROMPT = "bq "
SAMPLING = Sampling(temperature=0.3, top_k=5, top_p=0.85, repeat_penalty=1.05, seed=1)
GOAL_MS = 0.15


@dataclass(frozen=True)
class Time:
    """Milliseconds per token: in all, and those not spent in llama_decode."""

    whole: float
    outside: float


class DecodeClock:
    """Adds up the time spent in llama_decode, whoever calls it through the bindings' module."""

    def __enter__(self) -> "DecodeClock":
        self._lib = library()
        self._decode = self._lib.llama_decode
        self.seconds = 0.0
        self._lib.llama_decode = self._timed
        return self

    def _timed(self, *arguments: Any) -> Any:
        begun = time.perf_counter()
        result = self._decode(*arguments)
        self.seconds += time.perf_counter() - begun
        return result

    def __exit__(self, *_: object) -> None:
        self._lib.llama_decode = self._decode


def measure_loops(model: Model, path: Path, lengths: list[int], rounds: int, with_class: bool) -> None:
    """Print milliseconds per token of each loop at each answer length, the median of some rounds in turn."""
    assert model._engine is not None
    model._engine.is_end = lambda token: False  # type: ignore[method-assign]  # random text may end at once
    loops: dict[str, Callable[[int], Time]] = {
        "bare loop": lambda n: _bare(model, n),
        "bq": lambda n: _ours(model, n, draft=False),
        "bq, drafts on": lambda n: _ours(model, n, draft=True),
    }
    if with_class:
        loops["Llama class"] = _llama_class(path, model)
    print(
        f"{'ms per token':14} {'tokens':>6} {'whole':>9} {'above bare':>11} {'outside llama_decode':>21} {'above bare':>11}"
    )
    for length in lengths:
        times: dict[str, list[Time]] = {name: [] for name in loops}
        for number in range(rounds):
            for name, loop in loops.items():
                if name != "Llama class" or (number == 0 and length == lengths[0]):  # minutes, on longer ones
                    times[name].append(loop(length))
        floor = _median(times["bare loop"])
        for name, some in times.items():
            if not some:
                continue
            one = _median(some)
            print(
                f"{name:14} {length:6} {one.whole:9.3f} {one.whole - floor.whole:+11.3f} {one.outside:21.3f} "
                f"{one.outside - floor.outside:+11.3f}",
                flush=True,
            )
    print(f"goal: bq at most {GOAL_MS} ms above the bare loop, at every length")


def _median(times: list[Time]) -> Time:
    return Time(statistics.median(one.whole for one in times), statistics.median(one.outside for one in times))


def _timed(count: int, work: Callable[[], None]) -> Time:
    with DecodeClock() as clock:
        begun = time.perf_counter()
        work()
        whole = time.perf_counter() - begun
    return Time(1000 * whole / count, 1000 * (whole - clock.seconds) / count)


def _bare(model: Model, count: int) -> Time:
    """llama_decode and a greedy pick by llama.cpp's own sampler, nothing else."""
    lib, engine = library(), model._engine
    assert engine is not None
    engine.forget()
    ids = model.tokenizer.encode(PROMPT)
    engine.prefill(ids)
    greedy, one = lib.llama_sampler_init_greedy(), (lib.llama_token * 1)()
    batch = lib.llama_batch_get_one(one, 1)

    def work() -> None:
        for _ in range(count):
            one[0] = lib.llama_sampler_sample(greedy, engine.context, -1)
            lib.llama_decode(engine.context, batch)

    time_ = _timed(count, work)
    lib.llama_sampler_free(greedy)
    engine.forget()
    return time_


def _ours(model: Model, count: int, draft: bool) -> Time:
    """The whole way to the text, with the release's sampling; without the prefill."""
    assert model._engine is not None
    model._engine.forget()
    generation = iter(model.complete(PROMPT, sampling=SAMPLING, max_tokens=count + 1, draft=draft).steps())
    next(generation)
    return _timed(count, lambda: [None for _ in generation] and None)


def _llama_class(path: Path, model: Model) -> Callable[[int], Time]:
    from llama_cpp import Llama

    lib = library()
    safe, defaults = model_params(), lib.llama_model_default_params  # the class takes no such parameters itself
    lib.llama_model_default_params = lambda: safe
    threads = lib.llama_n_threads(model._context)
    llama = Llama(str(path), n_ctx=model.info.context, n_threads=threads, verbose=False, flash_attn=True)
    lib.llama_model_default_params = defaults
    never_end = {2: -100.0, 195: -100.0}

    def loop(count: int) -> Time:
        stream = llama.create_completion(
            PROMPT,
            max_tokens=count,
            stream=True,
            temperature=SAMPLING.temperature,
            top_k=SAMPLING.top_k,
            top_p=SAMPLING.top_p,
            repeat_penalty=SAMPLING.repeat_penalty,
            seed=1,
            logit_bias=never_end,
        )
        next(stream)
        return _timed(count, lambda: [None for _ in stream] and None)

    return loop
