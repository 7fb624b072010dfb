"""The work of `bq convert` as the user sees it: who quantizes, how far it is, and what was written."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from bq.runtime.language import say
from bq.tui.conversion_plan import count_text
from bq.tui.table import size_text

if TYPE_CHECKING:
    from bq.convert.conversion import Conversion
    from bq.convert.convert import Converted, Output
    from bq.convert.quantizer import Effort, Quantizer, Wish

_SLOW_TABLES = ("IQ1", "IQ2", "IQ3")  # llama.cpp takes some seconds for them, once


def chosen_quantizer(conversions: "Sequence[Conversion]", wish: "Wish", effort: "Effort") -> "Quantizer":
    """Who quantizes, once its kernels and llama.cpp's search tables are ready. Raises BqError for a wish that cannot be met."""
    from bq.convert.quantizer import choose_quantizer
    from bq.runtime import ggml
    from bq.tui.progress import Redrawn

    waiting = Redrawn()

    def begin(text: str) -> None:
        waiting.draw(lambda _: f"{text} …", True)

    tensors = [tensor for conversion in conversions for tensor in conversion.plan.tensors]
    try:
        choice = choose_quantizer(tensors, wish, effort, begin)
        for kind in sorted({tensor.kind for tensor in tensors if tensor.kind.name.startswith(_SLOW_TABLES)}):
            begin(
                say(f"Building llama.cpp's search table for {kind.name}", f"正在建立 llama.cpp 的 {kind.name} 搜索表")
            )
            ggml.prepare(kind)
    finally:
        waiting.clear()
    if choice.note:
        _note(choice.note)
    return choice.quantizer


def write_files(outputs: "Sequence[Output]", threads: int | None, force: bool) -> None:
    """Write the files, tell how it went, and print their paths."""
    from bq.convert.convert import convert_several
    from bq.library.known_hashes import known_hashes
    from bq.runtime.cpu import usable_cores
    from bq.tui.progress import ProgressLine

    checkpoint, progress = outputs[0].conversion.checkpoint, ProgressLine()
    hashes = known_hashes(checkpoint.folder, checkpoint.files)
    try:
        done = convert_several(outputs, threads or usable_cores(), force, progress, hashes)
    finally:
        progress.clear()
    for output, one in zip(outputs, done, strict=True):
        _report(output, one)


def _report(output: "Output", done: "Converted") -> None:
    from bq.tui.chosen_model import register_model

    plan = output.conversion.plan
    speed = plan.weights / done.write_seconds
    _note(done.checked.describe())
    _note(
        say(
            f"Wrote {size_text(done.size_bytes)}, {plan.bits_per_weight:.2f} bits per weight, in {done.write_seconds:.1f} s "
            f"({count_text(speed)} weights per second), checked in {done.check_seconds:.1f} s.",
            f"写入 {size_text(done.size_bytes)}，每权重 {plan.bits_per_weight:.2f} 位，用时 {done.write_seconds:.1f} 秒"
            f"（每秒 {count_text(speed)}个权重），检查用时 {done.check_seconds:.1f} 秒。",
        )
    )
    if output.conversion.can_run:
        _note(say("Try it: ", "试用：") + _next_step(output.conversion.identity.variant, str(output.path)))
    register_model(output.path)
    click.echo(str(output.path))


def _next_step(variant: str, path: str) -> str:
    """The command that the variant is made for."""
    return {"base": f'bq complete -m {path} "…"', "instruct": f'bq run -m {path} "…"'}.get(
        variant, f"bq chat -m {path}"
    )


def _note(text: str) -> None:
    print(text, file=sys.stderr)
