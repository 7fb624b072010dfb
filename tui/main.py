"""The entry of `bq`: chooses the language, runs the command, and turns every failure into one clear line.

`--lang` and `--debug` are taken wherever they stand, because help texts are made when the commands are.
"""

import os
import signal
import sys

from bq.runtime.errors import BqError
from bq.runtime.language import LANGUAGES, get_language, say, set_language
from bq.runtime.openmp import limit_spins
from bq.tui.machine_error import of_machine

_STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))  # by descriptor


def main() -> None:
    """Run `bq` with the process's arguments and exit; an interrupt at any moment ends in one line."""
    try:
        try:
            # A terminated conversion cleans up like an interrupted one.
            signal.signal(signal.SIGTERM, _interrupt)
            limit_spins()
            status = _main()
        finally:
            _ignore_interrupts()
    except KeyboardInterrupt:
        status = _stopped()
    sys.exit(status)


def _main() -> int:
    has_stdout = _open_closed_streams()
    arguments, debug = _take_global_options(sys.argv[1:])
    if not has_stdout:
        print(
            say("bq: stdout is closed. Give it a file or a terminal.", "bq：标准输出已关闭。请指向文件或终端。"),
            file=sys.stderr,
        )
        return 1
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A pipe or file on Windows has the old code page otherwise, which has no Chinese.
            stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="replace")
    return run(arguments, debug)


def _open_closed_streams() -> bool:
    """Put the null device where a standard stream is closed, or the next file opened would take its descriptor.

    Returns whether stdout was open.
    """
    has_stdout = sys.stdout is not None
    for name, mode in _STREAMS:
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)  # the lowest that is free: the stream's own
            os.set_inheritable(descriptor, True)
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8"))
    return has_stdout


def _ignore_interrupts() -> None:
    """From here on the exit status is settled; Python's own end would show a trace, or be ended by the signal."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _stopped() -> int:
    print(say("\nStopped.", "\n已停止。"), file=sys.stderr)
    return 130


def _interrupt(number: int, frame: object) -> None:
    """A handler of our own: the system's may be to ignore an interrupt, as for a script's background job."""
    interrupt = signal.getsignal(signal.SIGINT)
    if callable(interrupt) and interrupt is not signal.default_int_handler:
        interrupt(signal.SIGINT, None)
    else:
        raise KeyboardInterrupt


def run(arguments: list[str], debug: bool) -> int:
    """Run a command; returns the exit status: 2 for a wrong use, 1 for a failure, 130 when interrupted."""
    import click

    _prepare(debug)
    from bq.tui.cli import cli

    try:
        result = cli.main(arguments, prog_name="bq", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (BrokenPipeError, SystemExit):
        _drop_stdout()  # the reader of a pipe has gone, as in `bq models | head`; click exits on that
        return 0
    except (KeyboardInterrupt, click.Abort):
        return _stopped()
    except BqError as error:
        if debug:
            _print_trace()
        print(f"bq: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:  # what the machine refuses: a full disk, a folder without permission
        if debug:
            _print_trace()
        _drop_stdout()
        print(f"bq: {of_machine(error)}", file=sys.stderr)
        return 1
    except Exception as error:
        if debug:
            raise
        print(_defect(error), file=sys.stderr)
        return 1


def _prepare(debug: bool) -> None:
    """What has to be before the commands are imported, whose help texts are made then."""
    if get_language() == "zh":
        from bq.tui.click_texts import speak_chinese

        speak_chinese()
    if debug:
        from bq.runtime.llama import echo_log

        echo_log(True)


def _defect(error: Exception) -> str:
    return say(
        f"bq: a defect of bq: {type(error).__name__}: {error}. Run it again with --debug and report what it shows.",
        f"bq：程序缺陷：{type(error).__name__}：{error}。请加上 --debug 重新运行并报告输出。",
    )


def _print_trace() -> None:
    import traceback

    traceback.print_exc()


def _drop_stdout() -> None:
    """What stdout did not take goes nowhere, or Python would try again at its end and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _take_global_options(arguments: list[str]) -> tuple[list[str], bool]:
    """The arguments without `--lang` and `--debug`, which are applied; those after `--` are the command's own."""
    rest: list[str] = []
    debug = False
    remaining = iter(arguments)
    for argument in remaining:
        if argument == "--":
            return [*rest, argument, *remaining], debug
        if argument == "--debug":
            debug = True
        elif argument == "--lang" or argument.startswith("--lang="):
            value = argument.partition("=")[2] or next(remaining, "")
            if value not in LANGUAGES:
                print(f"bq: --lang: {value!r} is not one of {', '.join(LANGUAGES)}", file=sys.stderr)
                sys.exit(2)
            set_language(value)
        else:
            rest.append(argument)
    return rest, debug
