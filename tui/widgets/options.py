"""A list to choose from, as Textual's but for one thing: a page key that comes before the list was drawn does nothing.

Textual (8.2) looks the marked line up in what was drawn, and ends the app with a KeyError where nothing was yet.
"""

from contextlib import suppress

from textual.widgets import OptionList


class Options(OptionList):
    def action_page_up(self) -> None:
        with suppress(KeyError):
            super().action_page_up()  # type: ignore[no-untyped-call]

    def action_page_down(self) -> None:
        with suppress(KeyError):
            super().action_page_down()  # type: ignore[no-untyped-call]
