"""Measured models as tables and plain data: what `bq eval` and `bq list` print."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bq.runtime.language import say
from bq.tui.harmless import clean, one_line
from bq.tui.table import size_text, table

if TYPE_CHECKING:
    from bq.runtime.evaluation.figures import Figures
    from bq.runtime.gguf_file import GgufFile


_LITTLE = 1e-4  # below it a divergence is shown as a power of ten
_FOREIGN = 10_000  # a release has a perplexity of 5 to 30 on ordinary texts
_MANY = 1000  # from there on a perplexity is shown without decimals


@dataclass(frozen=True)
class Listed:
    """A model file and its figures, or why it is none; `cannot_run`: it is sound, but bq or llama.cpp does not run its kind."""

    path: Path
    name: str = ""
    variant: str = ""
    mixture: str = ""
    size_bytes: int = 0
    bits_per_weight: float = 0.0
    figures: "Figures | None" = None
    error: str = ""
    cannot_run: bool = False


def listed(file: "GgufFile", figures: "Figures | None") -> Listed:
    """What the header of a file says."""
    from math import prod

    from bq.runtime.known import describe_file

    known, tensors = describe_file(file), file.tensors.values()
    weights = sum(prod(one.shape) for one in tensors)
    bits = 8 * sum(one.size_bytes for one in tensors) / max(1, weights)
    return Listed(file.path, known.name, known.variant, known.mixture, file.size_bytes, bits, figures)


def as_data(one: Listed) -> dict[str, Any]:
    """The same as plain data for JSON."""
    return {**asdict(one), "path": str(one.path), "bits_per_weight": round(one.bits_per_weight, 4)}


def measured_tables(files: Sequence[Listed]) -> str:
    """Perplexity of each file, the smallest file first, and beside a reference what else was found."""
    files = sorted(files, key=lambda one: one.size_bytes)
    names = _names(files)
    has_reference = any(one.figures and one.figures.kl_mean is not None for one in files)
    head = [
        say("FILE", "文件"),
        say("MIXTURE", "量化"),
        say("SIZE", "大小"),
        say("BITS", "位"),
        say("PERPLEXITY", "困惑度"),
    ]
    rows = [[name, *_row(one)] for name, one in zip(names, files, strict=True)]
    if not has_reference:
        return table(head, [row[:5] for row in rows], right=(2, 3, 4))
    more = [
        say("FILE", "文件"),
        say("MEDIAN", "中位数"),
        "99 %",
        say("MAXIMUM", "最大"),
        "TOP-1",
        say("PERPLEXITY RATIO", "困惑度之比"),
    ]
    further = [[name, *_divergence_row(one)] for name, one in zip(names, files, strict=True)]
    return "\n\n".join((table([*head, "KL"], rows, right=(2, 3, 4, 5)), table(more, further, right=(1, 2, 3, 4, 5))))


def measured_on(files: Sequence[Listed]) -> str:
    """The text, and the reference with its perplexity, a line each."""
    figures = next(one.figures for one in files if one.figures)
    text = say(
        f"Text: {clean(figures.text)}, {figures.tokens:,} tokens scored in chunks of {figures.context}.",
        f"文本：{clean(figures.text)}，以 {figures.context} 为块长，计入 {figures.tokens:,} 个词元。",
    )
    if figures.perplexity > _FOREIGN:
        text += say(
            "\nThe text is foreign to this model: its perplexity says little, the KL divergence tells what was lost.",
            "\n这段文本对该模型很陌生：困惑度意义不大，损失多少请看 KL 散度。",
        )
    if not figures.perplexity_change:
        return text
    base = figures.perplexity / figures.perplexity_change
    return text + say(
        f"\nReference: {clean(figures.against)}, perplexity {_perplexity(base)}.",
        f"\n参考：{clean(figures.against)}，困惑度 {_perplexity(base)}。",
    )


def listing(files: Sequence[Listed]) -> str:
    """The table of `bq list`; below it the files that cannot be run or are broken, each with its reason."""
    from bq.runtime.evaluation.figures import describe

    sound = [one for one in files if not one.error]
    head = (
        say("FILE", "文件"),
        say("MODEL", "模型"),
        say("VARIANT", "类型"),
        say("MIXTURE", "量化"),
        say("SIZE", "大小"),
        say("BITS", "位"),
        say("QUALITY", "质量"),
    )
    rows = [
        (
            one_line(str(one.path)),
            one_line(one.name),
            one.variant,
            one.mixture,
            size_text(one.size_bytes),
            f"{one.bits_per_weight:.2f}",
            describe(one.figures) if one.figures else "-",
        )
        for one in sound
    ]
    parts = [table(head, rows, right=(4, 5))] if rows else []
    return "\n\n".join([*parts, *unusable([(str(one.path), one) for one in files])])


def unusable(named: Sequence[tuple[str, Listed]]) -> list[str]:
    """The sound files that cannot be run here, and the broken ones, each with its reason."""
    parts = []
    for cannot_run, head in ((True, say("Cannot run here:", "无法在此运行：")), (False, say("Broken:", "损坏："))):
        lines = [
            f"  {one_line(name)}: {one.error}" for name, one in named if one.error and one.cannot_run == cannot_run
        ]
        parts += ["\n".join([head, *lines])] if lines else []
    return parts


def _names(files: Sequence[Listed]) -> list[str]:
    """File names, or whole paths where two are the same."""
    short = [one.path.name for one in files]
    return [clean(str(one.path) if short.count(name) > 1 else name) for name, one in zip(short, files, strict=True)]


def _row(one: Listed) -> list[str]:
    figures = one.figures
    if figures is None:
        return [one.mixture, size_text(one.size_bytes), f"{one.bits_per_weight:.2f}", "", ""]
    return [
        one.mixture,
        size_text(one.size_bytes),
        f"{one.bits_per_weight:.2f}",
        _perplexity(figures.perplexity, figures.perplexity_error),
        "" if figures.kl_mean is None else _divergence(figures.kl_mean, figures.kl_mean_error),
    ]


def _divergence_row(one: Listed) -> list[str]:
    figures = one.figures
    if figures is None or figures.kl_median is None or figures.top1 is None:
        return [""] * 5
    return [
        _divergence(figures.kl_median),
        f"{figures.kl_p99:.4f}",
        f"{figures.kl_max:.4f}",
        f"{figures.top1:.1%}",
        f"{figures.perplexity_change:.4f} ± {figures.perplexity_change_error:.4f}",
    ]


def _perplexity(value: float, error: float | None = None) -> str:
    digits = 4 if value < _MANY else 0
    return f"{value:,.{digits}f}" + ("" if error is None else f" ± {error:,.{digits}f}")


def _divergence(value: float, error: float | None = None) -> str:
    value = max(0.0, value)  # of a file and itself rounding may leave less than nothing
    form = ".5f" if value == 0 or value >= _LITTLE else ".0e"
    return f"{value:{form}}" + ("" if error is None else f" ± {error:{form}}")
