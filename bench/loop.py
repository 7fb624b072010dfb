"""What our token loop adds to llama.cpp, against the bindings' `Llama` class, in turn in one run.

    .venv/bin/python -m bench.loop MODEL.gguf [--tokens 512] [--rounds 3]

Each answers with the same sampling for the same number of tokens; a bare `llama_decode` loop with a greedy pick is the
floor. Prints milliseconds per token of each and what it adds to the floor.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from bq.runtime.llama import library
from bq.runtime.load import load
from bq.runtime.model import Model
from bq.runtime.sampling import Sampling

PROMPT = "bq "
SAMPLING = Sampling(temperature=0.3, top_k=5, top_p=0.85, repeat_penalty=1.05, seed=1)


def main() -> None:
    """Measure the three loops in turn and print their medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    model = load(arguments.model)
    model._engine.is_end = lambda token: False  # type: ignore[union-attr, method-assign]  # random text may end at once
    class_loop = _class_loop(arguments.model, model.info.context)
    loops: dict[str, Callable[[int], float]] = {
        "bare llama_decode": lambda n: _bare_loop(model, n),
        "bq": lambda n: _our_loop(model, n),
        "Llama class": class_loop,
    }
    times: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(arguments.rounds):
        for name, loop in loops.items():
            times[name].append(loop(arguments.tokens))
    floor = statistics.median(times["bare llama_decode"])
    for name, values in times.items():
        per_token = statistics.median(values)
        print(f"{name:18} {per_token:7.3f} ms per token, {per_token - floor:+7.3f} above the bare loop")


def _bare_loop(model: Model, count: int) -> float:
    lib, engine = library(), model._engine
    assert engine is not None
    ids = model.tokenizer.encode(PROMPT)
    engine.keep_prefix([0])
    memory = lib.llama_get_memory(engine.context)
    lib.llama_memory_seq_rm(memory, 0, 0, -1)
    lib.llama_decode(engine.context, lib.llama_batch_get_one((lib.llama_token * len(ids))(*ids), len(ids)))
    greedy, one = lib.llama_sampler_init_greedy(), (lib.llama_token * 1)()
    begun = time.perf_counter()
    for _ in range(count):
        one[0] = lib.llama_sampler_sample(greedy, engine.context, -1)
        lib.llama_decode(engine.context, lib.llama_batch_get_one(one, 1))
    seconds = time.perf_counter() - begun
    lib.llama_memory_seq_rm(memory, 0, 0, -1)
    lib.llama_sampler_free(greedy)
    return 1000 * seconds / count


def _our_loop(model: Model, count: int) -> float:
    generation = model.complete(PROMPT, sampling=SAMPLING, max_tokens=count)
    for _ in generation:
        pass
    return 1000 * generation.stats.decode_seconds / generation.stats.tokens


def _class_loop(path: Path, context: int) -> Callable[[int], float]:
    from llama_cpp import Llama

    from bq.runtime.cpu import decode_threads

    llama = Llama(str(path), n_ctx=context, n_threads=decode_threads(path.stat().st_size), verbose=False)
    never_end = {2: -100.0, 195: -100.0}

    def loop(count: int) -> float:
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
        begun = time.perf_counter()
        pieces = sum(1 for _ in stream)
        return 1000 * (time.perf_counter() - begun) / max(1, pieces)

    return loop


if __name__ == "__main__":
    main()
