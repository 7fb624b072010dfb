"""What the reader of a repair should know beside the faults: what is kept, taken for granted, or not to be seen."""

from collections.abc import Iterator

from bq.convert.identity import Identity
from bq.convert.named_release import Named
from bq.convert.repair.findings import Finding, has_own_prompt
from bq.convert.repair.head import OUTPUT, Head
from bq.convert.repair.vocabulary import RightVocabulary
from bq.runtime.gguf_file import GgufFile
from bq.runtime.language import Both

_KEPT = Both("It stays as it is", "保持不变")


def find_notes(
    file: GgufFile, right: RightVocabulary, identity: Identity, named: Named | None, head: Head
) -> Iterator[Finding]:
    """What is kept, taken for granted or not seen."""
    yield from _identity_notes(file, identity, named)
    if right.vocabulary.added:
        count = f"{right.vocabulary.added:,}"
        yield Finding(
            "added-tokens", "note", Both(f"A fine-tune added {count} tokens", f"微调添加了 {count} 个词元"), _KEPT
        )
    if has_own_prompt(file, right):
        yield Finding("own-prompt", "note", Both("It has a form of prompt of its own", "它有自己的提示格式"), _KEPT)
    yield from _head_notes(file, right.generation, head)
    if file.tensors:
        yield Finding(
            "unseen",
            "note",
            Both(
                "The values of all other tensors, and the order of rows in q and k, show only beside the checkpoint",
                "其他张量的数值，以及 q、k 的行序，只有对照检查点才能看出",
            ),
            Both("`bq verify --against CHECKPOINT` looks at them", "可用 `bq verify --against CHECKPOINT` 检查"),
        )


def _identity_notes(file: GgufFile, identity: Identity, named: Named | None) -> Iterator[Finding]:
    """What the file is taken for."""
    if named:
        yield Finding(
            "release",
            "note",
            Both(f"It is taken for {identity.name}, by {named.by}", f"视为 {identity.name}（依据 {named.by.zh}）"),
            Both("Its name, licence and origin are set", "写入其名称、许可与来源"),
        )
    elif not file.text("bq.variant"):
        reason = identity.variant_reason
        yield Finding(
            "variant",
            "note",
            Both(
                f"It is taken for a {identity.variant} model ({reason})", f"视为 {identity.variant} 模型（{reason.zh}）"
            ),
            Both("--release and --variant say otherwise", "可用 --release 与 --variant 另行指定"),
        )


def _head_notes(file: GgufFile, generation: int, head: Head) -> Iterator[Finding]:
    """What the norms of output.weight tell where nothing is to be done."""
    if head.verdict == "unknown":
        kind = file.tensors[OUTPUT].kind.name
        yield Finding(
            "norm-head",
            "note",
            Both(
                f"{kind} is too coarse to tell whether NormHead is folded in",
                f"{kind} 过于粗略，无法判断 NormHead 是否已折入",
            ),
            _KEPT,
        )
    elif head.verdict == "sound":
        yield Finding(
            "norm-head",
            "note",
            Both(
                f"output.weight is as Baichuan {generation} needs it (row norms {head.norms})",
                f"output.weight 符合 Baichuan {generation} 的需要（行范数 {head.norms}）",
            ),
            _KEPT,
        )
