"""The reports of a checkpoint's folder, an adapter, an importance matrix and a plan of types, for reading."""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bq.runtime.language import say
from bq.tui.conversion_plan import count_text
from bq.tui.inspect.model import (
    generation_text,
    kinds_table,
    norm_head_text,
    shape_rows,
    variant_text,
    vocabulary_rows,
)
from bq.tui.inspect.words import comma, printable, rows_text, shown
from bq.tui.table import size_text, table

if TYPE_CHECKING:
    from bq.convert.inspect.adapter import AdapterReport
    from bq.convert.inspect.checkpoint import CheckpointReport, Possible, WeightFile
    from bq.convert.inspect.inspect import MatrixEntry, MatrixReport, TypesReport

_MOST_FILES, _MOST_DATASETS, _MOST_ENTRIES = 12, 6, 4
# Of the mixtures, those that most people choose between; --all shows every one.
_USUAL = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_K_M_NL", "IQ4_XS", "Q3_K_M", "IQ3_XXS", "Q2_K", "IQ2_M")


def checkpoint_summary(report: "CheckpointReport", with_all: bool) -> Iterator[str]:
    """Who it is, its files, its vocabulary, and what a conversion would make."""
    yield rows_text([*_head(report), *shape_rows(report.shape), *_decided(report), *_tokenizer(report)])
    if report.files:
        yield _files_table(report.files)
    if report.vocabulary is not None and report.vocabulary.kinds:
        yield kinds_table(report.vocabulary)
    if report.possible:
        possible = sorted(report.possible, key=lambda one: -one.size_bytes)
        yield _possible_table([one for one in possible if with_all or one.mixture in _USUAL])


def _head(report: "CheckpointReport") -> Iterator[tuple[str, str]]:
    yield say("folder", "文件夹"), printable(str(report.path))
    yield say("name", "名称"), shown(report.name)
    yield say("model", "模型"), _model(report)
    yield say("licence", "许可"), report.licence
    yield say("weights", "权重"), _weights(report)


def _model(report: "CheckpointReport") -> str:
    parts = [shown(report.architecture)] if report.architecture else []
    if report.generation:
        parts.append(generation_text(report.generation))
    if report.variant:
        parts.append(variant_text(report.variant, report.variant_reason))
    if report.release:
        tuned = say(f"tuned from {report.release}", f"由 {report.release} 微调")
        parts.append(tuned if report.is_fine_tune else say(f"release {report.release}", f"发布版 {report.release}"))
    return comma().join(parts)


def _weights(report: "CheckpointReport") -> str:
    if not report.tensors:
        return ""
    dtypes = Counter(one.dtype for one in report.tensors)
    kinds, files = "/".join(name for name, _ in dtypes.most_common()), len({one.file for one in report.tensors})
    weights, tensors = count_text(report.weights), len(report.tensors)
    return say(
        f"{weights} in {kinds}, {tensors:,} tensors in {files} file{'s' * (files > 1)}",
        f"{weights}个（{kinds}），{files} 个文件中共 {tensors:,} 个张量",
    )


def _decided(report: "CheckpointReport") -> Iterator[tuple[str, str]]:
    if report.norm_head is not None:
        yield "NormHead", norm_head_text(report.norm_head, list(report.norm_head_reasons))
    sampling = report.sampling
    if sampling is not None:
        answer = say(f"up to {report.max_new_tokens:,} tokens", f"最多 {report.max_new_tokens:,} 词元")
        yield (
            say("sampling", "采样"),
            f"temperature {sampling.temperature:g}, top_k {sampling.top_k}, top_p {sampling.top_p:g}, "
            f"repeat_penalty {sampling.repeat_penalty:g}{comma()}{answer}",
        )


def _tokenizer(report: "CheckpointReport") -> Iterator[tuple[str, str]]:
    if report.vocabulary is not None:
        yield from vocabulary_rows(report.vocabulary)
    yield say("beside it", "其他文件"), ", ".join(report.companions)


def _files_table(files: "tuple[WeightFile, ...]") -> str:
    states = {
        "whole": "",
        "missing": say("missing", "缺失"),
        "pointer": say("Git LFS pointer", "Git LFS 指针"),
        "empty": say("empty", "空文件"),
        "broken": say("cannot be read", "无法读取"),
    }
    head = (say("WEIGHT FILE", "权重文件"), say("SIZE", "大小"), say("TENSORS", "张量"), say("DTYPES", "类型"))
    rows = [
        (
            shown(one.name),
            size_text(one.size_bytes) if one.size_bytes else "",
            f"{one.tensors:,}" if one.tensors else "",
            "/".join(one.dtypes) or states[one.state],
        )
        for one in files[:_MOST_FILES]
    ]
    more = len(files) - _MOST_FILES
    rest = say(f"… and {more:,} more (--json)", f"……另有 {more:,} 个（--json）")
    return table(head, rows, right=(1, 2)) + (f"\n{rest}" if more > 0 else "")


def _possible_table(possible: "list[Possible]") -> str:
    head = ("bq convert", say("SIZE", "大小"), say("BITS/WEIGHT", "位/权重"), "")
    with_matrix = say("with --imatrix or --calibrate", "需 --imatrix 或 --calibrate")
    rows = [
        (
            f"-q {one.mixture}",
            size_text(one.size_bytes),
            f"{one.bits_per_weight:.2f}",
            with_matrix if one.needs_importance else "",
        )
        for one in possible
    ]
    return table(head, rows, right=(1, 2))


def matrix_summary(report: "MatrixReport", with_all: bool) -> Iterator[str]:
    """Where an importance matrix comes from, and the matrices whose columns differ the most and the least."""
    yield rows_text(_matrix_head(report))
    by_spread = sorted(report.entries, key=lambda one: -one.spread)
    if with_all or len(by_spread) <= 2 * _MOST_ENTRIES:
        yield matrix_table(by_spread)
    else:
        yield matrix_table([*by_spread[:_MOST_ENTRIES], None, *by_spread[-_MOST_ENTRIES:]])


def _matrix_head(report: "MatrixReport") -> Iterator[tuple[str, str]]:
    yield say("file", "文件"), f"{printable(str(report.path))}{comma()}{size_text(report.size_bytes)}"
    yield say("kind", "种类"), say("importance matrix", "重要性矩阵")
    names = comma().join(shown(one) for one in report.datasets[:_MOST_DATASETS])
    yield say("datasets", "数据集"), names or say("not given", "未注明")
    tokens = report.chunks * report.chunk_size
    of_tokens = say(
        f" of {report.chunk_size:,} tokens, {tokens:,} in all", f"，每块 {report.chunk_size:,} 词元，共 {tokens:,}"
    )
    yield say("chunks", "块"), f"{report.chunks:,}" + (of_tokens if report.chunk_size else "")
    columns = sum(one.columns for one in report.entries)
    yield (
        say("entries", "条目"),
        say(
            f"{len(report.entries):,} matrices, {columns:,} columns", f"{len(report.entries):,} 个矩阵，{columns:,} 列"
        ),
    )
    unused = sum(one.unused for one in report.entries)
    yield (
        say("unused", "未激活"),
        say(f"{unused:,} columns whose inputs were always zero", f"{unused:,} 列的输入始终为零") if unused else "",
    )


def matrix_table(entries: "list[MatrixEntry | None] | list[MatrixEntry]") -> str:
    """Entries with the importance of their columns; None is a gap."""
    head = (
        say("MATRIX", "矩阵"),
        say("COLUMNS", "列"),
        say("LEAST", "最小"),
        say("MEAN", "平均"),
        say("GREATEST", "最大"),
        say("GREATEST/MEAN", "最大/平均"),
    )
    rows = [_matrix_row(one) if one else ("…", "", "", "", "", "") for one in entries]
    return table(head, rows, right=(1, 2, 3, 4, 5))


def _matrix_row(one: "MatrixEntry") -> tuple[str, ...]:
    importance = (f"{value:.4g}" for value in (one.least, one.mean, one.greatest))
    return (shown(one.name, 40), f"{one.columns:,}", *importance, f"{one.spread:,.1f}")


def adapter_summary(report: "AdapterReport", with_all: bool) -> Iterator[str]:
    """What a LoRA adapter is for, and the kinds of matrices that it changes, or with `with_all` each of them."""
    from bq.convert.inspect.model import part_of

    yield rows_text(
        [
            (say("file", "文件"), f"{printable(str(report.path))}{comma()}{size_text(report.size_bytes)}"),
            (
                say("kind", "种类"),
                say("LoRA adapter, for --adapter of a model", "LoRA 适配器，供模型的 --adapter 使用"),
            ),
            (say("name", "名称"), shown(report.name)),
            (say("for", "适用于"), comma().join(shown(one) for one in (report.base, report.architecture) if one)),
            (say("adds", "加上"), f"{report.alpha:g} / rank * B @ A"),
            (say("weights", "权重"), count_text(report.weights)),
        ]
    )
    if report.matrices:
        parts = Counter((one.name if with_all else part_of(one.name), one.rank, one.kind) for one in report.matrices)
        head = (say("MATRIX", "矩阵"), say("COUNT", "数量"), say("RANK", "秩"), say("TYPE", "类型"))
        rows = [(shown(name, 40), f"{count:,}", f"{rank:,}", kind) for (name, rank, kind), count in parts.items()]
        yield table(head, rows, right=(1, 2))


def types_summary(report: "TypesReport", with_all: bool) -> Iterator[str]:
    """A plan's name and base, and how many tensors it lists for each type, or with `with_all` each of them."""
    plan = report.plan
    counts = Counter(kind.name for kind in plan.types.values())
    listed = comma().join(f"{kind} {count}" for kind, count in counts.most_common())
    yield rows_text(
        [
            (say("file", "文件"), printable(str(report.path))),
            (say("kind", "种类"), say("plan of types, for bq convert --types", "类型计划，供 bq convert --types 使用")),
            (say("name", "名称"), plan.name),
            (
                say("base", "基础"),
                say(f"{plan.base}, for tensors that are not listed", f"{plan.base}，用于未列出的张量"),
            ),
            (say("listed", "列出"), listed or say("none", "无")),
        ]
    )
    if with_all and plan.types:
        rows = [(shown(name), kind.name) for name, kind in plan.types.items()]
        yield table((say("TENSOR", "张量"), say("TYPE", "类型")), rows)
