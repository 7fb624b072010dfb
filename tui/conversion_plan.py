"""A conversion's plan as `bq convert` shows it: what was read, every tensor, and what is stored otherwise than the mixture says."""

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from bq.runtime.language import say
from bq.tui.table import size_text, table

if TYPE_CHECKING:
    from bq.convert.convert import Conversion


def describe(conversion: "Conversion") -> list[str]:
    """What the checkpoint is, for the screen."""
    config, identity = conversion.config, conversion.identity
    dtypes = "/".join(sorted({tensor.source.dtype for tensor in conversion.plan.tensors}))
    weights = count_text(conversion.plan.weights)
    position = {"rope": "RoPE", "alibi": "ALiBi"}[config.position]
    family = f"Baichuan {conversion.generation}" if conversion.generation else config.architecture
    return [
        say(
            f"{identity.name}: {family}, {weights} weights in {dtypes}, "
            f"{config.blocks} blocks, {position}, context {config.context}",
            f"{identity.name}：{family}，{weights}个权重（{dtypes}），"
            f"{config.blocks} 块，{position}，上下文 {config.context}",
        ),
        say(
            f"Variant: {identity.variant} ({identity.variant_reason.here})",
            f"类型：{identity.variant}（{identity.variant_reason.here}）",
        ),
        conversion.norm_head.describe(),
        *form_lines(conversion),
        *adapter_lines(conversion),
    ]


def form_lines(conversion: "Conversion") -> Iterator[str]:
    """What a checkpoint's form means for the file."""
    from bq.convert.conversion import why_not_run

    if conversion.config.gptq is not None:
        bits = conversion.config.gptq.bits
        yield say(
            f"GPTQ: {bits}-bit codes are unpacked, so the file is no better than they are; the bf16 release gives a better one.",
            f"GPTQ：已还原 {bits} 位编码，因此文件质量不会高于它；bf16 原版可得到更好的文件。",
        )
    if not conversion.can_run:
        yield why_not_run()


def adapter_lines(conversion: "Conversion") -> Iterator[str]:
    """What adapters do to the checkpoint, and what looks wrong about them."""
    adapted = conversion.checkpoint.adapted
    if adapted.labels:
        names, deltas, replaced = ", ".join(adapted.labels), len(adapted.deltas), len(adapted.replaced)
        whole = say(f", {replaced} replaced whole", f"，整体替换 {replaced} 个") if replaced else ""
        yield say(
            f"Adapters: {names} (added to {deltas} matrices of the checkpoint{whole})",
            f"适配器：{names}（加到检查点的 {deltas} 个矩阵上{whole}）",
        )
    for note in adapted.notes:
        yield note.here


def plans_text(conversions: "Sequence[Conversion]") -> str:
    """All plans for reading, with what they have in common once."""
    return "\n\n".join(["\n".join(describe(conversions[0])), *map(plan_text, conversions)])


def plans_json(conversions: "Sequence[Conversion]") -> str:
    """One object for one plan, a list for several."""
    plans = [plan_data(conversion) for conversion in conversions]
    return json.dumps(plans if len(plans) > 1 else plans[0], ensure_ascii=False, indent=2)


def plan_text(conversion: "Conversion") -> str:
    """The plan for reading: every tensor, and the sums."""
    plan = conversion.plan
    rows = [
        (one.name, one.kind.name, "×".join(map(str, one.shape)), f"{one.size_bytes / 1e6:,.2f}") for one in plan.tensors
    ]
    by_kind: dict[str, int] = {}
    for one in plan.tensors:
        by_kind[one.kind.name] = by_kind.get(one.kind.name, 0) + one.weights
    shares = ", ".join(
        f"{kind} {weights / plan.weights:.1%}" for kind, weights in sorted(by_kind.items(), key=lambda item: -item[1])
    )
    head = (say("TENSOR", "张量"), say("TYPE", "类型"), say("SHAPE", "形状"), "MB")
    return "\n".join(
        [
            table(head, rows, right=(3,)),
            "",
            say(
                f"{conversion.file_name}: {size_text(conversion.size_bytes)}, {plan.bits_per_weight:.2f} bits per weight, "
                f"{len(plan.tensors)} tensors; weights by type: {shares}",
                f"{conversion.file_name}：{size_text(conversion.size_bytes)}，每权重 {plan.bits_per_weight:.2f} 位，"
                f"{len(plan.tensors)} 个张量；各类型权重占比：{shares}",
            ),
            *fallback_lines(conversion),
        ]
    )


def fallback_lines(conversion: "Conversion") -> Iterator[str]:
    """What the mixture stores otherwise than its name says, and what it would be in the mixture of our own."""
    from bq.convert.convert import in_mixture
    from bq.convert.mixture import own_mixture
    from bq.convert.plan import fallbacks
    from bq.runtime.ggml import block_size

    name = conversion.mixture_name

    for one in fallbacks(conversion.plan):
        sign = "+" if one.more_bytes >= 0 else "−"
        yield say(
            f"{name}: {one.tensors} × {one.part} has rows of {one.columns:,}, which do not divide by "
            f"{block_size(one.wanted)[0]}: {one.given.name} in place of {one.wanted.name} ({sign}{size_text(abs(one.more_bytes))})",
            f"{name}：{one.tensors} × {one.part} 行宽 {one.columns:,}，不能被 {block_size(one.wanted)[0]} 整除："
            f"以 {one.given.name} 代替 {one.wanted.name}（{sign}{size_text(abs(one.more_bytes))}）",
        )
    own = None if conversion.types else own_mixture(conversion.mixture)
    other = in_mixture(conversion, own) if own else conversion
    if [one.kind for one in other.plan.tensors] != [one.kind for one in conversion.plan.tensors]:
        yield say(
            f"{name}: -q {other.mixture.name} shares the bits out more evenly: {size_text(other.size_bytes)}, "
            f"{other.plan.bits_per_weight:.2f} bits per weight",
            f"{name}：-q {other.mixture.name} 的位数分配更均衡：{size_text(other.size_bytes)}，每权重 "
            f"{other.plan.bits_per_weight:.2f} 位",
        )


def plan_data(conversion: "Conversion") -> dict[str, Any]:
    """The plan as plain data."""
    from bq.convert.plan import fallbacks

    plan = conversion.plan
    return {
        "name": conversion.identity.name,
        "variant": conversion.identity.variant,
        "generation": conversion.generation,
        "norm_head": {"folded": conversion.norm_head.fold, "reasons": list(conversion.norm_head.reasons)},
        "mixture": conversion.mixture_name,
        "base": conversion.mixture.name if conversion.types else None,
        "importance": conversion.importance is not None,
        "adapters": list(conversion.checkpoint.adapted.labels),
        "file": conversion.file_name,
        "size_bytes": conversion.size_bytes,
        "weights": plan.weights,
        "bits_per_weight": round(plan.bits_per_weight, 4),
        "fallbacks": [
            {
                "part": one.part,
                "columns": one.columns,
                "wanted": one.wanted.name,
                "given": one.given.name,
                "tensors": one.tensors,
                "more_bytes": one.more_bytes,
            }
            for one in fallbacks(plan)
        ],
        "tensors": [
            {
                "name": one.name,
                "type": one.kind.name,
                "shape": list(one.shape),
                "size_bytes": one.size_bytes,
                "source": one.source.name,
            }
            for one in plan.tensors
        ],
    }


def count_text(count: float) -> str:
    """A large number as one says it."""
    en = f"{count / 1e9:.2f} billion" if count >= 1e9 else f"{count / 1e6:.1f} million"
    return say(en, f"{count / 1e8:.2f} 亿" if count >= 1e8 else f"{count / 1e4:,.0f} 万")
