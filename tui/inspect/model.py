"""A GGUF file's report for reading: about one screen."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bq.runtime.language import say
from bq.tui.conversion_plan import count_text
from bq.tui.inspect.words import comma, flag_text, piece_text, printable, rows_text, shown
from bq.tui.table import size_text, table, width

if TYPE_CHECKING:
    from bq.convert.inspect.model import Group, ModelReport, ModelShape
    from bq.convert.inspect.vocabulary import SpecialToken, VocabularyReport

_MOST_GROUPS, _MOST_DETAILS, _MOST_FIGURES = 16, 8, 3
_SAMPLES_CELLS = 70
_ROLES = ("user", "assistant")


def summary(report: "ModelReport") -> Iterator[str]:
    """The parts of it, to be set apart by empty lines."""
    yield rows_text(
        [*_head(report), *origin_rows(report), *shape_rows(report.shape), *_vocabulary(report), *_quality(report)]
    )
    if report.tensors:
        yield groups_table(report.by_part())
    if report.vocabulary is not None and report.vocabulary.kinds:
        yield kinds_table(report.vocabulary)


def _head(report: "ModelReport") -> Iterator[tuple[str, str]]:
    yield say("file", "文件"), f"{printable(str(report.path))}{comma()}{size_text(report.size_bytes)}"
    yield say("name", "名称"), shown(report.name)
    yield say("model", "模型"), _model(report)
    yield say("licence", "许可"), shown(report.licence)
    yield say("types", "类型"), _types(report)


def _model(report: "ModelReport") -> str:
    if report.variant:
        family = family_text(report.architecture, report.generation)
        parts = [family, variant_text(report.variant, report.variant_reason)]
    else:
        parts = [shown(report.architecture) or say("of an architecture that it does not name", "未注明架构")]
    if report.release:
        parts.append(say(f"release {report.release}", f"发布版 {report.release}"))
    return comma().join(parts)


def generation_text(generation: int | None) -> str:
    """The name of a generation, also of an unknown one."""
    return f"Baichuan {generation}" if generation else say("Baichuan of unknown generation", "Baichuan（代次未知）")


def family_text(architecture: str, generation: int | None) -> str:
    """A generation of Baichuan's own layout, or the layout that the later models have."""
    of = {"qwen2": "Qwen2 (Baichuan-M2)", "qwen3moe": "Qwen3-MoE (Baichuan-M3)"}
    return of.get(architecture) or generation_text(generation)


def variant_text(variant: str, reason: str) -> str:
    """The variant, and what says so."""
    why = shown(reason, 100)
    return say(f"{variant} ({why})", f"{variant}（{why}）") if why else variant


def _types(report: "ModelReport") -> str:
    if not report.tensors:
        return ""
    weights, bits = count_text(report.weights), report.bits_per_weight or 0
    shares = comma().join(f"{shown(one.name)} {one.share:.1%}" for one in report.by_type()[:_MOST_GROUPS])
    mixture = shown(report.mixture) or say("mixture not given", "未注明量化方式")
    return say(
        f"{mixture}, {bits:.2f} bits per weight, {weights} weights in {len(report.tensors):,} tensors: {shares}",
        f"{mixture}，每权重 {bits:.2f} 位，{len(report.tensors):,} 个张量中共 {weights}个权重：{shares}",
    )


def origin_rows(report: "ModelReport") -> Iterator[tuple[str, str]]:
    """Who made the file, and of what."""
    origin = report.origin
    if origin.bq_version:
        effort = say(f", effort {origin.effort}", f"，力度 {origin.effort}")
        made = say(
            f"bq {origin.bq_version}, quantizer {origin.quantizer}",
            f"bq {origin.bq_version}，量化器 {origin.quantizer}",
        )
        if not origin.quantizer and report.has_whole_header:  # only the header is bq's
            made = say(
                f"another program; repaired by bq {origin.bq_version}", f"其他程序；由 bq {origin.bq_version} 修复"
            )
        yield say("made by", "生成者"), shown(made + (effort if origin.effort not in ("", "normal") else ""), 200)
    elif report.has_whole_header:
        yield say("made by", "生成者"), say("another program", "其他程序")
    if report.adapters:
        yield say("merged", "已合并"), shown(comma().join(report.adapters), 200)
    if origin.norm_head:
        yield "NormHead", norm_head_text(origin.norm_head == "folded", [origin.norm_head_reason])
    for key, value in origin.details[:_MOST_DETAILS]:
        yield shown(key.removeprefix("general."), 40), shown(value, 100)


def norm_head_text(is_folded: bool, reasons: "list[str]") -> str:
    """What was decided about NormHead, and why."""
    head = say("folded into output.weight", "已折入 output.weight") if is_folded else say("none", "无")
    why = printable(say("; ", "；").join(reason for reason in reasons if reason))
    return say(f"{head} ({why})", f"{head}（{why}）") if why else head


def shape_rows(shape: "ModelShape") -> Iterator[tuple[str, str]]:
    """Sizes of the model, and what its context costs."""
    if shape.blocks:
        yield say("shape", "结构"), _sizes(shape)
    if shape.context:
        context = say(f"{shape.context:,} tokens", f"{shape.context:,} 词元")
        each, whole = size_text(shape.kv_bytes_per_token), size_text(shape.kv_bytes_per_token * shape.context)
        cache = say(f", KV cache {each} per token, {whole} in all (f16)", f"，KV 缓存每词元 {each}，共 {whole}（f16）")
        yield say("context", "上下文"), context + (cache if shape.kv_bytes_per_token else "")


def _sizes(shape: "ModelShape") -> str:
    parts = [
        say(f"{shape.blocks} blocks", f"{shape.blocks} 块"),
        f"hidden {shape.hidden:,}",
        say(f"{shape.heads} heads of {shape.head_width}", f"{shape.heads} 个头，每头 {shape.head_width}"),
        f"FFN {shape.ffn:,}",
    ]
    if shape.experts:
        used, experts, width = shape.experts_used, shape.experts, f"{shape.ffn:,}"
        parts[-1] = say(f"{used} of {experts} experts of {width}", f"{experts} 个专家中用 {used} 个，各宽 {width}")
    if shape.kv_heads != shape.heads:
        parts.insert(3, say(f"{shape.kv_heads} KV heads", f"{shape.kv_heads} 个 KV 头"))
    number = f"base {shape.rope_base:,.0f}" if shape.rope_base else ""
    base = say(f" ({number})", f"（{number}）") if number else ""
    positions = {"rope": "RoPE" + base, "alibi": "ALiBi", "none": say("no positions", "无位置编码")}
    return comma().join([*parts, *([positions[shape.position]] if shape.position else [])])


def _vocabulary(report: "ModelReport") -> Iterator[tuple[str, str]]:
    if report.vocabulary is not None:
        yield from vocabulary_rows(report.vocabulary, report.has_whole_header)
        length = len(report.vocabulary.chat_template)
        absent = say("none", "无") if report.has_whole_header else ""
        yield say("template", "对话模板"), say(f"{length:,} characters", f"{length:,} 字符") if length else absent
    elif report.has_whole_header:
        yield say("vocabulary", "词表"), say("none", "无")


def vocabulary_rows(vocabulary: "VocabularyReport", is_whole: bool = True) -> Iterator[tuple[str, str]]:
    """How many pieces, what the special ones are, and how texts are prepared; what is not set only where `is_whole`."""
    parts = [say(f"{vocabulary.size:,} pieces", f"{vocabulary.size:,} 个词元")]
    if vocabulary.padding:
        parts.append(say(f"{vocabulary.padding:,} of them padding", f"其中 {vocabulary.padding:,} 个填充"))
    if vocabulary.added:
        parts.append(say(f"{vocabulary.added:,} added by a fine-tune", f"微调新增 {vocabulary.added:,} 个"))
    yield say("vocabulary", "词表"), comma().join(parts)
    roles = [one for one in vocabulary.special if one.use in _ROLES]
    yield say("roles", "角色"), comma().join(map(special_text, roles))
    others = [one for one in vocabulary.special if one.use not in _ROLES]
    yield say("special", "特殊词元"), comma().join(map(special_text, others))
    flags = {
        "add_space_prefix": vocabulary.add_space_prefix,
        "add_bos": vocabulary.add_bos,
        "add_eos": vocabulary.add_eos,
    }
    if vocabulary.add_dummy_prefix is not None:
        flags["add_dummy_prefix"] = vocabulary.add_dummy_prefix
    yield (
        say("flags", "标志"),
        comma().join(f"{name} {flag_text(value)}" for name, value in flags.items() if is_whole or value is not None),
    )


def special_text(token: "SpecialToken") -> str:
    """A special token: its use, piece and id; for the roles the type too, on which it depends whether a text can forge them."""
    use = {"user": say("user", "用户"), "assistant": say("assistant", "助手")}.get(token.use, shown(token.use, 24))
    if token.piece is None:
        return say(f"{use} {token.id} (no such piece)", f"{use} {token.id}（无此词元）")
    kind = str(token.id) + (comma() + kind_text(token.kind) if token.use in _ROLES and token.kind else "")
    return f"{use} {piece_text(token.piece)}" + say(f" ({kind})", f"（{kind}）")


def kind_text(kind: str) -> str:
    """A type of pieces in the reader's language."""
    names = {
        "normal": say("ordinary", "普通"),
        "unknown": say("unknown", "未知"),
        "control": say("control", "控制"),
        "user_defined": say("user-defined", "用户自定义"),
        "unused": say("unused", "未使用"),
        "byte": say("byte", "字节"),
    }
    return names.get(kind, kind)


def _quality(report: "ModelReport") -> Iterator[tuple[str, str]]:
    from bq.runtime.evaluation.figures import describe

    for one in reversed(report.figures[-_MOST_FIGURES:]):
        against = say(f", against {shown(one.against)}", f"，相对 {shown(one.against)}") if one.against else ""
        text = say(f"{one.tokens:,} tokens of {shown(one.text)}", f"{shown(one.text)} 的 {one.tokens:,} 个词元")
        yield say("quality", "质量"), describe(one) + against + say(f" ({text})", f"（{text}）")


def groups_table(groups: "tuple[Group, ...]") -> str:
    """Kinds of matrices with their types and shares."""
    head = (
        say("MATRIX", "矩阵"),
        say("TENSORS", "张量"),
        say("WEIGHTS", "权重"),
        say("SIZE", "大小"),
        say("SHARE", "占比"),
        say("TYPES", "类型"),
    )
    rows = [
        (
            shown(one.name, 32),
            f"{one.tensors:,}",
            f"{one.weights:,}",
            size_text(one.size_bytes),
            f"{one.share:.1%}",
            " ".join(map(printable, one.types[:_MOST_GROUPS])),
        )
        for one in groups[:_MOST_GROUPS]
    ]
    more = len(groups) - _MOST_GROUPS
    rest = say(f"… and {more:,} kinds more (--tensors)", f"……另有 {more:,} 种（--tensors）")
    return table(head, rows, right=(1, 2, 3, 4)) + (f"\n{rest}" if more > 0 else "")


def kinds_table(vocabulary: "VocabularyReport") -> str:
    """Types of pieces with samples."""
    head = (say("PIECES", "词元"), say("COUNT", "数量"), say("SOME OF THEM", "部分示例"))
    rows = [(kind_text(one.kind), f"{one.count:,}", _samples(one.samples)) for one in vocabulary.kinds[:_MOST_GROUPS]]
    return table(head, rows, right=(1,))


def _samples(samples: "tuple[str, ...]") -> str:
    found = ""
    for piece in samples:
        longer = f"{found} {piece_text(piece)}".lstrip()
        if width(longer) > _SAMPLES_CELLS:
            break
        found = longer
    return found
