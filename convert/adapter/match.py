"""Adapters laid over a base checkpoint: which of its tensors they change, and whether they were made for it at all.

The outcome is a checkpoint like any other, whose tensors know what is added to them: whoever plans, converts or compares it
need not know of adapters.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from bq.convert.adapter.merge import Adapted, Delta, Term
from bq.convert.adapter.read import Adapter, Pair
from bq.convert.checkpoint import Checkpoint
from bq.convert.identity import Identity
from bq.convert.source import SourceTensor
from bq.runtime.errors import BqError
from bq.runtime.language import Both, say
from bq.runtime.releases import find_release

_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
_PACKED = "qweight"  # what GPTQ has instead of a matrix "weight"
_TOKENIZERS = ("tokenizer.model", "tokenizer.json")


def adapt(base: Checkpoint, adapters: Sequence[Adapter]) -> Checkpoint:
    """The base with the adapters over it. Raises BqError for one that was not made for it."""
    if not adapters:
        return base
    whole = _replaced(base, adapters)
    tensors = {**base.tensors, **whole}
    terms: dict[str, list[Term]] = {}
    for adapter in adapters:
        for module, pair in adapter.pairs.items():
            name = module + ".weight"
            _refuse_misfit(base, adapter, name, pair, tensors)
            factor = adapter.weight * adapter.config.scale_of(module)
            terms.setdefault(name, []).append(Term(adapter.name, factor, pair.a, pair.b, pair.is_embedding))
    config, tokenizer = _resized(base, adapters, tensors)
    adapted = Adapted(
        labels=tuple(adapter.label for adapter in adapters),
        deltas={name: Delta(tuple(found)) for name, found in terms.items()},
        replaced=tuple(whole),
        tokenizer_folder=tokenizer,
        notes=tuple(note for adapter in adapters for note in _notes(base, adapter)),
    )
    return replace(base, config=config, tensors=tensors, adapted=adapted)


def named(identity: Identity, adapters: Sequence[Adapter]) -> Identity:
    """Who the merged model is: the base's name with the adapters', a fine-tune of the base's release."""
    if not adapters:
        return identity
    return replace(identity, name="-".join((identity.name, *(one.name for one in adapters))), is_fine_tune=True)


def _replaced(base: Checkpoint, adapters: Sequence[Adapter]) -> dict[str, SourceTensor]:
    """The tensors that take the place of the base's."""
    found: dict[str, SourceTensor] = {}
    for adapter in adapters:
        for name, tensor in adapter.whole.items():
            _refuse_unknown(base, adapter, name)
            if name in found or adapter.weight != 1:
                raise _refused(
                    adapter,
                    say(
                        f"it replaces {name} whole, which cannot be weighed or mixed",
                        f"它整体替换 {name}，无法加权或混合",
                    ),
                    say("Give this adapter alone and without a weight.", "请单独给出此适配器，且不带权重。"),
                )
            is_fitting = tensor.shape == base.tensors[name].shape
            if not is_fitting and not (
                name in (_EMBEDDING, _HEAD) and tensor.shape[1:] == base.tensors[name].shape[1:]
            ):
                raise _misfit(adapter, name, list(tensor.shape), base.tensors[name])
            found[name] = tensor
    return found


def _refuse_unknown(base: Checkpoint, adapter: Adapter, name: str) -> None:
    if name.removesuffix("weight") + _PACKED in base.tensors:
        raise _refused(
            adapter,
            say(
                f"it changes {name}, which this GPTQ base holds as packed codes",
                f"它改变 {name}，而此 GPTQ 基座只存有打包的编码",
            ),
            say(
                "Give the bf16 or f16 release instead of its GPTQ form, with the same --adapter.",
                "请改用 bf16 或 f16 原版（而非其 GPTQ 版本），--adapter 不变。",
            ),
        )
    if name not in base.tensors:
        raise _refused(
            adapter, say(f"it changes {name}, which this base does not have", f"它改变 {name}，而此基座没有该张量")
        )
    if name in (_EMBEDDING, _HEAD) and base.config.get("tie_word_embeddings") is True:
        raise _refused(
            adapter,
            say(
                f"it changes {name}, and this base has one matrix for embedding and output (tie_word_embeddings)",
                f"它改变 {name}，而此基座的嵌入与输出共用一个矩阵（tie_word_embeddings）",
            ),
            say("Merge it with PEFT and convert what that saves.", "请用 PEFT 合并后再转换。"),
        )


def _refuse_misfit(base: Checkpoint, adapter: Adapter, name: str, pair: Pair, tensors: dict[str, SourceTensor]) -> None:
    _refuse_unknown(base, adapter, name)
    rows, columns = pair.b.shape[0], pair.a.shape[1]
    shape = (columns, rows) if pair.is_embedding else (rows, columns)
    if shape != tensors[name].shape:
        raise _misfit(adapter, name, list(shape), tensors[name])
    expected = adapter.config.rank_of(name.removesuffix(".weight"))
    if pair.rank != expected:
        raise _refused(
            adapter,
            say(
                f"the rank of {name} is {pair.rank}, by adapter_config.json it should be {expected}",
                f"{name} 的秩为 {pair.rank}，按 adapter_config.json 应为 {expected}",
            ),
            say("Take both files from the same training.", "请使用同一次训练的两个文件。"),
        )


def _resized(
    base: Checkpoint, adapters: Sequence[Adapter], tensors: dict[str, SourceTensor]
) -> tuple[dict[str, object], Path | None]:
    """The configuration, and where the tokenizer of a vocabulary of another size is."""
    rows = {name: tensors[name].shape[0] for name in (_EMBEDDING, _HEAD) if name in tensors}
    new = [adapter for adapter in adapters if any(name in adapter.whole for name in rows)]
    if not new or all(count == base.config.get("vocab_size") for count in rows.values()):
        return base.config, None
    if len(set(rows.values())) > 1:
        sizes = ", ".join(f"{name} {count:,}" for name, count in rows.items())
        raise _refused(
            new[0],
            say(f"it resizes the vocabulary in one place only ({sizes} rows)", f"它只在一处改变词表大小（{sizes} 行）"),
            say(
                "Train with both in modules_to_save, and save again.",
                "请在训练时把两者都列入 modules_to_save，再重新保存。",
            ),
        )
    has_own = any((new[-1].folder / name).is_file() for name in _TOKENIZERS)
    return {**base.config, "vocab_size": rows[_EMBEDDING]}, new[-1].folder if has_own else None


def _notes(base: Checkpoint, adapter: Adapter) -> Iterator[Both]:
    """What looks wrong and may be right."""
    named, this = find_release(adapter.config.base), find_release(base.folder.resolve().name)
    if named and this and named != this:
        yield Both(
            f"Warning: {adapter.name} was trained on {named.name}, and this is {this.name}.",
            f"警告：{adapter.name} 是在 {named.name} 上训练的，而这里是 {this.name}。",
        )
    for target in () if adapter.config.is_partial else adapter.config.targets:
        modules = [name.removesuffix(".weight") for name in base.tensors if f".{name}".endswith(f".{target}.weight")]
        lacking = [module for module in modules if module not in adapter.pairs]
        if lacking:
            yield Both(
                f"Warning: {adapter.name} should change {len(modules)} × {target} and lacks {len(lacking)}, the first is {lacking[0]}.",
                f"警告：{adapter.name} 应改变 {len(modules)} × {target}，缺少其中 {len(lacking)} 个，第一个是 {lacking[0]}。",
            )


def _misfit(adapter: Adapter, name: str, shape: list[int], base: SourceTensor) -> BqError:
    return _refused(
        adapter,
        say(
            f"it is for {name} of the shape {shape}, and this base has {list(base.shape)}",
            f"它对应形状为 {shape} 的 {name}，而此基座为 {list(base.shape)}",
        ),
    )


def _refused(adapter: Adapter, what: str, remedy: str | None = None) -> BqError:
    base = adapter.config.base[:200]
    trained = say(f" It names {base!r}." if base else "", f"它注明的是 {base!r}。" if base else "")
    return BqError(
        say(f"The adapter {adapter.name} does not fit: {what}.", f"适配器 {adapter.name} 不适用：{what}。"),
        remedy or say(f"Give the base that it was trained on.{trained}", f"请给出训练它所用的基座。{trained}"),
    )
