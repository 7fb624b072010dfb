"""One answer on stdout as it is written; everything else on stderr, so that it works in a pipe."""

import signal
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bq.runtime.errors import Cancelled, UsageError
from bq.runtime.language import say

if TYPE_CHECKING:
    from bq.runtime.fit import Plan
    from bq.runtime.generation import Generation, Stats
    from bq.runtime.model import Model

MAX_INPUT_BYTES = 16 << 20


def answer(
    given: dict[str, Any],
    start: Callable[["Model", dict[str, Any]], "Generation"],
    finish: Callable[["Model", str], None] = lambda model, text: None,
    show: Callable[["Generation"], str] | None = None,
) -> int:
    """Load the model, print what `start` generates, and return the exit status: 0, or 130 if it was interrupted.

    `finish` hears the whole text, unless it was interrupted.
    """
    from bq.runtime.loading import load
    from bq.tui.chosen_model import choose_model, remember_model
    from bq.tui.commands.options import load_options, sampling

    path = choose_model(given["model"])
    show_plan = print_plan if given["stats"] or sys.stderr.isatty() else None
    with (
        stop_on_interrupt() as cancel,
        load(path, load_options(given), lambda _: not cancel.is_set(), show_plan) as model,
    ):
        if given["model"] is not None:
            remember_model(Path(path))
        for warning in model.warnings:
            print(say("Warning: ", "警告：") + warning, file=sys.stderr)
        generation = start(
            model,
            {
                "sampling": sampling(given, model.info.sampling),
                "max_tokens": given["max_tokens"],
                "stop": given["stop"],
                "draft": not given["no_draft"],
                "cancel": cancel,
            },
        )
        said = (show or show_text)(generation)
        if given["stats"]:
            print_fit(model)
        _report(generation, given["stats"])
        if generation.stats.stop == "cancel":
            raise Cancelled(say("The answer was stopped.", "回答已停止。"))
        finish(model, said)
    return 0


def show_text(generation: "Generation") -> str:
    """Print an answer as it comes, and a line's end; returns it."""
    said = []
    for text in generation:
        said.append(text)
        sys.stdout.write(text)
        sys.stdout.flush()
    sys.stdout.write("\n")
    sys.stdout.flush()
    return "".join(said)


def print_plan(plan: "Plan") -> None:
    """Say on stderr how the model is about to be loaded."""
    from bq.runtime.fit_advice import describe

    print(describe(plan), file=sys.stderr)


def print_fit(model: "Model") -> None:
    """Say on stderr how far off the estimate was."""
    from bq.runtime.fit_advice import compare

    print(compare(model.fit), file=sys.stderr)


@contextmanager
def stop_on_interrupt() -> Iterator[threading.Event]:
    """An event that Ctrl+C sets: the answer ends after the current token. A second Ctrl+C ends the program."""
    cancel = threading.Event()

    def on_interrupt(number: int, frame: Any) -> None:
        if cancel.is_set():
            signal.default_int_handler(number, frame)
        cancel.set()

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield cancel
    finally:
        signal.signal(signal.SIGINT, before)


def _report(generation: "Generation", show: bool) -> None:
    stats = generation.stats
    if stats.stop == "length":
        print(
            say("The answer was cut at the limit (--max-tokens).", "回答达到长度上限（--max-tokens）后被截断。"),
            file=sys.stderr,
        )
    if show:
        print(_counts(stats), file=sys.stderr)


def _counts(stats: "Stats") -> str:
    """One line: tokens and speeds of prompt and answer."""
    prefill = (stats.prompt_tokens - stats.reused_tokens) / stats.prefill_seconds if stats.prefill_seconds else 0.0
    speed, used, stop = stats.tokens_per_second, stats.context_used, stats.stop
    return say(
        f"prompt {stats.prompt_tokens} tokens, {stats.reused_tokens} reused, {prefill:.1f} tokens/s; "
        f"answer {stats.tokens} tokens, {stats.accepted} guessed ahead, {speed:.1f} tokens/s; context {used}; stop: {stop}",
        f"提示 {stats.prompt_tokens} 词元，复用 {stats.reused_tokens}，{prefill:.1f} 词元/秒；"
        f"回答 {stats.tokens} 词元，其中提前猜中 {stats.accepted}，{speed:.1f} 词元/秒；上下文 {used}；结束原因：{stop}",
    )


def piped_text() -> str:
    """What stands on stdin if it is a pipe or a file, else "". Raises UsageError if it is far too long for any context."""
    import os

    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, AttributeError):
        return ""
    if not (stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)):
        return ""
    data = sys.stdin.buffer.read(MAX_INPUT_BYTES + 1)
    if len(data) > MAX_INPUT_BYTES:
        raise UsageError(
            say("The text on stdin is longer than 16 MiB.", "标准输入的文本超过 16 MiB。"),
            say("Give it in parts.", "请分段输入。"),
        )
    return data.decode("utf-8", "replace").strip("\ufeff").rstrip("\r\n")
