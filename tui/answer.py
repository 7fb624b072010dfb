"""One answer on stdout as it is written; everything else on stderr, so that it works in a pipe."""

import os
import signal
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bq.runtime.errors import Cancelled, UsageError
from bq.runtime.language import say
from bq.tui.unheard_signals import every_signal_heard

if TYPE_CHECKING:
    from pathlib import Path

    from bq.runtime.fit import Plan
    from bq.runtime.generation import Generation, Stats
    from bq.runtime.model import Model

MAX_INPUT_BYTES = 16 << 20
STDIN_SECONDS = 3.0  # without its end, before that is told


def answer(
    given: dict[str, Any],
    start: Callable[["Model", dict[str, Any]], "Generation"],
    finish: Callable[["Model", str], None] = lambda model, text: None,
    show: Callable[["Generation"], str] | None = None,
    check: Callable[["Path"], None] = lambda path: None,
) -> int:
    """Load the model, print what `start` generates, and return the exit status: 0, or 130 if it was interrupted.

    `finish` hears the whole text, unless it was interrupted; `check` raises what the file tells before it is loaded.
    """
    from bq.runtime.loading import load
    from bq.tui.chosen_model import choose_model, remember_model
    from bq.tui.commands.options import load_options

    path = choose_model(given["model"])
    check(path)
    with (
        stop_on_interrupt() as cancel,
        load(path, load_options(given), lambda _: not cancel.is_set(), plan_printer(given)) as model,
    ):
        if given["model"] is not None:
            remember_model(path)
        tell_warnings(model)
        generation = start(model, {**_generation_options(given, model), "cancel": cancel})
        said = (show or show_text)(generation)
        if given["stats"]:
            print_fit(model)
        _report(generation, given["stats"])
        if generation.stats.stop == "cancel":
            raise Cancelled(say("The answer was stopped.", "回答已停止。"))
        finish(model, said)
    return 0


def _generation_options(given: dict[str, Any], model: "Model") -> dict[str, Any]:
    from bq.tui.commands.options import sampling

    return {
        "sampling": sampling(given, model.info.sampling),
        "max_tokens": given["max_tokens"],
        "stop": given["stop"],
        "draft": not given["no_draft"],
    }


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


def plan_printer(given: dict[str, Any]) -> Callable[["Plan"], None] | None:
    """What says on stderr how the model is about to be loaded, if someone wants to know."""
    return _print_plan if given["stats"] or sys.stderr.isatty() else None


def _print_plan(plan: "Plan") -> None:
    from bq.runtime.fit_advice import describe

    print(describe(plan), file=sys.stderr)


def tell_warnings(model: "Model") -> None:
    """Say on stderr what is wrong with the model's file, or could not be as it was asked for."""
    for warning in model.warnings:
        print(say("Warning: ", "警告：") + warning, file=sys.stderr)


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
    """What stands on stdin if it is a pipe or a file, else "". Raises UsageError if it is no text, or far too long."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, AttributeError):
        return ""
    if not (stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)):
        return ""
    with every_signal_heard(), _told_if_waiting():
        data = sys.stdin.buffer.read(MAX_INPUT_BYTES + 1)
    if len(data) > MAX_INPUT_BYTES:
        raise UsageError(
            say("The text on stdin is longer than 16 MiB.", "标准输入的文本超过 16 MiB。"),
            say("Give it in parts.", "请分段输入。"),
        )
    try:
        return data.decode("utf-8").strip("\ufeff").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise _no_text("stdin", error.start) from None


@contextmanager
def _told_if_waiting() -> Iterator[None]:
    """Say what is waited for, where it takes long: whatever started this program may keep the pipe open by mistake."""
    text = say(
        f"Waiting for the end of stdin. If there is nothing to read from it, add `< {os.devnull}`.",
        f"正在等待标准输入结束。若无需从中读取，请加上 `< {os.devnull}`。",
    )
    timer = threading.Timer(STDIN_SECONDS, lambda: print(text, file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def check_text(name: str, *texts: str | None) -> None:
    """Raise UsageError for an argument with bytes that are no UTF-8: Python keeps them as halves of surrogate pairs."""
    for text in filter(None, texts):
        half = next((at for at, character in enumerate(text) if "\ud800" <= character <= "\udfff"), None)
        if half is not None:
            raise _no_text(name, len(text[:half].encode("utf-8")))


def _no_text(name: str, start: int) -> UsageError:
    return UsageError(
        say(f"{name} is no UTF-8 text: byte {start + 1}.", f"{name} 不是 UTF-8 文本：第 {start + 1} 字节。"),
        say("Give it as UTF-8.", "请以 UTF-8 编码给出。"),
    )
