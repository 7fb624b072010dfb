"""Which keys stand in the footer: those that are wanted most, as many as the terminal has room for."""

from collections.abc import Callable, Iterable, Set

from textual.binding import Binding

from bq.tui.table import width

# The first ones always; then those of the place where the keyboard is, before what can be done everywhere.
_FIRST = ("chat.help", "chat.quit", "message.leave", "chat.stop", "chat.mode")
_THEN = (
    "chat.list",
    "chat.model",
    "chat.settings",
    "chat.new",
    "chat.again",
    "chat.palette",
    "chat.copy",
    "chat.go_on",
)
_LAST = ("chat.save", "chat.messages", "chat.templates", "chat.file", "chat.form")
_BETWEEN = 2  # cells: one within an entry, one behind it


def fitting(bindings: Iterable[Binding], display: Callable[[Binding], str], columns: int) -> Set[str]:
    """The ids of those that fit. Of several keys of one action the first counts, which is the one that is shown."""
    entries: dict[str, Binding] = {}
    for binding in bindings:
        if binding.id and (binding.show or binding.id in _THEN + _LAST):
            entries.setdefault(binding.id, binding)
    here = [id for id in entries if not id.startswith("chat.") and id not in _FIRST]
    found: set[str] = set()
    for id in [*_FIRST, *here, *_THEN, *_LAST]:
        if id in entries:
            columns -= width(display(entries[id])) + width(entries[id].description) + _BETWEEN
            if columns < -1:  # nothing need stand behind the last one
                break
            found.add(id)
    return found


def place(binding: Binding) -> int:
    """Where it stands: those of the place where the keyboard is first, then the app's in their order, own keys or not."""
    from bq.tui.app_keys import BINDINGS

    ids = [one.id for one in BINDINGS]
    return ids.index(binding.id) + 1 if binding.id in ids else 0
