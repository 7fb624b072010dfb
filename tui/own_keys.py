"""The user's own keys in the running app: taken when it starts, and again when one is changed."""

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from bq.tui import keymap, settings
from bq.tui.widgets.line import Notice

if TYPE_CHECKING:
    from bq.tui.app import ChatApp


async def take(app: "ChatApp") -> None:
    """Use the keys in the settings; what is wrong with some of them is said, and the others hold."""
    given = app.settings.keys
    if given is None:
        return
    found = keymap.read(given)
    app.set_keymap(dict(found.keys))
    for at in range(len(found.wrong)):
        await app.desk.page.notice(Notice("warning", partial(_line, given, at)))


def change(app: "ChatApp", id: str, key: str | None) -> None:
    """Use another key for an action from now on, and keep it; None for the one that it comes with. Raises BqError."""
    keymap.keep(id, key)
    app.settings = replace(app.settings, keys=settings.load().keys)
    app.set_keymap(dict(keymap.read(app.settings.keys).keys))


def _line(given: object, at: int) -> str:
    """One of the things that are wrong, in the language of the moment."""
    return f"{settings.settings_path()}: {keymap.read(given).wrong[at]}"
