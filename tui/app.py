"""`bq chat`: the terminal app. It puts the conversation on the screen and the questions to the model.

Nothing here waits for the model or the disk. The model lives in a process of its own; twelve times a second the app looks
at what has come from it, writes it into the conversation (plain objects), shows it, and has it kept. llama.cpp, numpy and
gguf are not imported by the screen.
"""

import asyncio
import gc
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from textual import on, work
from textual.app import App
from textual.filter import LineFilter
from textual.screen import Screen
from textual.timer import Timer
from textual.widgets import Markdown, TextArea

from bq.runtime.errors import BqError
from bq.runtime.language import say
from bq.tui import app_answers, app_counts, app_kept, app_keys, app_model, notes, themes
from bq.tui.app_keys import DialogKeys, PageKeys
from bq.tui.clipboard import copy_natively
from bq.tui.conversation import Conversation, Mode, Node
from bq.tui.deletions import Deletions
from bq.tui.desk import Desk
from bq.tui.engine import Engine, Job
from bq.tui.harmless import clean
from bq.tui.keeper import Keeper
from bq.tui.line_filter import with_no_controls
from bq.tui.opening import Opening
from bq.tui.screen import ChatScreen
from bq.tui.settings import Settings
from bq.tui.shown import shown
from bq.tui.status import observe
from bq.tui.widgets.instruct_view import InstructView
from bq.tui.widgets.line import Notice
from bq.tui.widgets.markdown import CodeClicked
from bq.tui.widgets.message import Answer, Said
from bq.tui.widgets.page import Earlier, Page
from bq.tui.widgets.prompt import Prompt
from bq.tui.widgets.views import ChatView

if TYPE_CHECKING:
    from bq.tui.widgets.complete_page import CompletePage

COUNT_AFTER_SECONDS = 0.15
KEEP_DRAFT_AFTER_SECONDS = 0.5
LOOK_AT_PROCESS_SECONDS = 0.5
TYPING_SECONDS = 0.4
MODES: tuple[Mode, ...] = ("chat", "instruct", "complete")  # in F2's order
BASE_MODES: tuple[Mode, ...] = ("chat", "complete", "instruct")  # from where a Base file does not fit to where it does


class ChatApp(DialogKeys, PageKeys, App[None], inherit_bindings=False):
    TITLE = "bq"
    CSS_PATH = Path(__file__).with_name("chat.tcss")
    ENABLE_COMMAND_PALETTE = False  # Textual's: this one speaks the language of the moment, and never races with itself
    BINDINGS = [*app_keys.BINDINGS]

    def __init__(self, opening: Opening) -> None:
        super().__init__()
        themes.register(self)
        self.path = self.first_path = opening.path
        self.engine = Engine(opening.options)
        self.keeper = Keeper(self._tell_unkept)
        self.settings = opening.settings
        self.desks: dict[Mode, Desk] = {
            "chat": Desk(Conversation(system=opening.system), lambda: ChatView(self._candidates)),
            "instruct": Desk(
                Conversation(mode="instruct", system=opening.system), lambda: InstructView(self._candidates)
            ),
            "complete": Desk(Conversation(mode="complete"), _text_page),
        }
        self.desk_mode: Mode = opening.mode or "chat"
        self.has_chosen_mode = opening.mode is not None or opening.resume is not None
        # Options of the command line go before what was set earlier.
        self.given_sampling = opening.sampling
        self.parameters = Settings() if opening.sampling else replace(self.settings, theme="", language="")
        self.given_max_tokens = opening.max_tokens
        self.given_think = opening.think
        self.session = opening.session
        self.resume = opening.resume
        self.session_talk = ""  # the conversation that the session's file keeps, and the store does not
        if self.session is not None:
            history = self.session.history(opening.system)
            self.desks["chat"].conversation = Conversation.of(history, model=self.session.model_name)
            self.session_talk = self.desks["chat"].conversation.id
        self.loaded_path: Path | None = None  # of the last model that could be loaded
        self.is_opening = False  # a conversation: what stands in the boxes is not its draft yet
        self.is_leaving = False
        self.deletions = Deletions()
        self._typed_at = 0.0
        self._pause: Timer | None = None
        self._draft_pause: Timer | None = None
        self.questions: list[str] = []  # asked earlier, the newest first
        self.chat_screen = ChatScreen(lambda: clean(self.path.name), self.desk.page)

    @property
    def desk(self) -> Desk:
        """The one on the screen."""
        return self.desks[self.desk_mode]

    def get_default_screen(self) -> Screen[None]:
        return self.chat_screen

    def get_line_filters(self) -> Sequence[LineFilter]:
        return with_no_controls(super().get_line_filters())

    def get_theme_variable_defaults(self) -> dict[str, str]:
        return themes.VARIABLES

    # From the start to the end

    async def on_ready(self) -> None:
        if self.settings.theme in self.available_themes:
            self.theme = self.settings.theme
        if self.settings.keys is not None:
            from bq.tui import own_keys

            await own_keys.take(self)
        self.desk.page.focus_target.focus()
        self.load()
        self.run_worker(app_kept.take_up(self), group="history")
        self.set_interval(LOOK_AT_PROCESS_SECONDS, self._look_at_process)
        if not self.is_headless:
            gc.freeze()  # what is there by now stays: looking through it for garbage would hold the screen up

    async def _look_at_process(self) -> None:
        """The model's process may end while nothing is asked of it."""
        lost = self.engine.lost
        if lost is not None and not self.engine.busy:
            self.engine.lost = None
            await self.tell(lost)
            self.show_status()

    def _candidates(self, name: str) -> Sequence[str]:
        from bq.tui.app_commands import candidates

        with suppress(BqError, OSError):  # told when the command itself is run
            return candidates(self, name)
        return ()

    def remember_questions(self) -> None:
        for prompt in self.chat_screen.query(Prompt):
            prompt.remember(self.questions)

    async def on_unmount(self) -> None:
        """A session is kept afterwards, when the terminal is the user's again: `app_kept.keep_session`."""
        self.is_leaving = True
        try:
            app_kept.keep_drafts(self)
            await asyncio.to_thread(self.engine.rest if self.session else self.engine.close)
            for desk in self.desks.values():
                app_kept.keep_open_answer(self, desk)
        finally:
            await asyncio.to_thread(self.keeper.close)

    # The model

    def start(self, job: Job) -> None:
        """Has the engine work on a job; nothing else may begin until it is settled."""
        self.engine.job = job
        self._work(job)
        self.show_status()
        self.refresh_bindings()

    @work(thread=True, group="engine")
    def _work(self, job: Job) -> None:
        self.engine.work(job)

    def load(self, path: Path | None = None) -> None:
        """Load a model, the same one again if none is named."""
        app_model.load(self, path or self.path)

    def settle(self, job: Job) -> None:
        """All that the job brought is in the conversation and on the screen."""
        job.settled = True
        self.show_status()
        self.refresh_bindings()
        self.call_later(app_answers.send_held, self)  # after what follows at once, as another model that is loaded

    @property
    def thinks(self) -> bool:
        return self.engine.model is not None and self.engine.model.info.thinks

    # What is kept

    def keep(self, desk: Desk, nodes: Iterable[Node] = ()) -> None:
        """Keep what has changed in a conversation, unless it is one that a session's file keeps."""
        if desk.conversation.id != self.session_talk:
            self.keeper.keep(desk.conversation, nodes)

    def _tell_unkept(self, error: BqError) -> None:
        """From the store's thread."""
        self.call_later(self._tell_warning, error)

    async def _tell_warning(self, error: BqError) -> None:
        """What stays on the screen when the next question is asked."""
        await self.desk.page.notice(Notice("warning", error.cause, error.remedy))

    async def tell(self, error: BqError) -> None:
        """Show an error on the page that is open."""
        await self.desk.page.notice(Notice.of(error))

    # What is written

    @on(TextArea.Changed)
    def _text_changed(self) -> None:
        """Counts what is written once the writing pauses, and keeps it a little after it was begun."""
        if self.desk.is_text and self.text_page.view.is_running:
            return  # it is the model that writes
        self._typed_at = time.monotonic()
        if self._pause is not None:
            self._pause.stop()
        self._pause = self.set_timer(COUNT_AFTER_SECONDS, self.count_unsent)
        if self._draft_pause is None:  # one that is running stays: who never pauses loses no more than who does
            self._draft_pause = self.set_timer(KEEP_DRAFT_AFTER_SECONDS, self._keep_drafts)

    def _keep_drafts(self) -> None:
        self._draft_pause = None
        app_kept.keep_drafts(self)

    @property
    def is_typing(self) -> bool:
        """Whether a key was pressed just now."""
        return time.monotonic() - self._typed_at < TYPING_SECONDS

    def count_unsent(self) -> None:
        """Count what would be sent now, exactly."""
        app_counts.count_unsent(self)

    @on(Prompt.Submitted)
    async def _send(self, event: Prompt.Submitted) -> None:
        desk = next(one for one in self.desks.values() if one.has_page and one.page in event.prompt.ancestors)
        await app_answers.send(self, desk, event)

    def remember_question(self, question: str) -> None:
        """It can be had back with the arrow keys."""
        self.questions = [question, *(one for one in self.questions if one != question)]
        self.remember_questions()

    @property
    def text_page(self) -> "CompletePage":
        """The page of the text mode."""
        return cast("CompletePage", self.desks["complete"].page)

    def on_complete_view_go_on(self) -> None:
        """The text is to go on from its cursor."""
        app_answers.go_on(self, self.desks["complete"])

    # Messages

    async def show_path(self, desk: Desk, is_new: bool = False) -> Answer | None:
        """Show the conversation as it is; gives the open answer's widget."""
        left_out = desk.unsent.left_out if desk.unsent else ()
        return await desk.view.sync(shown(desk.conversation, left_out), is_new)

    @on(Said.Wants)
    async def _fulfil(self, event: Said.Wants) -> None:
        from bq.tui.app_messages import fulfil

        await fulfil(self, self.desk, event.said, event.wish)

    @on(Said.Left)
    def _leave_messages(self) -> None:
        self.desk.page.focus_target.focus()

    @on(Earlier.Wanted)
    async def _show_earlier(self) -> None:
        await self.desk.view.show_earlier()

    # Keys

    async def action_new(self) -> None:
        if self.engine.busy and self.refuse():
            return
        app_kept.keep_drafts(self)
        await app_kept.renew(self, self.desk)
        self.desk.page.focus_target.focus()
        self.show_status()

    async def action_switch(self) -> None:
        self.has_chosen_mode = True
        modes = BASE_MODES if self.is_base else MODES
        await self.show_mode(modes[(modes.index(self.desk_mode) + 1) % len(modes)])

    async def show_mode(self, mode: Mode) -> None:
        """Bring a mode onto the screen."""
        self.desk_mode, is_new = mode, not self.desks[mode].has_page
        await self.chat_screen.show_page(self.desk.page)
        if is_new:
            self.remember_questions()
            await app_model.tell_of_model(self, mode)
        self.desk.page.focus_target.focus()
        self.show_status()
        self.count_unsent()

    def action_stop(self) -> None:
        """What waits to be sent comes back into its box; else what runs is stopped."""
        if self._holds_message:
            self.desk.view.take_back()
            self.refresh_bindings()
        else:
            self.engine.stop()
            self.show_status()

    @property
    def _holds_message(self) -> bool:
        """Whether a message of the mode on the screen waits for the model."""
        desk = self.desk
        return desk.has_page and not desk.is_text and desk.view.waiting.message is not None

    def copy_text(self, text: str) -> None:
        """Copy a text, saying so."""
        if text:
            self.copy_to_clipboard(text)
            self.hint(lambda: say(f"Copied {len(text)} characters.", f"已复制 {len(text)} 个字符。"))
        else:
            self.hint(notes.no_answer_yet)

    async def action_quit(self) -> None:
        self.is_leaving = True
        self.engine.stop()
        self.exit()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Esc is greyed in the footer while there is nothing to stop."""
        return True if action != "stop" or self.engine.busy or self._holds_message else None

    @on(Markdown.LinkClicked)
    def _copy_link(self, event: Markdown.LinkClicked) -> None:
        """A link of the model is never opened: its address is shown and copied, for the user to judge."""
        address = clean(event.href)
        self.copy_to_clipboard(address)
        self.hint(lambda: say("Copied the link: ", "已复制链接：") + address)

    @on(CodeClicked)
    def _copy_code(self, event: CodeClicked) -> None:
        self.copy_text(event.code)

    def copy_to_clipboard(self, text: str) -> None:
        super().copy_to_clipboard(text)
        self._copy_natively(text)

    @work(thread=True, group="clipboard")
    def _copy_natively(self, text: str) -> None:
        copy_natively(text)

    def hint(self, text: notes.Text) -> None:
        self.chat_screen.status_line.hint(text)

    def refuse(self) -> bool:
        """Says why no question can be put now, if so."""
        why = notes.refusal(self.engine)
        if why:
            self.hint(why)
        return why is not None

    def show_status(self) -> None:
        self.chat_screen.status_line.status = observe(
            self.engine, clean(self.path.name), self.desk.job, None if self.engine.busy else self.desk.unsent
        )

    def speak(self) -> None:
        """Draw everything anew, in the language of now."""
        self.chat_screen.retell()

    @property
    def is_base(self) -> bool:
        return self.engine.model is not None and self.engine.model.info.variant == "base"

    def model_name(self) -> str:
        """The name that stands above an answer."""
        model = self.engine.model
        return clean(f"{model.info.name}") if model else ""


def _text_page() -> Page:
    from bq.tui.widgets.complete_page import CompletePage

    return CompletePage()
