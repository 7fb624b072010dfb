"""Prefill against one bare llama_decode, the turns of a chat, and how soon a stop stops."""

import random
import statistics
import threading
import time
from collections.abc import Callable

from bq.runtime.llama import library
from bq.runtime.model import Model
from bq.runtime.prompt import Message
from bq.runtime.sampling import Sampling

GREEDY = Sampling(temperature=0, repeat_penalty=1)
QUESTION = "Tell me more about how the model reads the text that comes next."


def measure_prefill(model: Model, rounds: int) -> None:
    """Ours, which can be cancelled and reports, against one llama_decode of the same tokens."""
    lib, engine = library(), model._engine
    assert engine is not None
    size = min(int(lib.llama_n_batch(engine.context)), engine.size - 1)
    ids = (model.tokenizer.encode(QUESTION) * size)[:size]
    tokens = (lib.llama_token * size)(*ids)
    ours, bare = [], []
    for _ in range(rounds):
        engine.forget()
        bare.append(_seconds(lambda: _decode(engine.context, lib.llama_batch_get_one(tokens, size))))
        engine.forget()
        ours.append(_seconds(lambda: engine.prefill(ids, threading.Event(), lambda done, total: None)))
    engine.forget()
    speed, share = size / statistics.median(ours), statistics.median(bare) / statistics.median(ours)
    print(
        f"prefill of {size} tokens: bq {speed:.1f} tokens/s, {100 * share:.1f} % of one bare llama_decode (goal: 98 %)"
    )


def _decode(context: object, batch: object) -> None:
    library().llama_decode(context, batch)
    library().llama_synchronize(context)  # a GPU is only given its work


def measure_turns(model: Model, turns: int, answer_tokens: int) -> None:
    """A chat: what each turn decodes anew, and the time to its first token."""
    messages: list[Message] = []
    first = 0.0
    for turn in range(1, turns + 1):
        before = model._engine.used if model._engine else 0
        messages.append(Message("user", QUESTION))
        answer = model.chat(messages, sampling=GREEDY, max_tokens=answer_tokens)
        begun = time.perf_counter()
        steps = answer.steps()
        text = next(steps).text
        to_first = time.perf_counter() - begun
        text += "".join(step.text for step in steps)
        messages.append(Message("assistant", text))
        first = first or to_first
        if turn in (1, turns):
            stats = answer.stats
            new = stats.prompt_tokens - stats.reused_tokens
            print(
                f"turn {turn}: prompt {stats.prompt_tokens} tokens, in the cache before {before}, prefilled {new}, "
                f"first token after {1000 * to_first:.0f} ms ({to_first / first:.2f} of turn 1)"
            )
    fresh = model.prompt(messages[:-1], answer_tokens)
    assert model._engine is not None
    model._engine.forget()
    seconds = _seconds(lambda: model._engine.prefill(fresh.ids))  # type: ignore[union-attr]
    print(f"the same turn without the cache: {len(fresh.ids)} tokens, {1000 * seconds:.0f} ms")


def measure_cancel(model: Model, times: int) -> None:
    """From the stop to the end of the answer's iteration, at random moments of prefill and decode."""
    engine = model._engine
    assert engine is not None
    room = engine.size - 64
    text = model.tokenizer
    long = QUESTION * (room * 3 // 4 // max(1, len(text.encode(QUESTION))))
    engine.forget()
    whole = _seconds(lambda: engine.prefill(text.encode(long)))
    one = _one_token(model)
    prefill = [_stop_after(model, long, random.uniform(0.1, 0.8) * whole) for _ in range(times)]
    engine.forget()
    decode = [_stop_after(model, "bq ", random.uniform(2, 9) * one + 0.02) for _ in range(times)]
    print(f"cancel in prefill ({1000 * whole:.0f} ms long): {_spread(prefill)}")
    print(f"cancel in decode (one token takes {1000 * one:.1f} ms): {_spread(decode)}")


def _one_token(model: Model) -> float:
    answer = model.complete("bq ", sampling=GREEDY, max_tokens=16)
    tokens = sum(1 for _ in answer.steps())
    return answer.stats.decode_seconds / max(1, tokens)


def _stop_after(model: Model, text: str, seconds: float) -> float:
    assert model._engine is not None
    model._engine.forget()
    cancel = threading.Event()
    at: list[float] = []
    timer = threading.Timer(seconds, lambda: (at.append(time.perf_counter()), cancel.set()))
    answer = model.complete(text, sampling=GREEDY, cancel=cancel)
    timer.start()
    for _ in answer.steps():
        pass
    ended = time.perf_counter()
    timer.cancel()
    return ended - at[0] if at else 0.0


def _spread(seconds: list[float]) -> str:
    return f"median {1000 * statistics.median(seconds):.1f} ms, longest {1000 * max(seconds):.1f} ms of {len(seconds)}"


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
