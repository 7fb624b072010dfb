"""Keys that come before a dialog has its parts close it, or do nothing."""

from bq.tui.conversation import Node
from bq.tui.deletions import Deletions
from bq.tui.dialogs.compare import VersionsScreen
from bq.tui.dialogs.conversations import ConversationsScreen
from bq.tui.dialogs.finder import Finder
from bq.tui.dialogs.help import HelpScreen
from bq.tui.dialogs.models import ModelsScreen
from bq.tui.dialogs.settings import SettingsScreen
from bq.tui.dialogs.small import Choice, Editor, Entry
from bq.tui.settings import Settings

DIALOGS = {
    "settings": lambda app: SettingsScreen(Settings(), Settings(), None, "", app.keeper, ["textual-dark"]),
    "conversations": lambda app: ConversationsScreen(app.keeper, "", set(), Deletions()),
    "finder": lambda app: Finder("Find", [("a", "A")]),
    "models": lambda app: ModelsScreen(app.engine, [], None, "Models"),
    "choice": lambda app: Choice("Choose", [("a", "A")]),
    "entry": lambda app: Entry("Write"),
    "editor": lambda app: Editor("Write"),
    "versions": lambda app: VersionsScreen(Node("a", None, "assistant"), Node("b", None, "assistant"), (1, 2)),
    "help": lambda app: HelpScreen(),
}


async def press_all(app, dialog):
    """Every key that it is bound to, at the moment when it is pushed; the one that closes it last."""
    keys = [key for binding in type(dialog).BINDINGS for key in binding.key.split(",")]
    app.push_screen(dialog)
    for key in sorted(keys, key=lambda one: one == "escape"):
        await app._check_bindings(key, priority=True)
        await app._check_bindings(key)


async def test_no_key_that_comes_too_early_breaks_a_dialog(start):
    async with start() as s:
        theme = s.app.theme
        for make in DIALOGS.values():
            dialog = make(s.app)
            await press_all(s.app, dialog)
            await s.until(lambda: len(s.app.screen_stack) == 1)
            assert dialog.is_gone
        assert s.app.theme == theme
