"""Trying again: what a server or a line refuses now, it often grants a little later."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from bq.library.sources.source import Watcher
from bq.runtime.errors import BqError
from bq.runtime.language import Both, say

_T = TypeVar("_T")
_NOTED_SECONDS = 2.0
_FEW = 2
# What else there is than the source that does not answer.
_OTHERS: Mapping[str, Both] = {
    "hf": Both(
        "use a mirror (HF_ENDPOINT) or another source (--from modelscope, or a folder).",
        "使用镜像（HF_ENDPOINT）或其他来源（--from modelscope，或文件夹）。",
    ),
    "modelscope": Both("use another source (--from hf, or a folder).", "使用其他来源（--from hf，或文件夹）。"),
}


class Passing(Exception):
    """A failure that may pass: what failed, how long the server asks to wait, and whether something came before it.

    `is_doubtful`: it may as well be for good, such as a wrong address; few tries tell enough.
    """

    def __init__(
        self, what: str, after: float | None = None, progressed: bool = False, is_doubtful: bool = False
    ) -> None:
        super().__init__(what)
        self.what, self.after, self.progressed, self.is_doubtful = what, after, progressed, is_doubtful


@dataclass(frozen=True)
class Patience:
    """How often something is tried in a row without anything to show for it, and how long is waited in between.

    The waits double, with a random part so that many clients do not come back at once. A server that asks for more than
    `most_seconds` is taken at its word: the user decides when to come back.
    """

    tries: int = 6
    first_seconds: float = 1.0
    most_seconds: float = 120.0

    def seconds(self, tried: int, asked: float | None) -> float:
        """The wait after so many failures in a row."""
        doubled = min(self.first_seconds * 2 ** (tried - 1), self.most_seconds)
        return asked if asked is not None else doubled * random.uniform(0.75, 1.25)


def persist(
    action: Callable[[], _T],
    patience: Patience,
    watcher: Watcher,
    source: str,
    is_begun: Callable[[], bool] = lambda: False,
) -> _T:
    """What `action` returns at last. Raises BqError when patience is at its end, Cancelled when the user's is.

    `source` is the one that is asked, "hf" or "modelscope"; `is_begun` tells whether something of what is fetched is here.
    """
    tried = 0
    while True:
        watcher.stop_if_cancelled()
        try:
            return action()
        except Passing as failure:
            tried = 1 if failure.progressed else tried + 1
            seconds = patience.seconds(tried, failure.after)
            most = min(_FEW, patience.tries) if failure.is_doubtful else patience.tries
            if tried >= most or (failure.after or 0) > patience.most_seconds:
                raise _at_its_end(failure, tried, source, is_begun()) from None
            if seconds >= _NOTED_SECONDS:
                watcher.note(
                    say(f"{failure.what}; again in {seconds:.0f} s.", f"{failure.what}；{seconds:.0f} 秒后重试。")
                )
            watcher.cancel.wait(seconds)


def _at_its_end(failure: Passing, tried: int, source: str, is_begun: bool) -> BqError:
    what = (
        say(f"{failure.what}, {tried} times in a row", f"{failure.what}，连续 {tried} 次")
        if tried > 1
        else failure.what
    )
    others = _OTHERS[source].here
    if failure.after is not None:
        wait = say(f"It asks to wait {failure.after:.0f} s.", f"服务器要求等待 {failure.after:.0f} 秒。")
    else:
        wait = say(f"Check the connection, or {others}", f"请检查网络，或{others}")
    if failure.is_doubtful:
        again = say(" --offline takes what is here already.", "--offline 只用本机已有的内容。")
    elif is_begun:
        again = say(" What came is kept; call it again to go on.", "已下载的部分会保留，再次运行即可继续。")
    else:
        again = say(" Or call it again later.", "也可稍后再次运行。")
    return BqError(what + say(".", "。"), wait + again)
