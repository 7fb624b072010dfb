"""The app without what only a terminal needs, which takes a quarter of its time: here no one looks, but when a test does."""

from typing import Any

import pytest
from textual._compositor import Compositor
from textual._context import visible_screen_stack
from textual.app import App
from textual.strip import Strip


def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Screens are laid out and not drawn for a terminal; whoever asks for their strips has them."""
    monkeypatch.setattr(Compositor, "render_update", _nothing)


def _nothing(compositor: Compositor, **_: Any) -> None:
    compositor._dirty_regions.clear()


def drawn(app: App[Any]) -> str:
    """All that is on the screen, line by line, through Textual's own compositor and filters."""
    return "\n".join(strip.text.rstrip() for strip in strips(app))


def strips(app: App[Any]) -> list[Strip]:
    """The same with its colours."""
    visible_screen_stack.set(app._background_screens)  # what shows behind a dialog
    return app.screen._compositor.render_strips()


def still(app: App[Any]) -> None:
    """Nothing glides: each step of it lays the screen out."""
    app.animation_level = "none"
