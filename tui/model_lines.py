"""A model in a list to choose from, in some lines: the picker colours them, the line mode writes them as they are."""

from pathlib import Path
from typing import TYPE_CHECKING

from bq.runtime.language import say
from bq.tui.harmless import clean
from bq.tui.table import gib

if TYPE_CHECKING:
    from bq.tui.wire import Candidate

Part = tuple[str, str]  # a text and its style, in theme variables


def model_lines(number: int, path: Path, known: "Candidate | None", is_current: bool) -> list[list[Part]]:
    """Its number, name, size and kind, then how it fits, and how good it was found to be. `known` None: not looked at yet."""
    head = f"{number:>2} {'●' if is_current else ' '} "
    if known is None:
        return [[(head + clean(path.name), "bold")], [("     …", "$text-muted")]]
    if known.error:
        return [[(head + clean(path.name), "bold")], [(f"     {clean(known.error)}", "$text-error")]]
    title = f"{head}{clean(known.name)}  {known.mixture}  {gib(known.size_bytes)} GiB  {known.variant}"
    fits = (say("fits", "放得下"), "$text-success") if known.fits else (say("does not fit", "放不下"), "$text-error")
    lines = [[(title, "bold")], [("     ", ""), fits, (f"  {', '.join(_needs(known))}", "$text-muted")]]
    if known.quality:
        lines.append([(f"     {clean(known.quality)}", "$text-muted")])
    lines += [[(f"     ! {clean(warning)}", "$text-warning")] for warning in known.warnings]
    return lines


def _needs(known: "Candidate") -> list[str]:
    """What it takes, and where it goes."""
    needs = say(
        f"needs {gib(known.estimate_bytes)} of {gib(known.free_bytes)} GiB free",
        f"需要 {gib(known.estimate_bytes)} / 空闲 {gib(known.free_bytes)} GiB",
    )
    rest = [needs, say(f"context {known.context}", f"上下文 {known.context}")]
    if known.gpu_layers:
        rest.append(
            say(f"{known.gpu_layers} of {known.layers} layers on the GPU", f"GPU {known.gpu_layers}/{known.layers} 层")
        )
    if known.cpu_experts:
        count = known.cpu_experts
        rest.append(say(f"experts of {count} in main memory", f"{count} 层的专家在内存中"))
    return rest
