"""How the next token is drawn: the release's parameters, and llama.cpp's samplers in the order of the reference.

transformers applies the repetition penalty to the whole sequence, prompt included, then temperature, top-k and top-p;
top-k commutes with the temperature and comes first here, since it leaves less to do.
"""

import ctypes
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bq.runtime.llama import library

if TYPE_CHECKING:
    from bq.runtime.gguf_file import GgufFile

_RANDOM_SEED = 0xFFFFFFFF  # LLAMA_DEFAULT_SEED: llama.cpp draws one itself


@dataclass(frozen=True)
class Sampling:
    """temperature 0 is greedy; top_k 0 and top_p 1 cut nothing; repeat_penalty 1 penalizes nothing; seed None is random."""

    temperature: float = 0.3
    top_k: int = 5
    top_p: float = 0.85
    repeat_penalty: float = 1.05
    seed: int | None = None


def sampling_of(file: "GgufFile") -> Sampling:
    """The defaults that a file's release came with (general.sampling.*), Baichuan 2's where it has none that make sense."""
    default = Sampling()

    def within(key: str, least: float, most: float, default: float) -> float:
        value = file.number(f"general.sampling.{key}", default)
        return float(value) if least <= value <= most else default

    return Sampling(
        temperature=within("temp", 0, 100, default.temperature),
        top_k=int(within("top_k", 0, 1 << 20, default.top_k)),
        top_p=within("top_p", 0, 1, default.top_p),
        repeat_penalty=within("penalty_repeat", 0.01, 100, default.repeat_penalty),
    )


class Sampler:
    """llama.cpp's sampler chain for one answer. `window` is the context's size, for the penalty over all of it."""

    def __init__(self, sampling: Sampling, vocab_size: int, window: int, prompt: Iterable[int]) -> None:
        self._lib = lib = library()
        self._chain: Any = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        for sampler in _chain_of(lib, sampling, vocab_size, window):
            lib.llama_sampler_chain_add(self._chain, sampler)
        if sampling.repeat_penalty != 1:
            for token in prompt:
                lib.llama_sampler_accept(self._chain, token)

    def sample(self, context: Any) -> int:
        """Draw a token from the last logits of `context` and remember it."""
        return int(self._lib.llama_sampler_sample(self._chain, context, -1))

    def close(self) -> None:
        """Free the chain; it is not used again."""
        if self._chain:
            self._lib.llama_sampler_free(self._chain)
            self._chain = None


def _chain_of(lib: Any, sampling: Sampling, vocab_size: int, window: int) -> Iterable[ctypes.c_void_p]:
    if sampling.repeat_penalty != 1:
        yield lib.llama_sampler_init_penalties(vocab_size, window, sampling.repeat_penalty, 0.0, 0.0)
    if sampling.temperature <= 0:
        yield lib.llama_sampler_init_greedy()
        return
    yield lib.llama_sampler_init_top_k(sampling.top_k)
    yield lib.llama_sampler_init_temp(sampling.temperature)
    yield lib.llama_sampler_init_top_p(sampling.top_p, 1)
    yield lib.llama_sampler_init_dist(_RANDOM_SEED if sampling.seed is None else sampling.seed)
