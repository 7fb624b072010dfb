"""All keys as they are bound now, and another one for an action by pressing it."""

from typing import TYPE_CHECKING

from textual import events, on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingsMap
from textual.containers import Vertical
from textual.content import Content
from textual.dom import DOMNode
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from bq.runtime.errors import BqError
from bq.runtime.language import say
from bq.tui import keymap, own_keys
from bq.tui.dialogs.dialog import Dialog, shown_keys
from bq.tui.keys import places, texts
from bq.tui.settings import settings_path
from bq.tui.widgets.line import Line
from bq.tui.widgets.options import Options

if TYPE_CHECKING:
    from bq.tui.app import ChatApp

_COLUMN = 22  # cells for the keys


class KeysScreen(Dialog[None]):
    """The actions with their keys, by the place where they hold. What is changed is kept at once."""

    BINDINGS = [
        Binding("delete,backspace", "reset", "As it comes", id="keys.reset"),
        Binding("escape", "dismiss", "Close", id="dialog.close"),
    ]

    def __init__(self, app: "ChatApp") -> None:
        super().__init__()
        self._chat = app
        self._say = Line(_how, classes="more")

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog tall"):
            yield Line(lambda: say("Keys", "按键"), classes="title")
            yield Options(*self._options(), markup=False)
            yield self._say
            yield Line(lambda: say(f"They are kept in {settings_path()}", f"保存在 {settings_path()}"), classes="more")

    def _options(self) -> list[Option]:
        """The actions, and above the first of each place its heading."""
        listed: list[Option] = []
        for place, heading in places().items():
            listed.append(Option(Content.styled(heading, "bold $text-accent"), disabled=True))
            listed += [self._option(one) for one in keymap.actions().values() if one.place == place]
        return listed

    def _option(self, action: keymap.Action) -> Option:
        is_own = action.id in self._chat._keymap
        keys = shown_keys(self._chat, action.id).ljust(_COLUMN)
        mark = say("  own", "  自定义") if is_own else ""
        name = (f"  {action.id}", "$text-muted")  # as the file has it
        text = texts()[action.id]
        return Option(Content.assemble((f"  {keys}", "bold"), text, name, (mark, "$text-accent")), id=action.id)

    @on(OptionList.OptionSelected)
    def _chosen(self, event: OptionList.OptionSelected) -> None:
        if event.option.id is not None:
            self._ask(event.option.id)

    @work
    async def _ask(self, id: str) -> None:
        key = await self.app.push_screen_wait(CatchKey(self._chat, id))
        if key is not None:
            self._change(id, key)

    def action_reset(self) -> None:
        """Back to the key that the marked action comes with."""
        options = self.query_one(Options)
        marked = None if options.highlighted is None else options.get_option_at_index(options.highlighted).id
        if marked is not None:
            self._change(marked, None)

    def _change(self, id: str, key: str | None) -> None:
        try:
            own_keys.change(self._chat, id, key)
        except BqError as error:
            self._say.change(str(error))
            return
        options = self.query_one(Options)
        marked = options.highlighted
        options.set_options(self._options())
        options.highlighted = marked
        name = shown_keys(self._chat, id)
        self._say.change(lambda: f"{name}{say(': ', '：')}{texts()[id]}")


class CatchKey(Dialog[str | None]):
    """Gives the next key that is pressed and can be used; Esc gives none."""

    def __init__(self, app: "ChatApp", id: str) -> None:
        super().__init__()
        self._chat = app
        self._wanted = id
        self._wrong = Line("", classes="wrong")

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Line(lambda: texts()[self._wanted], classes="title")
            yield Line(lambda: say("Press the new key. Esc leaves it as it is.", "请按下新的按键。Esc 保持不变。"))
            yield self._wrong

    @property
    def _binding_chain(self) -> list[tuple[DOMNode, BindingsMap]]:
        """No key does anything else here, not even those of the app."""
        return []

    def on_key(self, event: events.Key) -> None:
        event.stop()
        event.prevent_default()
        if event.key == "escape":
            self.dismiss(None)
            return
        given = dict(self._chat._keymap)
        wrong = keymap.check(given, self._wanted, event.key)
        if wrong:
            self._wrong.change(wrong)
        else:
            self.dismiss(event.key)


def _how() -> str:
    return say(
        "Enter, then another key: it takes the place of those shown. Delete gives back the one that was there at first.",
        "按 Enter 再按新键即可替换；Delete 恢复默认按键。",
    )
