"""The next token is drawn from exactly the distribution of the reference: transformers' processors, in numpy here."""

import ctypes
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bq.runtime.errors import BqError, UsageError
from bq.runtime.gguf_file import GgufFile
from bq.runtime.llama import library
from bq.runtime.sampling import Sampler, Sampling, log_softmax, sampling_of, top_k

F64 = npt.NDArray[np.float64]
VOCAB = 40

_finite = st.floats(-8, 8, width=32)
# Values apart from each other: of equal logits at the edge of top-k or top-p, either may stay.
_logits = st.permutations(range(VOCAB)).flatmap(
    lambda order: _finite.map(lambda slope: [0.37 * rank * (1 + abs(slope) / 16) - 6 + slope / 9 for rank in order])
)


def reference(logits: Iterable[float], seen: Iterable[int], sampling: Sampling) -> F64:
    """Probabilities by transformers: RepetitionPenalty over the whole sequence, Temperature, TopK, TopP."""
    scores = np.array(list(logits), np.float64)
    for token in set(seen):
        scores[token] *= sampling.repeat_penalty if scores[token] < 0 else 1 / sampling.repeat_penalty
    scores /= sampling.temperature
    if sampling.top_k:
        scores[scores < np.sort(scores)[-min(sampling.top_k, len(scores))]] = -np.inf
    shares = np.exp(scores - scores.max())
    shares /= shares.sum()
    order = np.argsort(-shares)
    before = np.cumsum(shares[order]) - shares[order]
    shares[order[before >= sampling.top_p]] = 0
    if not shares.any():
        shares[order[0]] = 1
    return shares / shares.sum()


def chain(logits: Sequence[float], seen: Iterable[int], sampling: Sampling) -> tuple[F64, int]:
    """What bq makes of the same logits: probabilities, and the token it chose."""
    sampler = Sampler(sampling, len(logits), seen)
    chosen = sampler.draw(np.array(logits, np.float32))
    shares = np.zeros(len(logits))
    if sampler._chance is not None:
        array = sampler._chance._array
        for i in range(array.size):
            shares[array.data[i].id] = array.data[i].p
    sampler.close()
    return shares / (shares.sum() or 1), chosen


def llama_chain(logits: npt.NDArray[np.float32], seen: Sequence[int], sampling: Sampling, draws: int) -> list[int]:
    """What llama.cpp's own samplers choose, all of them, walking over all candidates."""
    lib = library()
    chained = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
    for sampler in (
        lib.llama_sampler_init_penalties(len(logits), 4096, sampling.repeat_penalty, 0.0, 0.0),
        lib.llama_sampler_init_top_k(sampling.top_k),
        lib.llama_sampler_init_temp(sampling.temperature),
        lib.llama_sampler_init_top_p(sampling.top_p, 1),
        lib.llama_sampler_init_dist(sampling.seed),
    ):
        lib.llama_sampler_chain_add(chained, sampler)
    for token in seen:
        lib.llama_sampler_accept(chained, token)
    chosen = []
    for _ in range(draws):
        data = (lib.llama_token_data * len(logits))(*((i, float(one), 0.0) for i, one in enumerate(logits)))
        array = lib.llama_token_data_array(data=data, size=len(logits), selected=-1, sorted=False)
        lib.llama_sampler_apply(chained, ctypes.byref(array))
        chosen.append(int(array.data[array.selected].id))
        lib.llama_sampler_accept(chained, chosen[-1])
    lib.llama_sampler_free(chained)
    return chosen


@pytest.mark.parametrize("vocab", [500, 5003, 9001, 16384])
@pytest.mark.parametrize("top_k", [1, 5, 64, 65, 400])
def test_the_same_tokens_come_as_from_llama_cpps_samplers(vocab: int, top_k: int) -> None:
    """The same seed, penalty and cuts; the generator is theirs, the way to the candidates is ours."""
    random = np.random.default_rng(vocab + top_k)
    logits = (random.standard_normal(vocab) * 2).astype(np.float32)
    seen = [int(one) for one in np.argsort(logits)[-6::2]]
    sampling = Sampling(0.9, top_k, 0.95, 1.2, seed=7)
    sampler = Sampler(sampling, vocab, seen)
    ours = [sampler.draw(logits.copy()) for _ in range(12)]
    sampler.close()
    assert ours == llama_chain(logits, seen, sampling, 12)


@pytest.mark.parametrize("top_p", [0.5, 0.9, 0.999])
def test_without_top_k_each_draw_is_from_its_own_logits(top_p: float) -> None:
    """One sampler over many draws: llama.cpp's top-p leaves the candidates in another order than it found them."""
    random = np.random.default_rng(5)
    sampling = Sampling(0.8, 0, top_p, 1, seed=3)
    sampler = Sampler(sampling, 200)
    for _ in range(200):
        logits = (random.standard_normal(200) * 3).astype(np.float32)
        assert reference(logits.astype(float), (), sampling)[sampler.draw(logits.copy())] > 0
    sampler.close()


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": -0.1}, {"temperature": float("nan")}, {"top_k": -1}, {"top_p": 1.1}, {"repeat_penalty": 0.0},
     {"repeat_penalty": float("inf")}, {"seed": -5}, {"seed": 2**32 - 1}],
)  # fmt: skip
def test_senseless_sampling_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Sampling(**wrong)


@pytest.mark.parametrize("sampling", [Sampling(0, 0, 1, 1), Sampling(0.3), Sampling(1, 0, 1), Sampling(1, 90)])
@pytest.mark.parametrize("where", [0, 77, 2999])
def test_a_model_that_computes_no_numbers_is_named(sampling: Sampling, where: int) -> None:
    logits = np.linspace(0, 1, 3000, dtype=np.float32)
    logits[where] = np.nan
    with pytest.raises(BqError, match="NaN"):
        Sampler(sampling, 3000).draw(logits)


@settings(max_examples=300, deadline=None)
@given(size=st.integers(1, 5000) | st.integers(8000, 20000), count=st.integers(1, 130), seed=st.integers(0, 99))
def test_top_k_is_what_sorting_gives(size: int, count: int, seed: int) -> None:
    logits = np.random.default_rng(seed).standard_normal(size).astype(np.float32)
    assert top_k(logits, count).tolist() == np.argsort(-logits)[:count].tolist()


def test_probabilities_of_the_model_itself() -> None:
    logits = np.array([1.0, 2.0, 3.0, -np.inf], np.float32)
    found = np.exp(log_softmax(logits, [2, 0, 3]))
    assert found == pytest.approx(np.exp([3, 1, -np.inf]) / np.exp([1, 2, 3]).sum(), abs=1e-7)


@settings(max_examples=1500, deadline=None)
@given(
    logits=_logits,
    seen=st.lists(st.integers(0, VOCAB - 1), max_size=200),
    temperature=st.floats(0.1, 2),
    top_k=st.integers(0, VOCAB + 5),
    top_p=st.floats(0.05, 1),
    penalty=st.floats(0.5, 1.5),
)
def test_probabilities_are_the_references(
    logits: list[float], seen: list[int], temperature: float, top_k: int, top_p: float, penalty: float
) -> None:
    sampling = Sampling(temperature, top_k, top_p, penalty, seed=1)
    expected = reference(logits, seen, sampling)
    # Where float32 decides whether the last token is inside top-p, either answer is right.
    near = [reference(logits, seen, replace(sampling, top_p=min(1, top_p + off))) for off in (-1e-5, 1e-5)]
    found, chosen = chain(logits, seen, sampling)
    assert any(np.abs(found - one).max() < 1e-4 for one in (expected, *near))
    assert found[chosen] > 0


def test_the_releases_defaults_are_used_as_they_are() -> None:
    logits = [3.0, 2.95, 2.9, 2.85, 2.7, 2.6, *[0.0] * 34]
    shares, _ = chain(logits, [0], Sampling(seed=1))
    assert np.flatnonzero(shares).tolist() == [0, 1, 2, 3]  # of five, one is beyond top-p; the penalized one is third
    assert shares == pytest.approx(reference(logits, [0], Sampling()), abs=1e-5)


@pytest.mark.parametrize("back", [1, 63, 64, 65, 100, 4096])
def test_the_penalty_reaches_the_whole_context(back: int) -> None:
    """llama.cpp's own default would forget a token after 64."""
    seen = [7, *[3] * (back - 1)]
    logits = [2.0 if token == 7 else 1.9 for token in range(VOCAB)]
    assert chain(logits, seen, Sampling(temperature=0, repeat_penalty=1.2))[1] != 7
    assert chain(logits, seen, Sampling(temperature=0, repeat_penalty=1.0))[1] == 7


def test_what_was_drawn_is_penalized_too() -> None:
    logits = np.array([2.0 if token == 7 else 1.9 if token == 9 else 0.0 for token in range(VOCAB)], np.float32)
    sampler = Sampler(Sampling(temperature=0, repeat_penalty=1.2), VOCAB)
    chosen = [sampler.draw(logits.copy()) for _ in range(3)]
    sampler.close()
    assert chosen == [7, 9, 7]


@settings(max_examples=300, deadline=None)
@given(logits=_logits, seen=st.lists(st.integers(0, VOCAB - 1), max_size=20), penalty=st.floats(0.5, 1.5))
def test_temperature_0_is_greedy_after_the_penalty(logits: list[float], seen: list[int], penalty: float) -> None:
    expected = reference(logits, seen, Sampling(1.0, 0, 1.0, penalty))
    _, chosen = chain(logits, seen, Sampling(temperature=0, repeat_penalty=penalty))
    assert expected[chosen] >= expected.max() * (1 - 1e-5)


@pytest.mark.parametrize("penalty", [0.9, 1, 1.05])
@pytest.mark.parametrize("size", [40, 3000, 20000])
def test_of_equal_logits_greedy_takes_the_first(size: int, penalty: float) -> None:
    logits = np.zeros(size, np.float32)
    logits[[3, 17, 30]] = 2.0
    assert Sampler(Sampling(temperature=0, repeat_penalty=penalty), size).draw(logits) == 3


def test_a_seed_gives_the_same_draw_again_and_seeds_differ() -> None:
    flat = Sampling(temperature=1, top_k=0, top_p=1, repeat_penalty=1)
    draws = [[chain([0.0] * VOCAB, (), replace(flat, seed=seed))[1] for seed in range(64)] for _ in range(2)]
    assert draws[0] == draws[1]
    assert len(set(draws[0])) > 20


def test_without_a_seed_draws_differ() -> None:
    flat = Sampling(temperature=1, top_k=0, top_p=1, repeat_penalty=1, seed=None)
    assert len({chain([0.0] * VOCAB, (), flat)[1] for _ in range(64)}) > 10


def test_draws_follow_the_probabilities() -> None:
    logits = [2.0, 1.0, 0.0, -1.0, *[-9.0] * 36]
    sampling = Sampling(temperature=1, top_k=0, top_p=1, repeat_penalty=1)
    draws = np.bincount([chain(logits, (), replace(sampling, seed=seed))[1] for seed in range(3000)], minlength=VOCAB)
    assert draws[:4] / 3000 == pytest.approx(reference(logits, (), sampling)[:4], abs=0.035)


def test_close_twice_is_harmless() -> None:
    sampler = Sampler(Sampling(), VOCAB)
    sampler.close()
    sampler.close()


def _file(metadata: dict[str, object]) -> GgufFile:
    return GgufFile(Path("x.gguf"), metadata, {}, 0)


def test_a_files_own_defaults_are_read() -> None:
    keys = {"temp": 0.5, "top_k": 7, "top_p": 0.9, "penalty_repeat": 1.1}
    file = _file({f"general.sampling.{key}": value for key, value in keys.items()})
    assert sampling_of(file) == Sampling(0.5, 7, 0.9, 1.1)


def test_a_file_without_defaults_has_baichuan_2s() -> None:
    assert sampling_of(_file({})) == Sampling(0.3, 5, 0.85, 1.05)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), -1.0, 1e30, "0.3", True, [0.3]])
@pytest.mark.parametrize("key", ["temp", "top_k", "top_p", "penalty_repeat"])
def test_a_senseless_default_counts_as_none(key: str, bad: object) -> None:
    assert sampling_of(_file({f"general.sampling.{key}": bad})) == Sampling()
