"""Mends a GGUF file that another program made from a Baichuan checkpoint: looks, says what is wrong, writes a right copy.

The old file is never changed. The new one gets its name when it is whole, has been read back, and would need nothing any
more; else nothing is left. What the file alone cannot show, the values of the other tensors, is copied as it is.
"""

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bq.convert.output_file import check_files, steady, writing
from bq.convert.repair.check import check_repaired
from bq.convert.repair.gguf_rewrite import changed_meanwhile, stamp_of, write_rewrite
from bq.convert.repair.head import folded_rows
from bq.convert.repair.plan import OUTPUT_TYPES, Repair, RepairOptions, disk_errors, plan_repair
from bq.convert.write import Progress
from bq.runtime.atomic_file import part_path
from bq.runtime.errors import BqError, UsageError
from bq.runtime.ggml import block_size
from bq.runtime.gguf_file import TensorEntry
from bq.runtime.language import Both, say

__all__ = ["OUTPUT_TYPES", "Repair", "RepairOptions", "Repaired", "check_output", "plan_repair", "repair"]


@dataclass(frozen=True)
class Repaired:
    """What was written, and what was checked of it."""

    path: Path
    size_bytes: int
    seconds: float
    checked: tuple[Both, ...]


def repair(
    plan: Repair, out: Path, threads: int, force: bool = False, report: Callable[[Progress], None] = lambda _: None
) -> Repaired:
    """Write the repaired copy, check it and name it. On any failure nothing is left and what existed stays.

    Raises BqError, among others for a file that cannot be mended.
    """
    begun = time.perf_counter()
    check_output(plan, out, force)
    with disk_errors(out), writing(out, force) as part:
        checksum = _write(plan, part, threads, report)
        checked = check_repaired(part, plan, checksum, threads)
        size = part.stat().st_size
    return Repaired(out, size, time.perf_counter() - begun, checked)


def check_output(plan: Repair, out: Path, force: bool) -> None:
    """Raise UsageError or BqError if the repair cannot be written there, as far as that can be known."""
    if hopeless := plan.hopeless:
        raise BqError(
            f"{plan.file.path.name}: {hopeless.what.here}{say('.', '。')}", f"{hopeless.done.here}{say('.', '。')}"
        )
    with disk_errors(out):
        part = part_path(out)
        for path in (out, part):
            if path.exists() and os.path.samefile(path, plan.file.path):
                raise UsageError(
                    say(
                        f"{path} is the file to repair, which is never changed.",
                        f"{path} 就是要修复的文件，它不会被改动。",
                    ),
                    say("Give another name with -o.", "请用 -o 指定其他名称。"),
                )
        check_files([out], force)
        left_behind = part.stat().st_size if part.exists() else 0  # by a run that was killed; it is cleared
        free, need = shutil.disk_usage(out.parent).free + left_behind, plan.rewrite.size_bytes
        if free < need:
            raise BqError(
                say(
                    f"{out.parent} has {free / 1e9:.2f} GB free, the file needs {need / 1e9:.2f} GB.",
                    f"{out.parent} 剩余 {free / 1e9:.2f} GB，而文件需要 {need / 1e9:.2f} GB。",
                ),
                say("Free some space, or give another disk with -o.", "请腾出空间，或用 -o 指定另一块磁盘。"),
            )


def _write(plan: Repair, part: Path, threads: int, report: Callable[[Progress], None]) -> int:
    rewrite, weights, done, written = plan.rewrite, 0, 0, 0

    def tell(entry: TensorEntry, size_bytes: int) -> None:
        nonlocal done, written
        width, size = block_size(rewrite.kind_of(entry))
        done += size_bytes * width // size
        written += size_bytes
        report(Progress(entry.name, min(done, weights), weights, written))

    for entry in rewrite.source.tensors.values():
        width, size = block_size(entry.kind)
        weights += entry.size_bytes // size * width
    made = {name: folded_rows(rewrite.source, kind, threads) for name, kind in rewrite.kinds.items()}
    with part.open("wb") as file, steady(file) as out:
        checksum = write_rewrite(rewrite, out, made, tell)
    if stamp_of(rewrite.source.path) != plan.stamp:
        raise changed_meanwhile(rewrite.source.path)
    return checksum
