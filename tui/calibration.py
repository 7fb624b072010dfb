"""`bq convert --calibrate`: the three steps as the user sees them."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bq.runtime.language import say
from bq.tui.table import size_text

if TYPE_CHECKING:
    from bq.convert.convert import Conversion


def calibrated(
    conversions: "Sequence[Conversion]", paths: Sequence[Path], texts: Sequence[str], threads: int | None, force: bool
) -> "list[Conversion]":
    """The conversions with an importance matrix that is gathered now. Raises BqError where that cannot be done."""
    from bq.convert.calibrate import calibration_file, check_space, gathered, gathering
    from bq.convert.convert import with_importance
    from bq.runtime.cpu import usable_cores
    from bq.runtime.evaluation.imatrix import Watch
    from bq.tui.answer import stop_on_interrupt
    from bq.tui.commands.imatrix import ChunkLine
    from bq.tui.progress import ProgressLine
    from bq.tui.texts import texts_named

    given = texts_named(texts, "calibration")
    check_space(conversions[0], paths[0])
    aside = calibration_file(conversions[0])
    _note(
        say(
            f"Step 1 of 3: {aside.mixture.name} to gather from, {size_text(aside.size_bytes)}, removed afterwards.",
            f"第 1 步（共 3 步）：写 {aside.mixture.name} 临时文件，{size_text(aside.size_bytes)}，用后删除。",
        )
    )
    written, line = ProgressLine(), ChunkLine()
    try:
        with gathering(conversions[0], paths[0], threads or usable_cores(), written) as path:
            written.clear()
            names = ", ".join(text.name for text in given)
            _note(
                say(
                    f"Step 2 of 3: the importance matrix over {names} (`bq imatrix` keeps it, and goes on after a stop).",
                    f"第 2 步（共 3 步）：在 {names} 上收集重要性矩阵（`bq imatrix` 可保留它，并能在中断后继续）。",
                )
            )
            with stop_on_interrupt() as cancel:
                importance = gathered(path, given, Watch(None, line, cancel))
    finally:
        written.clear()
        line.clear()
    _note(say("Step 3 of 3: converting with it.", "第 3 步（共 3 步）：用它转换。"))
    return [with_importance(one, importance) for one in conversions]


def _note(text: str) -> None:
    print(text, file=sys.stderr)
