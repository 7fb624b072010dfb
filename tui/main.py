"""The entry of `bq`: chooses the language, runs the command, and turns every failure into one clear line.

`--lang` and `--debug` are taken wherever they stand, because help texts are made when the commands are.
"""

import os
import signal
import sys
import traceback

from bq.runtime.errors import BqError
from bq.runtime.language import LANGUAGES, say, set_language


def main() -> None:
    """Run `bq` with the process's arguments and exit."""
    arguments, debug = _take_global_options(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A pipe or file on Windows has the old code page otherwise, which has no Chinese.
            stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="replace")
    # A terminated conversion cleans up like an interrupted one.
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(run(arguments, debug))


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

    from bq.tui.cli import cli

    if debug:
        from bq.runtime.llama import echo_log

        echo_log(True)
    try:
        result = cli.main(arguments, prog_name="bq", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (
        BrokenPipeError,
        SystemExit,
    ):  # the reader of a pipe has gone, as in `bq models | head`; click exits on that
        _drop_stdout()
        return 0
    except (KeyboardInterrupt, click.Abort):
        print(say("\nStopped.", "\n已停止。"), file=sys.stderr)
        return 130
    except BqError as error:
        if debug:
            traceback.print_exc()
        print(f"bq: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:  # what the machine refuses: a full disk, a folder without permission
        if debug:
            traceback.print_exc()
        _drop_stdout()
        print(f"bq: {error.strerror or error}{f': {error.filename}' if error.filename else ''}", file=sys.stderr)
        return 1
    except Exception as error:
        if debug:
            raise
        print(
            say(
                f"bq: a defect of bq: {type(error).__name__}: {error}. Run it again with --debug and report what it shows.",
                f"bq：程序缺陷：{type(error).__name__}：{error}。请加上 --debug 重新运行并报告输出。",
            ),
            file=sys.stderr,
        )
        return 1


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
