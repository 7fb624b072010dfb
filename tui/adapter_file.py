"""What `bq convert --adapter-gguf` does: the adapter as a file of its own, beside the model's."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bq.runtime.errors import UsageError
from bq.runtime.language import say
from bq.tui.conversion_plan import adapter_lines
from bq.tui.table import size_text

if TYPE_CHECKING:
    from bq.convert.convert import Conversion


def refuse_needless(adapters: Sequence[str], others: Sequence[str]) -> None:
    """Raises UsageError where there is no adapter, or `others`, options of a model's file."""
    if not adapters:
        raise UsageError(
            say("--adapter-gguf goes with --adapter.", "--adapter-gguf 须与 --adapter 合用。"),
            say("Give the adapter's folder.", "请给出适配器的文件夹。"),
        )
    if others:
        raise UsageError(
            say(
                f"{others[0]} is about a model's file; --adapter-gguf writes none.",
                f"{others[0]} 用于模型文件，而 --adapter-gguf 不写模型文件。",
            ),
            say(f"Leave out {others[0]} or --adapter-gguf.", f"请去掉 {others[0]} 或 --adapter-gguf。"),
        )


def write_adapter_file(conversion: "Conversion", output: str | None, force: bool) -> None:
    """Write the file and print its path. Raises BqError for an adapter that cannot be one, and where it cannot be written."""
    from bq.convert.adapter.gguf import plan_adapter, write_adapter

    for line in adapter_lines(conversion):
        print(line, file=sys.stderr)
    plan, path = plan_adapter(conversion), Path(output or "").expanduser()
    if path.is_dir() or (output or "").endswith(("/", os.sep)):
        path /= plan.file_name
    write_adapter(plan, path, force)
    size = size_text(path.stat().st_size)
    print(
        say(
            f"Wrote {size}: an adapter for {len(plan.tensors)} tensors of a {plan.architecture} model made from this base.",
            f"写入 {size}：适用于由此基座转换的 {plan.architecture} 模型，涉及 {len(plan.tensors)} 个张量。",
        ),
        file=sys.stderr,
    )
    click.echo(str(path))
