"""What goes into an answer and comes out of it, as plain data: importing it loads nothing heavy.

A program whose model runs in another process has the same types there and here.
"""

import math
from dataclasses import dataclass

from bq.runtime.errors import UsageError
from bq.runtime.language import say

# transformers' order, by llama.cpp's names (common_sampler_types_from_names): llama.cpp's default draws the temperature last,
# after top-p has cut.
SAMPLING_ORDER = ("penalties", "temperature", "top_k", "top_p")
EVERY_LAYER = 1 << 10  # more than any model has: LLAMA_MAX_LAYERS is 512 (llama-hparams.h)
RANDOM_SEED = 0xFFFFFFFF  # LLAMA_DEFAULT_SEED: llama.cpp draws one itself


@dataclass(frozen=True)
class Sampling:
    """temperature 0 is greedy; top_k 0 and top_p 1 cut nothing; repeat_penalty 1 penalizes nothing; seed None is random.

    Raises UsageError for a value out of its range.
    """

    temperature: float = 0.3
    top_k: int = 5
    top_p: float = 0.85
    repeat_penalty: float = 1.05
    seed: int | None = None

    def __post_init__(self) -> None:
        sound = {
            "temperature": 0 <= self.temperature < math.inf,
            "top_k": self.top_k >= 0,
            "top_p": 0 <= self.top_p <= 1,
            "repeat_penalty": 0 < self.repeat_penalty < math.inf,
            "seed": self.seed is None or 0 <= self.seed < RANDOM_SEED,
        }
        for name, is_sound in sound.items():
            if not is_sound:
                raise out_of_range(name, getattr(self, name))


@dataclass(frozen=True)
class ModelInfo:
    """What a loaded file says of itself; `context` is the most tokens of one conversation.

    `thinks`: it can be told whether to think before it answers.
    """

    name: str
    variant: str
    mixture: str
    size_bytes: int
    context: int
    sampling: Sampling
    max_new_tokens: int
    thinks: bool = False


@dataclass
class Stats:
    """Counts in tokens, times in seconds.

    `stop` is "" while running, then "end", "length", "stop" (a stop text came), "cancel", "error", or "incomplete": a
    constrained answer that found no end within its limit. `drafted` tokens were guessed, `accepted` of them were right.
    """

    prompt_tokens: int = 0
    reused_tokens: int = 0
    dropped_rounds: int = 0
    tokens: int = 0
    drafted: int = 0
    accepted: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    context_used: int = 0
    stop: str = ""

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.decode_seconds if self.decode_seconds else 0.0


@dataclass(frozen=True)
class Alternative:
    """A token that might have come: its bytes, and the natural logarithm of the probability that the model gave it."""

    token: int
    piece: bytes
    logprob: float


@dataclass(frozen=True)
class Step:
    """One token of an answer: the text that became whole with it, and the alternatives asked for, the likeliest first.

    The probabilities are the model's own, before penalty, temperature and cuts. `chosen` is the token itself among them.
    The last step of an answer may have no token, only the rest of the text.
    """

    text: str
    token: int | None = None
    chosen: Alternative | None = None
    alternatives: tuple[Alternative, ...] = ()


@dataclass(frozen=True)
class LoadOptions:
    """How to load; None lets bq choose, anything else is obeyed.

    ctx in tokens, for all parallel sequences together; gpu_layers as llama.cpp counts them, the output as one more;
    cpu_experts, of a mixture of experts: how many layers have their experts in main memory; kv "f16" or "q8_0"; device as
    "CUDA0,CUDA1" or "cpu"; n_seq parallel sequences in one cache; outputs: positions of one decode whose logits are kept, never
    less than a draft needs; force_fit loads even where the memory seems too short; adapters are GGUF files of LoRA adapters,
    each FILE or FILE:WEIGHT; rpc names workers on other machines, "host:port,host:port".
    """

    ctx: int | None = None
    threads: int | None = None
    gpu_layers: int | None = None
    kv: str | None = None
    batch: int | None = None
    device: str | None = None
    mmap: bool | None = None
    mlock: bool = False
    n_seq: int = 1
    outputs: int = 1
    force_fit: bool = False
    adapters: tuple[str, ...] = ()
    rpc: str | None = None
    cpu_experts: int | None = None


def out_of_range(name: str, value: object) -> UsageError:
    """The error of a parameter that makes no sense."""
    return UsageError(
        say(f"{name} is {value}, which is out of its range.", f"{name} 为 {value}，超出范围。"),
        say("`bq run --help` gives the ranges.", "`bq run --help` 列出了取值范围。"),
    )
