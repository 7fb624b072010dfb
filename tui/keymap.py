"""A user's own keys: `keys` in settings.json, from an action's id (bq.tui.keys) to its key or keys.

    "keys": {"chat.model": "f9", "chat.copy": ["ctrl+o", "alt+c"]}

Each entry is checked by itself: an action that does not exist, a key that no terminal sends, one that writes, and one that
does something else already are left out, each with a line that says so, and the rest holds.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from textual.binding import Binding, BindingType
from textual.keys import _character_to_key, key_to_character

from bq.runtime.language import say
from bq.tui.harmless import clean
from bq.tui.keys import texts
from bq.tui.settings import changing, settings_path

_MODIFIERS = ("alt", "ctrl", "shift")  # in the order in which Textual names them
_NAMED = {"escape", "enter", "tab", "space", "backspace", "delete", "insert", "home", "end", "pageup", "pagedown"}
_NAMED |= {"up", "down", "left", "right", *(f"f{number}" for number in range(1, 25))}
_ALSO = {"esc": "escape", "return": "enter", "del": "delete", "pgup": "pageup", "pgdn": "pagedown", "control": "ctrl"}
# What a terminal sends for these is what it sends for the other key.
_SAME = {"ctrl+i": "tab", "ctrl+m": "enter", "ctrl+h": "backspace", "ctrl+left_square_bracket": "escape"}
_COPIES = "ctrl+c"
_MOST = 3  # keys for one action
_BRIEF = 40  # characters of what is wrong
_FIXED = {"complete.take_1"}  # nine actions in one line of the help


@dataclass(frozen=True)
class Action:
    """Something that a key does. `always`: its key is looked at before those of a dialog."""

    id: str
    keys: tuple[str, ...]
    always: bool

    @property
    def place(self) -> str:
        """Where it holds: chat (everywhere), prompt, message, complete, list or dialog."""
        return self.id.partition(".")[0]


@dataclass(frozen=True)
class Keymap:
    """`keys` is what Textual's set_keymap takes; `wrong` says in a line each what was left out."""

    keys: Mapping[str, str]
    wrong: Sequence[str] = ()


@lru_cache(maxsize=1)
def actions() -> dict[str, Action]:
    """All that can have another key, by id, with the keys that they come with."""
    from bq.tui.app_keys import BINDINGS
    from bq.tui.dialogs.conversations import ConversationsScreen
    from bq.tui.dialogs.settings import SettingsScreen
    from bq.tui.widgets.complete import CompleteView
    from bq.tui.widgets.message import Said
    from bq.tui.widgets.prompt import Prompt

    kinds = (Prompt, Said, CompleteView, ConversationsScreen, SettingsScreen)
    found: dict[str, list[Binding]] = {id: [] for id in texts() if id not in _FIXED}
    for binding in _single([*BINDINGS, *(given for kind in kinds for given in kind.BINDINGS)]):
        if binding.id in found:
            found[binding.id].append(binding)
    return {
        id: Action(id, tuple(dict.fromkeys(one.key for one in given)), any(one.priority for one in given))
        for id, given in found.items()
    }


def read(given: object) -> Keymap:
    """What of `keys` in the settings can be used, and what cannot."""
    if not isinstance(given, Mapping):
        return Keymap({}, (say("keys: a list of actions was expected.", "keys：应为动作与按键的对照。"),))
    keys: dict[str, tuple[str, ...]] = {}
    wrong: list[str] = []
    for id, value in given.items():
        found = _keys_of(str(id), value)
        if isinstance(found, str):
            wrong.append(f"{_brief(str(id))}{say(': ', '：')}{found}")
        else:
            keys[id] = found
    wrong += _drop_clashes(keys)
    return Keymap({id: ",".join(one) for id, one in keys.items()}, tuple(wrong))


def check(given: Mapping[str, str], id: str, key: str) -> str:
    """What speaks against this key for this action, beside the keys that are set; "" if nothing does."""
    others = {one: keys for one, keys in given.items() if one != id}
    wrong = read({**others, id: key}).wrong
    return next((line.partition(say(": ", "："))[2] for line in wrong), "")


def effective(given: Mapping[str, str], id: str) -> tuple[str, ...]:
    """The keys of an action as they are now."""
    return tuple(given[id].split(",")) if id in given else actions()[id].keys


def keep(id: str, key: str | None) -> None:
    """Keep a key for an action in the settings; None for the one that it comes with. Raises BqError if that fails."""
    with changing(settings_path()) as found:
        kept = found.get("keys")
        kept = dict(kept) if isinstance(kept, dict) else {}
        kept.pop(id, None)
        found["keys"] = kept if key is None else {**kept, id: key}


def named(text: str) -> str | None:
    """A key as Textual calls it; None if no terminal sends such a key. `Ctrl+Alt+X`, `alt+ctrl+x`, `PgUp`, `é`."""
    *modifiers, key = re.split(r"\+(?=.)", text.strip().lower())
    held = {_ALSO.get(one.strip(), one.strip()) for one in modifiers}
    key = _ALSO.get(key.strip(), key.strip())
    if len(key) == 1 and key.isprintable() and not key.isspace():
        key = _character_to_key(key)
    elif key not in _NAMED:
        return None
    if held - {*_MODIFIERS}:
        return None
    return "+".join([*(one for one in _MODIFIERS if one in held), key])


def _keys_of(id: str, value: object) -> tuple[str, ...] | str:
    """The keys that an entry gives, or what is wrong with it."""
    action = actions().get(id)
    if action is None:
        return say("there is no such action; F5, Keys shows all.", "没有这个动作；F5 的“按键”中列出全部。")
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list) or not parts or len(parts) > _MOST or not all(isinstance(one, str) for one in parts):
        return say(f"one to {_MOST} keys were expected.", f"应给出 1 至 {_MOST} 个按键。")
    keys = []
    for part in parts:
        key = named(part)
        if reason := _unusable(action, part, key):
            return reason
        keys.append(key or "")
    return tuple(dict.fromkeys(keys))


def _unusable(action: Action, text: str, key: str | None) -> str:
    """Why a key cannot be used for an action; "" if it can."""
    if key is None:
        return say(f"there is no key “{_brief(text)}”.", f"没有按键“{_brief(text)}”。")
    if key in action.keys:
        return ""
    if key in _SAME:
        return say(f"{key} is the same as {_SAME[key]} in a terminal.", f"在终端中 {key} 与 {_SAME[key]} 相同。")
    if key == _COPIES:
        return say(f"{key} copies what is selected.", f"{key} 用于复制选中的文本。")
    if action.place != "message" and (_writes(key) or key in _editing()):
        return say(f"{key} is needed for writing.", f"{key} 用于书写。")
    return ""


def _writes(key: str) -> bool:
    """Whether it is a letter, a sign or a space."""
    character = key_to_character(key.removeprefix("shift+"))
    return character is not None and character.isprintable()


@lru_cache(maxsize=1)
def _editing() -> frozenset[str]:
    """The keys with which a text is edited, and those that go from one box to the next."""
    from textual.widgets import Input, TextArea

    given = _single([*TextArea.BINDINGS, *Input.BINDINGS])
    return frozenset({"tab", "shift+tab", "enter", "escape", *(one.key for one in given)})


def _drop_clashes(keys: dict[str, tuple[str, ...]]) -> list[str]:
    """Take out entries whose key does something else already where they hold, the last ones first; says which.

    An action that loses its entry has its first keys again, which another entry may have taken: so it begins anew each time.
    """
    wrong: list[str] = []
    while clash := next(((id, why) for id in reversed([*keys]) if (why := _clash(keys, id))), None):
        id, why = clash
        del keys[id]
        wrong.insert(0, f"{id}{say(': ', '：')}{why}")
    return wrong


def _clash(keys: Mapping[str, tuple[str, ...]], id: str) -> str | None:
    action = actions()[id]
    for other in actions().values():
        if other.id != id and _meet(action, other):
            for key in set(keys[id]) & set(keys.get(other.id, other.keys)):
                if not (key in action.keys and key in other.keys):  # they come so, and go together
                    return say(
                        f"{key} is for “{texts()[other.id]}” ({other.id}) already.",
                        f"{key} 已用于“{texts()[other.id]}”（{other.id}）。",
                    )
    return None


def _meet(one: Action, other: Action) -> bool:
    """Whether there is a moment at which both hold."""
    places = {one.place, other.place}
    if len(places) == 1 or places == {"list", "dialog"}:
        return True
    if "chat" not in places:
        return False
    in_dialog = bool(places & {"list", "dialog"})
    return not in_dialog or (one if one.place == "chat" else other).always


def _brief(text: str) -> str:
    """What stands in the file, in a line that can be shown."""
    return clean(" ".join(text.split()))[:_BRIEF]


def _single(given: Iterable[BindingType]) -> Iterable[Binding]:
    """A binding of several keys as one for each."""
    return Binding.make_bindings(given)
