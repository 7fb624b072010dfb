"""Messages as they are typed or piped in: each a line, or several lines that a backslash at the end joins, or a block
between marks of three double quotes.

A block is text, even where it begins with a slash; behind a command it is the command's. On a terminal the line is
edited by readline where there is one; nothing else moves the cursor.
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType

from bq.runtime.errors import UsageError
from bq.runtime.language import say
from bq.tui.answer import MAX_INPUT_BYTES
from bq.tui.harmless import clean
from bq.tui.slash import completions

PROMPT, MORE = "> ", "... "
BLOCK = '"""'
_HISTORY_CHARACTERS = 1000

Candidates = Callable[[str], Sequence[str]]


@dataclass(frozen=True)
class Typed:
    """A message. `is_block`: it is text, whatever it begins with."""

    text: str
    is_block: bool = False


class Terminated(KeyboardInterrupt):
    """The program is to end, not the line or the answer alone."""


def is_interactive() -> bool:
    """Whether a person types the messages."""
    return sys.stdin.isatty()


def tell(text: str) -> None:
    """A line for the person, beside the answers."""
    sys.stdout.flush()
    print(clean(text), file=sys.stderr, flush=True)


def messages(history: Iterable[str] = (), candidates: Candidates = lambda name: ()) -> Iterator[Typed]:
    """All messages until the end of the input. Raises UsageError for one that is no text or far too long.

    On a terminal Ctrl+C drops the line, and a second one right after it ends the input, as Ctrl+D does.
    """
    reader = _Terminal(history, candidates) if is_interactive() else _Pipe()
    was_interrupted = False
    while True:
        try:
            typed = _message(reader.line)
        except KeyboardInterrupt as interrupt:
            if isinstance(interrupt, Terminated) or not is_interactive():
                raise
            if was_interrupted and not reader.has_begun():
                tell("")
                return
            was_interrupted = True
            tell(
                "\n"
                + say(
                    "Ctrl+D or /quit quits, and so does a second Ctrl+C.",
                    "按 Ctrl+D、输入 /quit，或再按一次 Ctrl+C 退出。",
                )
            )
            continue
        if typed is None:
            return
        was_interrupted = False
        if typed.text.strip():
            yield typed


def _message(read: "Callable[[str], str | None]") -> Typed | None:
    """The next message, of one line or several; None at the end."""
    first = read(PROMPT)
    if first is None:
        return None
    head, mark, rest = first.partition(BLOCK)
    if mark and (not head or head.startswith("/")):
        return Typed(clean(head + _block(rest, read)), is_block=not head)
    lines = [first]
    while _goes_on(lines[-1]) and (more := read(MORE)) is not None:
        lines[-1] = lines[-1][:-1]
        lines.append(more)
        _check_size(lines)
    return Typed(clean("\n".join(lines)))


def _block(rest: str, read: "Callable[[str], str | None]") -> str:
    """What stands before the next mark at a line's end."""
    lines = [rest]
    while not lines[-1].rstrip().endswith(BLOCK):
        more = read(MORE)
        if more is None:
            tell(
                say(
                    f"The end of {BLOCK} is missing: the text ends with the input.",
                    f"缺少结尾的 {BLOCK}：文本到输入末尾为止。",
                )
            )
            return "\n".join(lines)
        lines.append(more)
        _check_size(lines)
    lines[-1] = lines[-1].rstrip()[: -len(BLOCK)]
    return "\n".join(lines).rstrip("\n")


def _goes_on(line: str) -> bool:
    """Whether a backslash at the end stands alone: of two, both are meant."""
    return (len(line) - len(line.rstrip("\\"))) % 2 == 1


def _check_size(lines: list[str]) -> None:
    if sum(map(len, lines)) > MAX_INPUT_BYTES:
        raise _too_long()


def _too_long() -> UsageError:
    return UsageError(
        say("A message is longer than 16 MiB.", "有一条消息超过 16 MiB。"), say("Give it in parts.", "请分段输入。")
    )


class _Pipe:
    """Lines of a pipe or a file, in UTF-8 whatever the locale says."""

    def __init__(self) -> None:
        self._number = 0

    def line(self, prompt: str) -> str | None:
        data = sys.stdin.buffer.readline(MAX_INPUT_BYTES + 1)
        self._number += 1
        if len(data) > MAX_INPUT_BYTES:
            raise _too_long()
        try:
            text = data.decode("utf-8-sig" if self._number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise UsageError(
                say(
                    f"Line {self._number} of stdin is no UTF-8 text.", f"标准输入第 {self._number} 行不是 UTF-8 文本。"
                ),
                say("Give it as UTF-8.", "请以 UTF-8 编码给出。"),
            ) from None
        return text.rstrip("\r\n") if data else None

    def has_begun(self) -> bool:
        return False


class _Terminal:
    """Lines that are typed."""

    def __init__(self, history: Iterable[str], candidates: Candidates) -> None:
        self._readline = _readline()
        self._candidates = candidates
        self._found: list[str] = []
        if self._readline is not None:
            self._prepare(self._readline, history)

    def line(self, prompt: str) -> str | None:
        try:
            return self._read(prompt)
        except EOFError:
            tell("")
            return None
        except UnicodeDecodeError:
            tell(say("That was no text in the terminal's encoding.", "输入不是终端编码的文本。"))
            return ""

    def has_begun(self) -> bool:
        """Whether something stands in the line that Ctrl+C dropped, as far as one can know."""
        return self._readline is not None and bool(self._readline.get_line_buffer())

    def _read(self, prompt: str) -> str:
        if sys.stdout.isatty():
            return input(prompt)
        print(prompt, end="", file=sys.stderr, flush=True)  # input() would write it into the answers
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.rstrip("\r\n")

    def _prepare(self, readline: ModuleType, history: Iterable[str]) -> None:
        for question in history:
            if "\n" not in question and len(question) <= _HISTORY_CHARACTERS:
                readline.add_history(clean(question))
        readline.set_completer_delims("\n")
        readline.set_completer(self._complete)
        is_libedit = "libedit" in (readline.__doc__ or "")
        readline.parse_and_bind("bind ^I rl_complete" if is_libedit else "tab: complete")

    def _complete(self, text: str, state: int) -> str | None:
        """What readline asks for, one after the other: it puts in what all have in common, so all must begin so."""
        if state == 0:
            lines = (one.line for one in completions(text, "plain", self._candidates))
            self._found = [line for line in lines if line.startswith(text)]
        return self._found[state] if state < len(self._found) else None


def _readline() -> ModuleType | None:
    """The module, where it exists and the terminal can be drawn on."""
    if not sys.stdout.isatty() or os.environ.get("TERM") in (None, "", "dumb"):
        return None
    try:
        import readline
    except ImportError:
        return None
    return readline
