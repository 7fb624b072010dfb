"""Boxes to write in whose keys act in the order in which they were pressed, also when many come at once.

Textual inserts a letter as soon as it reaches the box, and asks for a key's binding only after the key has gone up to
the app and come to its turn there: of `a`, Left, `b` in one burst both letters would stand before the cursor moves. Here a
box looks for the binding itself, before the next key is taken; and what was typed behind Tab goes on to the next box.
"""

from contextlib import suppress
from typing import TYPE_CHECKING

from textual import events
from textual.binding import Binding
from textual.dom import DOMNode
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Input, TextArea

if TYPE_CHECKING:
    _Beside = Widget
else:
    _Beside = object  # a widget's styles are those of its first base that is a widget: here TextArea or Input

_LEAVING = ("tab", "shift+tab")


class _InOrder(_Beside):
    _next: Widget | None = None  # the box to which Tab has gone from here

    async def _on_key(self, event: events.Key) -> None:
        if self._next is not None and self._next is self.screen.focused:
            _settle(event)
            self._next._forward_event(events.Key(event.key, event.character))
        elif not event.is_printable and await self._act(event.key):
            _settle(event)
            focused = self.screen.focused
            self._next = focused if event.key in _LEAVING and focused is not self else None

    def on_focus(self) -> None:
        self._next = None

    async def _act(self, key: str) -> bool:
        """Do what a key is bound to here, or in what this is a part of; False if it is to go on as ever."""
        for node in self.ancestors_with_self:
            if isinstance(node, Screen) and key not in _LEAVING:
                break
            for binding in _bound(node, key):
                if not binding.priority and await self.app.run_action(binding.action, node):
                    return True
        return False


def _settle(event: events.Key) -> None:
    event.stop()
    event.prevent_default()


def _bound(node: DOMNode, key: str) -> list[Binding]:
    """The bindings of a key, as the user's keymap has them."""
    bindings, keymap = node._bindings, node.app._keymap
    if keymap:
        bindings = bindings.copy()
        bindings.apply_keymap(keymap)
    return bindings.key_to_bindings.get(key, [])


class Box(_InOrder, TextArea):
    """Of many lines."""

    def _recompute_cursor_offset(self) -> None:
        """Textual (8.2) asks in the midst of an undo, when the text is shorter already and the cursor still stands behind it."""
        with suppress(ValueError):
            super()._recompute_cursor_offset()  # type: ignore[no-untyped-call]


class Field(_InOrder, Input):
    """Of one line."""
