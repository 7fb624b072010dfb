"""The commands that a line beginning with a slash may become, above the box to write in: Tab takes the marked one."""

from collections.abc import Callable, Sequence

from textual.content import Content
from textual.widgets.option_list import Option

from bq.tui.harmless import clean
from bq.tui.widgets.options import Options

Candidates = Callable[[str], Sequence[str]]
_MOST = 40


class Suggestions(Options, can_focus=False):
    """`candidates` gives the arguments that only the app knows."""

    DEFAULT_CSS = "Suggestions { height: auto; max-height: 8; display: none; border: none; padding: 0 1; }"

    def __init__(self, candidates: Candidates) -> None:
        super().__init__(markup=False)
        self._candidates = candidates
        self._known: dict[str, Sequence[str]] = {}  # asked for once while a command is being written
        self._offered: list[str] = []

    def look(self, text: str) -> None:
        """Offer what the text may become; nothing for what is no command, or already one to the letter."""
        if not text.startswith("/"):
            self._known.clear()
        self._offered = self._found(text)
        self.display = bool(self._offered)

    @property
    def marked(self) -> str | None:
        """The line that Tab would take."""
        return self._offered[self.highlighted or 0] if self._offered and self.display else None

    def move(self, step: int) -> None:
        self.highlighted = ((self.highlighted or 0) + step) % len(self._offered)

    def _arguments(self, name: str) -> Sequence[str]:
        if name not in self._known:
            self._known[name] = self._candidates(name)
        return self._known[name]

    def _found(self, text: str) -> list[str]:
        if not text.startswith("/"):
            return []
        from bq.tui.slash import completions

        found = completions(text, "app", self._arguments)[:_MOST]
        if any(one.line == text.rstrip() for one in found):
            found = []  # Enter means it, and not a longer one: /mode, and not /model
        self.set_options(
            Option(Content.assemble(clean(one.line), (f"  {clean(one.does)}", "$text-muted"))) for one in found
        )
        self.highlighted = 0 if found else None
        return [one.line for one in found]
