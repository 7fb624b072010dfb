"""Reads a repaired file back before it gets its name: what the disk has is what was written, and nothing is left to repair."""

from dataclasses import replace
from pathlib import Path

from bq.convert.read_back import check_token_ids
from bq.convert.repair.findings import has_own_prompt
from bq.convert.repair.gguf_rewrite import checksum_of
from bq.convert.repair.head import OUTPUT
from bq.convert.repair.plan import Repair, plan_repair
from bq.convert.verify.file_checks import check_file
from bq.runtime.errors import BqError
from bq.runtime.language import Both, say
from bq.runtime.tokenizer import load_tokenizer


def check_repaired(part: Path, plan: Repair, checksum: int, threads: int) -> tuple[Both, ...]:
    """What was checked. Raises BqError for the first thing that is not as it should be."""
    if checksum_of(part) != checksum:
        raise _defect(say("the disk gives back other bytes than were written", "磁盘读回的字节与写入的不同"))
    again = plan_repair(part, replace(plan.options, output_type=None))
    if again.is_needed:
        raise _defect(again.findings[0].what.here)
    if not plan.file.tensors:
        with load_tokenizer(part) as tokenizer:
            return (
                *_checked(plan, again),
                *_token_ids(part, plan),
                Both(f"llama.cpp takes its {len(tokenizer):,} pieces", f"llama.cpp 可读取其 {len(tokenizer):,} 个词元"),
            )
    has_own = has_own_prompt(again.file, again.right)  # which verification takes for a wrong one
    for check in check_file(part, threads):
        if check.verdict == "failure" and not (check.name == "chat-template" and has_own):
            raise BqError(
                say(
                    f"{plan.file.path.name} cannot be repaired: {check.text}",
                    f"无法修复 {plan.file.path.name}：{check.text}",
                ),
                check.remedy,
            )
    return (*_checked(plan, again), *_token_ids(part, plan))


def _checked(plan: Repair, again: Repair) -> list[Both]:
    copied = len([name for name in plan.file.tensors if name not in plan.rewrite.kinds])
    found = [Both("nothing is left to repair", "已没有需要修复之处")]
    if copied:
        found.append(Both(f"{copied} tensors are copied byte for byte", f"{copied} 个张量逐字节复制"))
    if OUTPUT in plan.rewrite.kinds:
        found.append(
            Both(
                f"the rows of output.weight have norms {again.head.norms}",
                f"output.weight 的行范数为 {again.head.norms}",
            )
        )
    return found


def _token_ids(part: Path, plan: Repair) -> list[Both]:
    """Against SentencePiece, if the tokenizer is at hand."""
    if plan.options.tokenizer is None:
        return []
    count = check_token_ids(part, plan.right.vocabulary, plan.identity.roles)
    return [Both(f"{count} texts give SentencePiece's token ids", f"{count} 段文本的词元 id 与 SentencePiece 一致")]


def _defect(what: str) -> BqError:
    return BqError(
        say(f"The repaired file is not right: {what}.", f"修复后的文件有误：{what}。"),
        say(
            "It was removed; please report this with the name of the file.",
            "它已被删除；请附上文件名报告此问题。",
        ),
    )
