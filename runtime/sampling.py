"""How the next token is drawn: the release's parameters, in the order of the reference.

transformers applies the repetition penalty to the whole sequence, prompt included, then temperature, top-k and top-p;
top-k commutes with the temperature and comes first here, since it leaves less to do. Penalty and top-k look at llama.cpp's
own logits buffer without a copy, which costs microseconds where llama.cpp's samplers walk over all 125,696 candidates several
times; the few candidates left go through llama.cpp's sampler chain, whose generator makes a seed mean the same everywhere.
"""

import ctypes
import struct
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from bq.runtime.candidates import F32 as F32
from bq.runtime.candidates import MOST, Candidates, Greatest
from bq.runtime.errors import BqError
from bq.runtime.language import say
from bq.runtime.llama import library
from bq.runtime.values import RANDOM_SEED
from bq.runtime.values import Sampling as Sampling  # where it is looked for
from bq.runtime.values import out_of_range as out_of_range

if TYPE_CHECKING:
    from bq.runtime.gguf_file import GgufFile
    from bq.runtime.tokenizer import Tokenizer

Ids = npt.NDArray[np.intp]

_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])  # llama_token_data (llama.h)


class Constraint(Protocol):
    """What may come next, for one answer. A token is accepted only after `allows` said yes."""

    def allows(self, token: int) -> bool:
        """Whether this token may come now; nothing changes."""

    def mask(self, logits: F32) -> None:
        """Set the logits [vocab] of all tokens that may not come to -inf."""

    def accept(self, token: int) -> None:
        """The token has come."""

    def may_end(self) -> bool:
        """Whether the text so far is whole."""

    def must_end(self) -> bool:
        """Whether it is whole and nothing may follow."""

    def closing(self, logits: F32) -> int | None:
        """The token that brings the text to its end soonest, the model's logits [vocab] given; None if there is none."""

    def close(self) -> None:
        """Free what it holds."""


MakeConstraint = Callable[["Tokenizer"], Constraint]


def sampling_of(file: "GgufFile") -> Sampling:
    """The defaults that a file's release came with (general.sampling.*), those of its kind where it has none that make sense."""
    from bq.runtime.known import default_sampling  # which reads models.toml, whose releases have a Sampling

    default = default_sampling(file)

    def within(key: str, least: float, most: float, default: float) -> float:
        value = file.number(f"general.sampling.{key}", default)
        return float(value) if least <= value <= most else default

    return Sampling(
        temperature=within("temp", 0, 100, default.temperature),
        top_k=int(within("top_k", 0, 1 << 20, default.top_k)),
        top_p=within("top_p", 0, 1, default.top_p),
        repeat_penalty=within("penalty_repeat", 0.01, 100, default.repeat_penalty),
    )


class Logits:
    """llama.cpp's output rows as numpy arrays, without a copy. A row is valid until the next decode."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._seen: dict[int, F32] = {}  # by address: llama.cpp keeps its output buffer from token to token

    def row(self, context: Any, index: int) -> F32:
        """The logits [vocab] of output `index` of the last decode, as llama_get_logits_ith counts (-1: the last)."""
        if context is None:
            raise RuntimeError("the model is closed")
        address = _logits_address()(context, index)
        if address is None:
            raise RuntimeError(f"the last decode kept no logits for output {index}")
        row = self._seen.get(address)
        if row is None:
            if len(self._seen) > 256:
                self._seen.clear()
            buffer: Any = (ctypes.c_float * self._vocab_size).from_address(address)
            row = self._seen[address] = np.frombuffer(buffer, np.float32)
        return row


@cache
def _logits_address() -> Callable[[Any, int], int | None]:
    """llama_get_logits_ith, whose pointer is given as a number: the bindings' own makes an object of it each time."""
    kind = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32)
    function: Callable[[Any, int], int | None] = kind(("llama_get_logits_ith", library()._lib))
    return function


class Sampler:
    """Draws the tokens of one answer and remembers them for the penalty. `prompt` counts for it too."""

    def __init__(
        self, sampling: Sampling, vocab_size: int, prompt: Iterable[int] = (), constraint: Constraint | None = None
    ) -> None:
        self.constraint = constraint
        self._logits = Logits(vocab_size)
        is_greedy = sampling.temperature <= 0
        self._top_k = 1 if is_greedy else sampling.top_k
        self._penalty, self._shrink = np.float32(sampling.repeat_penalty), np.float32(1 / sampling.repeat_penalty)
        self._seen = set(prompt)
        self._few: Candidates | None = None
        is_plain = is_greedy and sampling.repeat_penalty == 1  # for which numpy's argmax is enough
        if 0 < self._top_k <= MOST and sampling.repeat_penalty >= 1 and not is_plain:
            self._few = Candidates(vocab_size, self._top_k, float(self._shrink), float(self._penalty))
        self._chance = None if is_greedy else _Chance(sampling)

    def sample(self, context: Any, index: int = -1) -> int:
        """Draw a token from output `index` of the last decode and remember it. Raises BqError if the logits are no numbers."""
        return self.draw(self._logits.row(context, index))

    def draw(self, logits: F32) -> int:
        """Draw a token from logits [vocab] and remember it. A constraint may mask them."""
        token = self._pick(logits)
        if self.constraint is not None:
            token = self._constrained(self.constraint, logits, token)
        self._seen.add(token)
        return token

    def close_soon(self, context: Any, index: int = -1) -> int | None:
        """Instead of `sample`, once the answer is too long: the constraint's shortest way out, None if it knows none."""
        if self.constraint is None:
            return None
        token = self.constraint.closing(self._logits.row(context, index))
        if token is not None:
            self.constraint.accept(token)
            self._seen.add(token)
        return token

    def close(self) -> None:
        """Free the chain and the constraint; it is not used again."""
        if self._chance is not None:
            self._chance.close()
            self._chance = None
        if self.constraint is not None:
            self.constraint.close()
            self.constraint = None

    def _pick(self, logits: F32) -> int:
        found = self._few.of(logits, self._seen) if self._few is not None else None
        if found is None:
            lowered = self._lowered(logits)
            if self._chance is None:
                return _argmax(lowered)
            if not 0 < self._top_k < len(lowered):
                return self._chance.pick_of_all(lowered)
            found = [(float(lowered[token]), int(token)) for token in top_k(lowered, self._top_k)]
        if found[0][0] != found[0][0]:
            raise not_a_number()
        return found[0][1] if self._chance is None else self._chance.pick(found)

    def _lowered(self, logits: F32) -> F32:
        """All logits [vocab] after the repetition penalty, which counts once for each token seen."""
        if self._penalty == 1 or not self._seen:
            return logits
        seen = np.fromiter(self._seen, np.intp, len(self._seen))
        values = logits[seen]
        lowered: F32 = logits.copy()
        lowered[seen] = np.where(values > 0, values * self._shrink, values * self._penalty)
        return lowered

    def _constrained(self, constraint: Constraint, logits: F32, token: int) -> int:
        """`token` if it is allowed, else another pick among those that are: masking all of them costs milliseconds."""
        if not constraint.allows(token):
            constraint.mask(logits)
            token = self._pick(logits)
            if logits[token] == -np.inf:
                raise BqError(
                    say("No token may follow here by the grammar.", "按照语法，此处没有词元可以继续。"),
                    say("Simplify the grammar or the schema.", "请简化语法或模式。"),
                )
        constraint.accept(token)
        return token


class _Chance:
    """Temperature, top-p and the draw itself, by llama.cpp's sampler chain."""

    def __init__(self, sampling: Sampling) -> None:
        lib = self._lib = library()
        self._chain: Any = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        seed = RANDOM_SEED if sampling.seed is None else sampling.seed
        for sampler in (
            lib.llama_sampler_init_temp(sampling.temperature),
            lib.llama_sampler_init_top_p(sampling.top_p, 1),
            lib.llama_sampler_init_dist(seed),
        ):
            lib.llama_sampler_chain_add(self._chain, sampler)
        self._array = lib.llama_token_data_array()
        self._pointer = ctypes.byref(self._array)
        self._layout = struct.Struct("")
        self._prepare(0)

    def pick(self, found: Sequence[tuple[float, int]]) -> int:
        """Draw from candidates (logit, token), the greatest first."""
        if len(found) != len(self._candidates):
            self._prepare(len(found))
            self._layout = struct.Struct("=" + "if4x" * len(found))  # of _CANDIDATE, without p
        fields: list[float] = []
        for logit, token in found:
            fields += token, logit
        self._layout.pack_into(self._candidates, 0, *fields)
        return self._draw(is_sorted=True)

    def pick_of_all(self, logits: F32) -> int:
        """Draw from logits [vocab]."""
        if len(logits) != len(self._candidates):
            self._prepare(len(logits))
        if np.isnan(logits.max()):
            raise not_a_number()
        self._candidates["id"] = self._every  # top-p has put the last ones into an order of its own
        self._candidates["logit"] = logits
        return self._draw(is_sorted=False)

    def _draw(self, is_sorted: bool) -> int:
        array = self._array
        array.data, array.size, array.selected, array.sorted = self._data, len(self._candidates), -1, is_sorted
        self._lib.llama_sampler_apply(self._chain, self._pointer)
        return int(self._data[array.selected].id)

    def _prepare(self, count: int) -> None:
        """Room for `count` candidates."""
        self._candidates: Any = np.zeros(count, _CANDIDATE)  # to numpy's types it is no buffer
        self._every = np.arange(count)
        self._data = ctypes.cast(self._candidates.ctypes.data, ctypes.POINTER(self._lib.llama_token_data))

    def close(self) -> None:
        self._lib.llama_sampler_free(self._chain)


def _argmax(logits: F32) -> int:
    """The greatest, of equal ones the lowest; numpy takes a NaN for the greatest."""
    token = int(logits.argmax())
    if logits[token] != logits[token]:
        raise not_a_number()
    return token


def top_k(logits: F32, count: int) -> Ids:
    """The indices of the `count` greatest logits, the greatest first; a NaN counts as the greatest."""
    count = min(count, len(logits))
    few = count <= MOST
    some = np.array(Greatest(len(logits), count).of(logits)[0]) if few else np.argpartition(logits, -count)[-count:]
    order: Ids = some[np.argsort(logits[some])[::-1]]
    return order


def not_a_number() -> BqError:
    """The error of a model whose logits are NaN."""
    return BqError(
        say("The model computes no numbers (NaN).", "模型计算出的不是数字（NaN）。"),
        say(
            "Its file is damaged, or its checkpoint was: convert or download it again.",
            "文件或其检查点已损坏：请重新转换或下载。",
        ),
    )


def log_softmax(logits: F32, tokens: Sequence[int] | Ids) -> npt.NDArray[np.float64]:
    """Natural logarithms of the probabilities of some tokens, computed in float64 over all logits [vocab]."""
    wide = logits.astype(np.float64)
    top = wide.max()
    total: np.float64 = top + np.log(np.exp(wide - top).sum())
    chosen: npt.NDArray[np.float64] = wide[np.asarray(tokens)] - total
    return chosen
