"""Settings: how tokens are drawn, with the release's own values and what each does; the system prompt; theme and language."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.widgets import Button, Input, Select

from bq.runtime.errors import BqError, UsageError
from bq.runtime.language import say, set_language
from bq.runtime.prompt_format import Think
from bq.tui.dialogs.dialog import Dialog, shown_keys
from bq.tui.dialogs.small import Choice, Entry
from bq.tui.harmless import clean
from bq.tui.keeper import Keeper
from bq.tui.keys import brief
from bq.tui.settings import Parameter, Settings, describe_parameters, parse_parameter, settings_path
from bq.tui.widgets.boxes import Box, Field
from bq.tui.widgets.line import Line

if TYPE_CHECKING:
    from bq.runtime.sampling import Sampling
    from bq.tui.app import ChatApp


@dataclass(frozen=True)
class Chosen:
    """What the settings are from now on, and this conversation's system prompt."""

    settings: Settings
    system: str


class SettingsScreen(Dialog[Chosen | None]):
    BINDINGS = [
        Binding("ctrl+s", "take", "Take", id="dialog.take", priority=True),
        Binding("escape", "leave", "Close", id="dialog.close"),
    ]

    def __init__(
        self,
        settings: Settings,
        parameters: Settings,
        defaults: "Sampling | None",
        system: str,
        keeper: Keeper,
        themes: Sequence[str],
        thinks: bool = False,
    ) -> None:
        super().__init__()
        self._settings = replace(settings, parameters=parameters.parameters)
        self._defaults = defaults
        self._keeper = keeper
        self._themes = themes
        self._thinks = thinks
        self._system = Box(system, soft_wrap=True, show_line_numbers=False, id="system")
        self._wrong = Line("", classes="wrong")
        self._theme_before: str | None = None  # None until there is a theme to try

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog tall"):
            yield Line(lambda: say("Settings", "设置"), classes="title")
            with VerticalScroll(can_focus=False):
                yield Line(
                    lambda: say("Sampling (empty: as the release has it)", "采样（留空：按发布版）"), classes="role"
                )
                for parameter in describe_parameters():
                    yield from self._row(parameter)
                with Horizontal(classes="bar"):
                    yield Line(lambda: say("System prompt of this conversation", "本对话的系统提示"), classes="role")
                    yield Button(say("Library", "收藏"), id="library", compact=True)
                    yield Button(say("Keep", "收藏此条"), id="keep", compact=True)
                yield self._system
                if self._thinks:
                    yield Line(lambda: say("Thinking before an answer", "回答前思考"), classes="role")
                    with Horizontal(classes="setting"):
                        yield self._select("think", _think_modes(), self._settings.think)
                yield Line(lambda: say("Theme and language", "主题与语言"), classes="role")
                with Horizontal(classes="setting"):
                    yield self._select("theme", [(name, name) for name in self._themes], self.app.theme)
                    languages = [("English", "en"), ("简体中文", "zh"), (say("as the system", "跟随系统"), "system")]
                    yield self._select("language", languages, self._settings.language or "system")
                with Horizontal(classes="bar"):
                    yield Line(lambda: say("Keys", "按键"), classes="role")
                    yield Button(say("Show and change", "查看与更改"), id="keys", compact=True)
                yield Line(self._describe_keys, classes="does")
            yield self._wrong
            yield Line(
                lambda: say(
                    f"{_keys(self, 'dialog.take')} takes it, {_keys(self, 'dialog.close')} leaves it. Help: {_keys(self, 'chat.help')}.",
                    f"{_keys(self, 'dialog.take')} 确定，{_keys(self, 'dialog.close')} 取消。帮助：{_keys(self, 'chat.help')}。",
                ),
                classes="more",
            )

    def _describe_keys(self) -> str:
        """The main keys as they are now, and where one's own are kept."""
        ids = (
            "chat.help",
            "chat.mode",
            "chat.list",
            "chat.model",
            "chat.settings",
            "chat.new",
            "chat.again",
            "chat.quit",
        )
        shown = "  ".join(f"{_keys(self, id)} {brief(id)}" for id in ids)
        return f"{shown}\n{say('Own keys', '自定义按键')}{say(': ', '：')}{settings_path()}"

    @on(Button.Pressed, "#keys")
    def _open_keys(self) -> None:
        from bq.tui.dialogs.keys import KeysScreen

        self.app.push_screen(KeysScreen(cast("ChatApp", self.app)))

    def _row(self, parameter: Parameter) -> ComposeResult:
        value = self._settings.parameters.get(parameter.name)
        with Horizontal(classes="setting"):
            yield Line(parameter.option, classes="name")
            yield Field(
                "" if value is None else f"{value:g}",
                placeholder=self._default(parameter.name),
                id=f"set-{parameter.name}",
                compact=True,
            )
            yield Line(f"{parameter.does} ({parameter.range})", classes="does")

    def _default(self, name: str) -> str:
        value = getattr(self._defaults, name, None)
        return say("random", "随机") if name == "seed" and value is None else "" if value is None else f"{value:g}"

    @staticmethod
    def _select(id: str, options: Sequence[tuple[str, str]], value: str) -> "Select[str]":
        return Select(options, value=value, allow_blank=False, id=id, compact=True)

    def on_mount(self) -> None:
        self._theme_before = self.app.theme

    @on(Select.Changed, "#theme")
    def _try_theme(self, event: "Select.Changed") -> None:
        self.app.theme = str(event.value)

    def action_leave(self) -> None:
        if self._theme_before is not None:
            self.app.theme = self._theme_before
        self.dismiss(None)

    def action_take(self) -> None:
        try:
            changes = {one.name: self._value(one.name) for one in describe_parameters()}
        except UsageError as error:
            self._wrong.change(str(error))
            return
        language = str(self.query_one("#language", Select).value)
        settings = replace(
            self._settings.with_parameters(changes),
            theme=str(self.query_one("#theme", Select).value),
            language="" if language == "system" else language,
            think=cast(Think, str(self.query_one("#think", Select).value)) if self._thinks else self._settings.think,
        )
        self.dismiss(Chosen(settings, clean(self._system.text).strip()))

    def _value(self, name: str) -> float | None:
        text = self.query_one(f"#set-{name}", Input).value.strip()
        return parse_parameter(name, text) if text else None

    @on(Button.Pressed, "#library")
    def _open_library(self) -> None:
        self._choose_prompt()

    @work
    async def _choose_prompt(self) -> None:
        try:
            prompts = await self._keeper.ask(lambda store: store.system_prompts())
        except BqError as error:
            self._wrong.change(str(error))
            return
        if not prompts:
            self._wrong.change(say("No system prompt is kept yet.", "尚未收藏系统提示。"))
            return
        options = [(str(number), f"{name}: {text[:60]}") for number, (name, text) in enumerate(prompts)]
        options += [(f"-{number}", say(f"Delete {name}", f"删除 {name}")) for number, (name, _) in enumerate(prompts)]
        chosen = await self.app.push_screen_wait(Choice(lambda: say("System prompts", "系统提示"), options))
        if chosen is None:
            return
        name, text = prompts[int(chosen.lstrip("-"))]
        if chosen.startswith("-"):
            await self._keeper.ask(lambda store: store.delete_system_prompt(name))
        else:
            self._system.load_text(text)

    @on(Button.Pressed, "#keep")
    def _keep(self) -> None:
        self._keep_prompt()

    @work
    async def _keep_prompt(self) -> None:
        text = clean(self._system.text).strip()
        name = (
            await self.app.push_screen_wait(Entry(lambda: say("Name of this system prompt", "系统提示的名称")))
            if text
            else None
        )
        if name:
            try:
                await self._keeper.ask(lambda store: store.save_system_prompt(name, text))
            except BqError as error:
                self._wrong.change(str(error))


def _keys(dialog: SettingsScreen, id: str) -> str:
    return shown_keys(dialog.app, id)


def _think_modes() -> list[tuple[str, str]]:
    return [
        (say("as the model decides", "由模型决定"), "auto"),
        (say("always", "总是"), "on"),
        (say("never", "从不"), "off"),
    ]


def apply_language(settings: Settings) -> None:
    """Speak the language that is set; the system's if none is."""
    set_language(settings.language or None)
