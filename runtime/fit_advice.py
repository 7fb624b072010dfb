"""The choice how to load, as lines for people: what it takes, why so, how far off it was, and what would fit if nothing does."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bq.runtime import fit
from bq.runtime.errors import BqError
from bq.runtime.fit import LEAST_CONTEXT, MOST_CONTEXT, LoadOptions, Machine, Plan
from bq.runtime.gguf_file import GgufFile
from bq.runtime.language import say
from bq.runtime.memory import CONTEXT_PADDING, HOST, Estimate, Shape, Use
from bq.runtime.releases import Layout, releases

if TYPE_CHECKING:
    from bq.runtime.loading import Fit

_MIB, _GIB = 1 << 20, 1 << 30
_SHORTEST_ADVISED = 512  # tokens; below that no conversation is possible


def amount(size: int) -> str:
    """Bytes as a person compares them: "61 MiB", "6.18 GiB", "12.0 GiB"."""
    if size < _GIB:
        return f"{size / _MIB:.0f} MiB"
    return f"{size / _GIB:.2f} GiB" if size < 10 * _GIB else f"{size / _GIB:.1f} GiB"


def describe(plan: Plan) -> str:
    """One line: what each device will hold and has free, layers, context, threads."""
    setting = plan.setting
    parts = [_of_device(plan, use) for use in plan.estimate.uses]
    if plan.devices:
        is_far = any(name.startswith("RPC") for name in plan.devices)
        place = ", ".join(plan.devices) if is_far else say("the GPU", "GPU")
        parts.append(
            say(
                f"{setting.gpu_layers} of {plan.layers} layers on {place}",
                f"{plan.layers} 层中的 {setting.gpu_layers} 层在 {place}",
            )
        )
    if plan.relieved:
        count = len(plan.relieved)
        parts.append(say(f"the experts of {count} of them in main memory", f"其中 {count} 层的专家在内存中"))
    parts.append(say(f"context {setting.ctx}", f"上下文 {setting.ctx}"))
    parts.append(f"KV {setting.kv}")
    parts.append(say(f"{plan.threads} thread{'s' * (plan.threads > 1)}", f"{plan.threads} 线程"))
    return say("Memory: ", "内存：") + say(", ", "，").join(parts)


def _of_device(plan: Plan, use: Use) -> str:
    free = plan.free_of(use.device)
    name, total, left = use.device, amount(use.total), amount(free)
    within = say(f"{name} {total} of {left} free", f"{name} {total} / 空闲 {left}")
    return within + say(f" ({_parts((use,))})", f"（{_parts((use,))}）")


def _parts(uses: Sequence[Use]) -> str:
    """What these uses are made of."""
    weights, kv, adapters = (amount(sum(getattr(use, what) for use in uses)) for what in ("weights", "kv", "adapters"))
    parts = [say(f"weights {weights}", f"权重 {weights}")]
    if any(use.adapters for use in uses):
        parts.append(say(f"adapters {adapters}", f"适配器 {adapters}"))
    rest = amount(sum(use.compute + use.other for use in uses))
    return say(", ", "、").join([*parts, f"KV {kv}", say(f"buffers {rest}", f"缓冲区 {rest}")])


def compare(found: "Fit") -> str:
    """One line: what was predicted, what llama.cpp took, and how far off that is."""
    predicted, used = _reported(found.plan.estimate), _reported(found.used)
    off = f"{round(100 * (used / predicted - 1), 1) + 0.0:+.1f} %"  # + 0.0: no minus before a zero
    line = say(
        f"Memory: predicted {amount(predicted)}, used {amount(used)} ({off})",
        f"内存：预计 {amount(predicted)}，实际 {amount(used)}（{off}）",
    )
    tries = len(found.failed)
    return line + (say(f"; tries before that failed: {tries}", f"；此前失败 {tries} 次") if tries else "")


def _reported(estimate: Estimate) -> int:
    """What llama.cpp reports too."""
    return sum(use.weights + use.kv + use.compute + use.adapters for use in estimate.uses)


def reasons(plan: Plan, options: LoadOptions) -> tuple[str, ...]:
    """Why less than everything was chosen."""
    return tuple(_reasons(plan, options))


def _reasons(plan: Plan, options: LoadOptions) -> Iterator[str]:
    setting = plan.setting
    if plan.devices and options.gpu_layers is None and setting.gpu_layers < plan.layers:
        yield say("not all layers fit on the GPU", "GPU 放不下全部层")
    if plan.relieved and options.cpu_experts is None:
        count = len(plan.relieved)
        yield say(f"the GPU has no room for the experts of {count} layers", f"GPU 放不下其中 {count} 层的专家")
    if options.kv is None and setting.kv != "f16":
        yield say("keys and values in q8_0 to save memory", "为节省内存，KV 使用 q8_0")
    if options.ctx is None and setting.ctx < plan.trained:
        yield _shorter(setting.ctx, plan.trained)


def _shorter(ctx: int, trained: int) -> str:
    if ctx == MOST_CONTEXT:
        return say(
            f"a context of {ctx}, unless --ctx asks for more; the model was trained for {trained}",
            f"上下文为 {ctx}，可用 --ctx 要求更长；模型按 {trained} 训练",
        )
    return say(
        f"a context of {ctx} instead of {trained} to save memory",
        f"为节省内存，上下文由 {trained} 减为 {ctx}",
    )


def refusal(file: GgufFile, shape: Shape, least: Plan, machine: Machine, options: LoadOptions) -> BqError:
    """The error for a model that fits in no way that the options allow, `least` being the nearest: main memory is short."""
    short = fit.shortages(least, machine, options)[0]
    sharing = {one.name for one in machine.devices if one.shares_memory}
    parts = _parts([use for use in least.estimate.uses if use.device in {HOST, *sharing}])
    setting, name, needed, free = least.setting, file.path.name, amount(short.needed), amount(short.free)
    has_other = any(device not in sharing for device in least.devices)
    beside = say(" beside the GPU's", "（GPU 之外）") if has_other else ""
    return BqError(
        say(
            f"{name} needs {needed} of memory{beside} with a context of {setting.ctx} and KV in {setting.kv} "
            f"({parts}); {free} are free.",
            f"{name} 在上下文 {setting.ctx}、KV 为 {setting.kv} 时需要 {needed} 内存{beside}（{parts}），而空闲 {free}。",
        ),
        _remedy(shape, machine, options),
    )


def _remedy(shape: Shape, machine: Machine, options: LoadOptions) -> str:
    context = _context_that_fits(shape, machine, options)
    mixture = _mixture_that_fits(shape, machine, options)
    ways = []
    if context:
        ways.append(f"--ctx {context[0]} --kv {context[1]}")
    if mixture:
        size = amount(mixture[1])
        shorter = f" --ctx {mixture[2]}" if mixture[2] else ""
        ways.append(
            say(
                f"a file in {mixture[0]} ({size}, `bq convert -q {mixture[0]}`){' with' + shorter if shorter else ''}",
                f"{mixture[0]} 文件（{size}，`bq convert -q {mixture[0]}`）{'并用' + shorter if shorter else ''}",
            )
        )
    if not ways:
        ways.append(say("a smaller model (`bq models`)", "更小的模型（`bq models`）"))
    return say(
        f"What would fit: {', or '.join(ways)}. --force-fit loads it anyway.",
        f"可以放下的有：{'，或 '.join(ways)}。--force-fit 可强行加载。",
    )


def _context_that_fits(shape: Shape, machine: Machine, options: LoadOptions) -> tuple[int, str] | None:
    """The longest context, shorter than what is refused, that fits, and the KV type for it."""
    longest = min(options.ctx or LEAST_CONTEXT, shape.trained)
    kinds = dict.fromkeys([options.kv or "q8_0", "q8_0"])
    for kv in kinds:
        for ctx in range((longest - 1) // CONTEXT_PADDING * CONTEXT_PADDING, _SHORTEST_ADVISED - 1, -CONTEXT_PADDING):
            if fit.plans(shape, machine, replace(options, ctx=ctx, kv=kv)):
                return ctx, kv
    return None


def _mixture_that_fits(shape: Shape, machine: Machine, options: LoadOptions) -> tuple[str, int, int | None] | None:
    """The largest smaller mixture of the same layout that fits, and the context for it, None where the options say it."""
    layout = _layout_of(shape)
    sizes = sorted(layout.sizes.items(), key=lambda entry: -entry[1]) if layout else []
    for ctx in (None, LEAST_CONTEXT // 2):
        asked = replace(options, ctx=ctx) if ctx else options
        for name, size in sizes:
            if size < shape.weights and fit.plans(_scaled(shape, size), machine, asked):
                return name, size, ctx
    return None


def _layout_of(shape: Shape) -> Layout | None:
    known = (one.layout for one in releases() if one.layout)
    wanted = (shape.hidden, len(shape.blocks), shape.ffn, shape.vocab)
    return next((one for one in known if (one.hidden, one.blocks, one.ffn, one.vocab) == wanted), None)


def _scaled(shape: Shape, weights: int) -> Shape:
    """The same model with weights of another size."""
    part = weights / shape.weights
    return replace(
        shape,
        embedding=int(shape.embedding * part),
        output=int(shape.output * part),
        blocks=tuple(int(block * part) for block in shape.blocks),
        expert_blocks=tuple(int(block * part) for block in shape.expert_blocks),
        widest_expert=int(shape.widest_expert * part),
    )
