"""What the file computes beside what the checkpoint computes: llama.cpp on the one, plain numpy on the other, token by token."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bq.convert.convert import Conversion
from bq.convert.verify.check import Check, failed, make_again, passed
from bq.convert.verify.forward import Forward
from bq.runtime.evaluation.decoder import open_decoder
from bq.runtime.evaluation.score import divergence, log_softmax
from bq.runtime.language import say
from bq.runtime.values import LoadOptions

Row = npt.NDArray[np.float32]
_TOP = 5
_LEAST_CONTEXT = 64
# The errors of quantized weights, relative to the weights, come out of a model some times larger. 200 random checkpoints, livelier
# than any trained model, made them at most 9.3 times larger (`python -m bench.verify`), the demo twice. llama.cpp also rounds
# what is multiplied by quantized weights to 8 bits, and its keys and values to float16, which explains the rest.
_EXACT = 0.002  # the error of F16 and BF16 files is below, and nothing is rounded to 8 bits there
_GROWTH, _ROUNDED_INPUTS, _LEAST_ERROR = 12, 0.006, 0.02
# A model may magnify errors more than those did, with strong adapters for instance. Then its own answer to noise of that size is the
# measure, which another draw of the noise hardly changes; llama.cpp rounds at every step, and the noise stands for the weights alone.
_SPREAD = 2


@dataclass(frozen=True)
class Agreement:
    """How near two models are over some positions.

    `error` is the relative L2 error of all logits, each row's mean taken off, for softmax does not see it; `parted` counts the
    positions before the likeliest tokens first differ.
    """

    tokens: int
    error: float
    kl_mean: float
    kl_max: float
    top1: float
    top5: float
    parted: int | None


def logit_checks(
    path: Path,
    conversion: Conversion,
    texts: Sequence[Sequence[int]],
    weight_error: float,
    are_weights_right: bool,
    options: LoadOptions | None,
    progress: Callable[[float, str], None],
) -> Iterator[Check]:
    """One line, from token ids alone: what is compared is the model, not the tokenizer.

    `weight_error` is the relative error of the file's weights where they are right.
    """
    found = compare_logits(path, Forward(conversion), texts, options, progress)
    limit = error_limit(weight_error)
    if found.error > limit and are_weights_right:
        limit = max(limit, _SPREAD * noise_error(conversion, texts, _noise(weight_error), progress))
    yield judge_logits(found, limit)


def noise_error(
    conversion: Conversion, texts: Sequence[Sequence[int]], noise: float, progress: Callable[[float, str], None]
) -> float:
    """The relative error of the logits that noise of this relative size in every matrix makes in this model."""
    waiting = say("forward pass with noise in the weights", "权重加噪声后的前向计算")
    plain, noisy = (
        (
            row
            for _, _, rows in Forward(conversion, noise=size).logits(texts, 0, lambda part: progress(part, waiting))
            for row in rows
        )
        for size in (0, noise)
    )
    return _agreement(zip(plain, noisy, strict=True)).error


def compare_logits(
    path: Path,
    forward: Forward,
    texts: Sequence[Sequence[int]],
    options: LoadOptions | None,
    progress: Callable[[float, str], None],
) -> Agreement:
    """The checkpoint's blocks are computed before llama.cpp loads the file, so that both need not be in memory at once."""
    waiting = say("forward pass of the checkpoint", "检查点的前向计算")
    parts = forward.logits(texts, progress=lambda part: progress(part, waiting))
    first = next(parts)
    ours = (row for _, _, rows in chain([first], parts) for row in rows)
    context = max(_LEAST_CONTEXT, *map(len, texts))
    with open_decoder(path, context, options=options) as decoder:
        theirs = (row for text in texts for _, rows in decoder.logits(text) for row in rows)
        return _agreement(zip(ours, theirs, strict=True))


def _agreement(rows: Iterable[tuple[Row, Row]]) -> Agreement:
    """The checkpoint's rows beside the file's."""
    divergences, same, shared = [], [], []
    error = size = 0.0
    for one, other in rows:
        divergences.append(float(divergence(log_softmax(one[np.newaxis]), other[np.newaxis])[0]))
        centred = one - one.mean()
        error += float(np.square(other - other.mean() - centred).sum())
        size += float(np.square(centred).sum())
        same.append(int(one.argmax()) == int(other.argmax()))
        shared.append(len(_likeliest(one) & _likeliest(other)) / min(_TOP, len(one)))
    count = len(divergences)
    parted = next((position for position, agrees in enumerate(same) if not agrees), None)
    return Agreement(
        count,
        float(np.sqrt(error / max(size, 1e-30))),
        float(np.mean(divergences)),
        max(divergences),
        sum(same) / count,
        sum(shared) / count,
        parted,
    )


def _likeliest(row: Row) -> set[int]:
    return set(np.argpartition(row, -_TOP)[-_TOP:].tolist())


def error_limit(weight_error: float) -> float:
    """The relative error of the logits above which the weights' errors do not explain it."""
    return _GROWTH * _noise(weight_error) + _LEAST_ERROR


def _noise(weight_error: float) -> float:
    """The weights' error, with that of what they are multiplied by, which is rounded where they are quantized."""
    return math.hypot(weight_error, _ROUNDED_INPUTS) if weight_error > _EXACT else weight_error


def judge_logits(found: Agreement, limit: float) -> Check:
    """Wrong is what the weights' errors cannot have made; how good the file is, `bq eval` tells."""
    text = say(
        f"Logits of {found.tokens} tokens: KL divergence {found.kl_mean:.2g} (largest {found.kl_max:.2g}), the same likeliest "
        f"token {found.top1:.0%}, the same {_TOP} likeliest {found.top5:.0%}; {_parted(found)}.",
        f"{found.tokens} 个词元的 logits：KL 散度 {found.kl_mean:.2g}（最大 {found.kl_max:.2g}），最可能词元相同 {found.top1:.0%}，"
        f"前 {_TOP} 个相同 {found.top5:.0%}；{_parted(found)}。",
    )
    details = {"limit": limit, **asdict(found)}
    if found.error <= limit:
        within = say(
            f" Their error of {found.error:.2g} is within the {limit:.2g} that the weights' errors explain.",
            f"误差 {found.error:.2g}，在权重误差可解释的 {limit:.2g} 之内。",
        )
        return passed("logits", text + within, **details)
    more = say(
        f" They are off by {found.error:.2g}; errors of the weights explain at most {limit:.2g}.",
        f"误差为 {found.error:.2g}，而权重误差最多能解释 {limit:.2g}。",
    )
    return failed("logits", text + more, make_again(), **details)


def _parted(found: Agreement) -> str:
    if found.parted is None:
        return say("they never part", "始终一致")
    return say(f"they part after token {found.parted + 1}", f"在第 {found.parted + 1} 个词元后出现分歧")
