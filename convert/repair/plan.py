"""What a file needs to be right: found from its header and a sample of output.weight, before anything is written."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bq.convert.identity import Identity
from bq.convert.named_release import name_file
from bq.convert.norm_head import NormHead
from bq.convert.repair.findings import Finding, find_faults, refuse_later_models
from bq.convert.repair.gguf_rewrite import Rewrite, raw_keys, stamp_of
from bq.convert.repair.head import OUTPUT, Head, judge_head
from bq.convert.repair.metadata import HEAD_KEYS, identify_file, new_keys, replaced_keys, wanted_keys
from bq.convert.repair.notes import find_notes
from bq.convert.repair.vocabulary import RightVocabulary, right_vocabulary
from bq.runtime.cpu import usable_cores
from bq.runtime.errors import BqError, UsageError
from bq.runtime.ggml import GgmlType, block_size
from bq.runtime.gguf_file import GgufFile, read_gguf
from bq.runtime.language import Both, say
from bq.runtime.structure import ARCHITECTURE, check_structure, check_vocabulary

# Types that output.weight may be given: those that llama.cpp quantizes without an importance matrix, of 4 bits and more.
OUTPUT_TYPES = (
    *("F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0"),
    *("Q4_K", "Q4_1", "Q4_0", "IQ4_NL", "IQ4_XS"),
)


@dataclass(frozen=True)
class RepairOptions:
    """What the user knows better: a tokenizer.model or its folder, the variant, the release, another type for the output."""

    tokenizer: Path | None = None
    variant: str | None = None
    release: str | None = None
    output_type: str | None = None


@dataclass(frozen=True)
class Repair:
    """All that is known before the first tensor is copied; `stamp` is of the file as it was then."""

    options: RepairOptions
    right: RightVocabulary
    identity: Identity
    head: Head
    findings: tuple[Finding, ...]
    rewrite: Rewrite
    stamp: tuple[int, int, int]

    @property
    def file(self) -> GgufFile:
        return self.rewrite.source

    @property
    def is_needed(self) -> bool:
        return any(one.verdict != "note" for one in self.findings)

    @property
    def hopeless(self) -> Finding | None:
        """What no repair can mend."""
        return next((one for one in self.findings if one.verdict == "hopeless"), None)

    @property
    def default_path(self) -> Path:
        """The name of the new file, beside the old one."""
        path = self.file.path
        return path.with_name(f"{path.name.removesuffix('.gguf')}-repaired.gguf")


def plan_repair(path: Path, options: RepairOptions = RepairOptions()) -> Repair:
    """Look at a file. Raises BqError for one that llama.cpp could not run, or whose vocabulary is not known."""
    with disk_errors(path):
        stamp = stamp_of(path) if path.exists() else (0, 0, 0)  # read_gguf says that it is not there
        file = read_gguf(path)
        _check_runnable(file)
        right = right_vocabulary(file, options.tokenizer)
        named = name_file(file, right.generation, options.release)
        identity = identify_file(file, right, named, options.variant)
        head = judge_head(file, right.generation, usable_cores())
        target = _output_type(file, head, options.output_type)
        faults = tuple(find_faults(file, right, identity, head, target))
        notes = tuple(find_notes(file, right, identity, named, head))
        wanted = wanted_keys(file, right, identity, _norm_head(head, right.generation))
        replaced = {key for one in faults for key in one.keys} | replaced_keys(file, named)
        keys = new_keys(raw_keys(file), wanted, replaced | (set(HEAD_KEYS) if target is not None else set()))
        rewrite = Rewrite(file, keys, {} if target is None else {OUTPUT: target})
        return Repair(options, right, identity, head, (*faults, *notes), rewrite, stamp)


def _check_runnable(file: GgufFile) -> None:
    """A vocabulary without a model is welcome too."""
    if file.tensors:
        check_structure(file)
        refuse_later_models(file)
        return
    architecture = file.text("general.architecture", "?")[:40]
    if architecture != ARCHITECTURE:
        raise UsageError(
            say(
                f"{file.path.name} is the vocabulary of a {architecture} model; bq repairs Baichuan models.",
                f"{file.path.name} 是 {architecture} 模型的词表；bq 修复 Baichuan 模型。",
            )
        )
    check_vocabulary(file)


def _output_type(file: GgufFile, head: Head, wanted: str | None) -> GgmlType | None:
    """The type of output.weight once NormHead is folded, None if it stays as it is."""
    if head.verdict != "fold":
        if wanted is not None:
            raise UsageError(
                say(
                    "--output-type has no effect: output.weight stays as it is.",
                    "--output-type 无效：output.weight 保持不变。",
                ),
                say("Leave it out.", "请去掉该选项。"),
            )
        return None
    entry = file.tensors[OUTPUT]
    target = GgmlType[wanted] if wanted else entry.kind
    if entry.shape[-1] % block_size(target)[0]:
        raise UsageError(
            say(
                f"Rows of {entry.shape[-1]:,} weights do not divide into blocks of {target.name}.",
                f"每行 {entry.shape[-1]:,} 个权重，不能划分为 {target.name} 的块。",
            ),
            say("Take --output-type Q8_0.", "请用 --output-type Q8_0。"),
        )
    return target


def _norm_head(head: Head, generation: int) -> NormHead | None:
    """What the file says of itself from now on; None for a Baichuan 2 whose output.weight does not show it."""
    if head.verdict not in ("sound", "fold"):
        nothing = Both("repaired: no Baichuan 1 has NormHead", "修复：Baichuan 1 没有 NormHead")
        return NormHead(False, (nothing,)) if generation == 1 else None
    en, zh = ("were", "曾为") if head.verdict == "fold" else ("are", "为")
    reason = Both(
        f"repaired: row norms of output.weight {en} {head.norms}", f"修复：output.weight 的行范数{zh} {head.norms}"
    )
    return NormHead(generation == 2, (reason,))


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """What the machine refuses, as one line."""
    try:
        yield
    except OSError as error:
        what = error.strerror or error
        raise BqError(
            say(f"{error.filename or path}: {what}.", f"{error.filename or path}：{what}。"),
            say("Check the path, its permissions and the space on the disk.", "请检查路径、权限与磁盘空间。"),
        ) from None
