"""The one family of errors: what is wrong and where, and what to do about it, each in a line.

`bq` prints `str(error)` and exits with `exit_code`; anything that is not a BqError is a defect of bq.
"""

_FULL_WIDTH_STOPS = ("。", "！", "？", "：", "；")


class BqError(Exception):
    """A failure that the user can understand and mend.

    `cause` says what is wrong and where (file, tensor, found, expected), `remedy` what to do.
    """

    exit_code = 1

    def __init__(self, cause: str, remedy: str | None = None) -> None:
        self.cause = _line(cause)
        self.remedy = _line(remedy) if remedy else None
        super().__init__(self.cause, self.remedy)

    def __str__(self) -> str:
        if not self.remedy:
            return self.cause
        return self.cause + ("" if self.cause.endswith(_FULL_WIDTH_STOPS) else " ") + self.remedy


def _line(text: str) -> str:
    """`text` in one line, without characters that a name from a hostile file could control the terminal with."""
    return "".join(character if character.isprintable() else "\ufffd" for character in " ".join(text.split()))


class UsageError(BqError):
    """The command was called in a way that cannot work; nothing was tried."""

    exit_code = 2


class Cancelled(BqError):
    """The user stopped the work; what was half done has been cleared away."""

    exit_code = 130
