"""A command line that can be pasted into bash or PowerShell as it is, whatever is in its arguments."""

import re
import shlex
from collections.abc import Sequence
from typing import Literal

from bq.runtime.errors import BqError
from bq.runtime.language import say

Shell = Literal["bash", "powershell"]
_PLAIN = re.compile(r"[A-Za-z0-9_./\\:=+-]+")
# PowerShell takes the typographic single quotes for the plain one (about_Quoting_Rules), so these are doubled as well.
_QUOTES = re.compile("(['\u2018\u2019\u201a\u201b])")
_CONTINUED: dict[Shell, str] = {"bash": " \\\n  ", "powershell": " `\n  "}


def command_line(groups: Sequence[Sequence[str]], shell: Shell) -> str:
    """The command of these arguments, each group on a line of its own. Raises BqError for what cannot be pasted."""
    quote = _bash if shell == "bash" else _powershell
    return _CONTINUED[shell].join(" ".join(map(quote, group)) for group in groups)


def _bash(text: str) -> str:
    return shlex.quote(_printable(text))


def _powershell(text: str) -> str:
    """In single quotes nothing is expanded. A double quote would be lost on its way to a program (before 7.3)."""
    if '"' in _printable(text):
        raise _not_pasted(text)
    return text if _PLAIN.fullmatch(text) else "'" + _QUOTES.sub(r"\1\1", text) + "'"


def _printable(text: str) -> str:
    if not text.isprintable():
        raise _not_pasted(text)
    return text


def _not_pasted(text: str) -> BqError:
    return BqError(
        say(f"A command line cannot hold {text!r}.", f"命令行无法包含 {text!r}。"),
        say("Give the file another name or place.", "请为文件更换名称或位置。"),
    )
