"""`bq chat`: the terminal app. It puts the conversation on the screen and the questions to the model.

Nothing here waits for the model or the disk. The model lives in a process of its own; twelve times a second the app looks
at what has come from it, writes it into the conversation (plain objects), shows it, and has it kept. llama.cpp, numpy and
gguf are not imported by the screen.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from textual import on, work
from textual.app import App
from textual.binding import Binding
from textual.filter import LineFilter
from textual.screen import Screen
from textual.timer import Timer
from textual.widgets import Markdown, TextArea

from bq.runtime.errors import BqError
from bq.runtime.language import say
from bq.tui import app_answers, app_counts, app_model, notes
from bq.tui.clipboard import copy_natively
from bq.tui.conversation import Conversation, Mode, Node
from bq.tui.desk import Desk
from bq.tui.engine import Answering, Engine, Job
from bq.tui.harmless import clean
from bq.tui.keeper import Keeper
from bq.tui.line_filter import with_no_controls
from bq.tui.machine_error import of_machine
from bq.tui.screen import ChatScreen
from bq.tui.settings import Settings
from bq.tui.shown import shown
from bq.tui.status import observe
from bq.tui.widgets.line import Notice
from bq.tui.widgets.markdown import CodeClicked
from bq.tui.widgets.message import Answer, Said
from bq.tui.widgets.prompt import Prompt
from bq.tui.widgets.views import ChatView, Earlier, InstructView, Page

if TYPE_CHECKING:
    from bq.runtime.sampling import Sampling
    from bq.runtime.values import LoadOptions
    from bq.tui.kept_session import KeptSession
    from bq.tui.widgets.complete_page import CompletePage

COUNT_AFTER_SECONDS = 0.15
KEEP_DRAFT_AFTER_SECONDS = 0.5
LOOK_AT_PROCESS_SECONDS = 0.5
TYPING_SECONDS = 0.4
MODES: tuple[Mode, ...] = ("chat", "instruct", "complete")


class ChatApp(App[None], inherit_bindings=False):
    TITLE = "bq"
    CSS_PATH = Path(__file__).with_name("chat.tcss")
    ENABLE_COMMAND_PALETTE = False  # Textual's: this one speaks the language of the moment, and never races with itself
    BINDINGS = [
        Binding("f1", "help", "Help", id="chat.help"),
        Binding("f2", "switch", "Mode", id="chat.mode"),
        Binding("f3,ctrl+l", "conversations", "Chats", id="chat.list"),
        Binding("f4", "models", "Model", id="chat.model"),
        Binding("f5", "settings", "Settings", id="chat.settings", show=False),
        Binding("escape", "stop", "Stop", id="chat.stop"),
        Binding("ctrl+n", "new", "New", id="chat.new"),
        Binding("ctrl+r", "again", "Again", id="chat.again", show=False),
        Binding("ctrl+g", "go_on", "Go on", id="chat.go_on", show=False),
        Binding("ctrl+o", "copy_answer", "Copy", id="chat.copy", show=False),
        Binding("ctrl+s", "save_result", "Save", id="chat.save", show=False),
        Binding("f6", "input_file", "File", id="chat.file", show=False, priority=True),
        Binding("f7", "form", "Output", id="chat.form", show=False, priority=True),
        Binding("ctrl+t", "templates", "Templates", id="chat.templates", show=False),
        Binding("ctrl+up", "messages", "Messages", id="chat.messages", show=False, priority=True),
        Binding("ctrl+p", "command_palette", "Commands", id="chat.palette", show=False, priority=True),
        Binding("ctrl+q", "quit", "Quit", id="chat.quit", priority=True),
        Binding("ctrl+c", "help_quit", show=False, system=True),
    ]

    def __init__(
        self,
        path: Path,
        options: "LoadOptions",
        mode: Mode | None = None,
        system: str = "",
        sampling: "Sampling | None" = None,
        max_tokens: int | None = None,
        session: "KeptSession | None" = None,
        resume: str | None = None,
        settings: Settings | None = None,
    ) -> None:
        super().__init__()
        self.path = self.first_path = path
        self.engine = Engine(options)
        self.keeper = Keeper(self._tell_unkept)
        self.settings = settings or Settings()
        self.desks: dict[Mode, Desk] = {
            "chat": Desk(Conversation(system=system), lambda: ChatView(self._candidates)),
            "instruct": Desk(Conversation(mode="instruct", system=system), InstructView),
            "complete": Desk(Conversation(mode="complete"), _text_page),
        }
        self.desk_mode: Mode = mode or "chat"
        self.has_chosen_mode = mode is not None or resume is not None
        # Options of the command line go before what was set earlier.
        self._given_sampling = sampling
        self.parameters = Settings() if sampling else replace(self.settings, theme="", language="")
        self.given_max_tokens = max_tokens
        self.session = session
        self._resume = resume
        self._session_talk = ""  # the conversation that the session's file keeps, and the store does not
        if session is not None:
            self.desks["chat"].conversation = Conversation.of(session.history(system), model=session.model_name)
            self._session_talk = self.desks["chat"].conversation.id
        self.loaded_path: Path | None = None  # of the last model that could be loaded
        self._has_dialog = False
        self._is_opening = False  # a conversation: what stands in the boxes is not its draft yet
        self.last_deleted = ""  # conversation, to be brought back
        self._typed_at = 0.0
        self._pause: Timer | None = None
        self._draft_pause: Timer | None = None
        self._questions: list[str] = []  # asked earlier, the newest first
        self.chat_screen = ChatScreen(lambda: clean(self.path.name), self.desk.page)

    @property
    def desk(self) -> Desk:
        """The one on the screen."""
        return self.desks[self.desk_mode]

    def get_default_screen(self) -> Screen[None]:
        return self.chat_screen

    def get_line_filters(self) -> Sequence[LineFilter]:
        return with_no_controls(super().get_line_filters())

    # From the start to the end

    async def on_ready(self) -> None:
        if self.settings.theme in self.available_themes:
            self.theme = self.settings.theme
        self.desk.page.focus_target.focus()
        self.load()
        self._take_up()
        self.set_interval(LOOK_AT_PROCESS_SECONDS, self._look_at_process)

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

    @work(group="history")
    async def _take_up(self) -> None:
        """What was said before: the session's conversation, or the one to be resumed, and the earlier questions."""
        if self.session is not None:
            await self.show_path(self.desks["chat"], is_new=True)
        elif self._resume is not None:
            await self.open_conversation(self._resume)
        try:
            self._questions = await self.keeper.ask(lambda store: store.questions())
        except BqError as error:
            await self.desk.page.notice(Notice.of(error))
        self._remember_questions()

    def _remember_questions(self) -> None:
        for prompt in self.chat_screen.query(Prompt):
            prompt.remember(self._questions)

    async def on_unmount(self) -> None:
        """A session is kept afterwards, when the terminal is the user's again: `keep_session`."""
        try:
            self.keep_drafts()
            await asyncio.to_thread(self.engine.rest if self.session else self.engine.close)
            for desk in self.desks.values():
                self._keep_open_answer(desk)
        finally:
            await asyncio.to_thread(self.keeper.close)

    def _keep_open_answer(self, desk: Desk) -> None:
        """What of an answer the app had no time to show."""
        job, talk = desk.job, desk.conversation
        if job is None or job.settled or not talk.is_open:
            return
        text = job.take()
        talk.write(text)
        if desk.is_text:
            view = self.text_page.view
            talk.draft = view.prefix() + text + view.text[len(view.prefix()) :]
        app_answers.end(self, desk, job)

    def keep_session(self) -> None:
        """Write the session with the KV cache, unless nothing was said. Raises BqError if that fails.

        After Ctrl+N it is what was kept last.
        """
        desk, session, model, job = self.desks["chat"], self.session, self.engine.model, self.engine.job
        talk = desk.conversation
        if session is None or model is None:
            return
        is_its_own = talk.id == self._session_talk and bool(talk.last_answer)
        said = talk.transcript() if is_its_own else session.messages
        was_read = isinstance(job, Answering) and said[: len(job.question.messages)] == job.question.messages
        if said:
            session.keep(model, said, with_cache=was_read)

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

    # How answers are drawn

    def sampling(self) -> "Sampling | None":
        """What the command line or the settings say; None for what the file says."""
        if not set(self.parameters.parameters) - {"max_tokens"}:
            return self._given_sampling
        defaults = self.default_sampling()
        return self.parameters.sampling(defaults) if defaults else None

    def default_sampling(self) -> "Sampling | None":
        """What the command line or the file says; None while there is no file."""
        return self._given_sampling or (self.engine.model.info.sampling if self.engine.model else None)

    def max_tokens(self) -> int | None:
        """The longest answer that was asked for; the command line goes before what was set earlier."""
        return self.given_max_tokens or self.parameters.max_tokens

    # What is kept

    def keep(self, desk: Desk, nodes: Iterable[Node] = ()) -> None:
        """Keep what has changed in a conversation, unless it is one that a session's file keeps."""
        if desk.conversation.id != self._session_talk:
            self.keeper.keep(desk.conversation, nodes)

    def keep_drafts(self) -> None:
        """What is written and not sent."""
        for desk in [] if self._is_opening else self.desks.values():
            draft = desk.page.draft() if desk.has_page else desk.conversation.draft
            if draft != desk.conversation.draft:
                desk.conversation.draft = draft
                self.keep(desk)

    async def keep_in_session(self, desk: Desk) -> None:
        """Where there is a session: its messages, each time. The KV cache, which may be large, is written at the end alone."""
        session, model = self.session, self.engine.model
        if session is None or model is None or desk.conversation.id != self._session_talk:
            return
        try:
            await asyncio.to_thread(session.keep, model, desk.conversation.transcript(), with_cache=False)
        except BqError as error:
            await desk.page.notice(Notice.of(error))

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
        """Counts what is written once the writing pauses, and keeps it a little later."""
        if self.desk.is_text and self.text_page.view.is_running:
            return  # it is the model that writes
        self._typed_at = time.monotonic()
        for pause in (self._pause, self._draft_pause):
            if pause is not None:
                pause.stop()
        self._pause = self.set_timer(COUNT_AFTER_SECONDS, self.count_unsent)
        self._draft_pause = self.set_timer(KEEP_DRAFT_AFTER_SECONDS, self.keep_drafts)

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
        is_chat = desk.conversation.mode == "chat"
        question = clean(event.text.strip() if is_chat else desk.view.question())
        if not question or (is_chat and await self._is_command(desk, question, event.raw)) or self.refuse():
            return
        desk.sent = event.raw
        if is_chat:
            from bq.tui.slash import message_text

            question = message_text(question)
            event.prompt.take(event.raw)
        self._questions = [question, *(one for one in self._questions if one != question)]
        self._remember_questions()
        app_answers.ask(self, desk, question)

    async def _is_command(self, desk: Desk, line: str, raw: str) -> bool:
        """Runs a line that is a command."""
        if not line.startswith("/"):
            return False
        from bq.tui.app_commands import run_command

        return await run_command(self, desk, line, raw)

    @property
    def text_page(self) -> "CompletePage":
        """The page of the text mode."""
        return cast("CompletePage", self.desks["complete"].page)

    def on_complete_view_go_on(self) -> None:
        """The text is to go on from its cursor."""
        desk = self.desks["complete"]
        if not self.refuse():
            desk.conversation.head = None
            app_answers.answer(self, desk, [desk.conversation.ask(self.text_page.view.prefix())])

    # Messages

    async def show_path(self, desk: Desk, is_new: bool = False) -> Answer | None:
        """Show the conversation as it is; gives the open answer's widget."""
        left_out = desk.unsent.left_out if desk.unsent else ()
        return await desk.view.sync(shown(desk.conversation, left_out), is_new)

    async def open_conversation(self, id: str) -> None:
        """Bring a kept conversation onto the screen, in its mode."""
        shown_already = next((desk for desk in self.desks.values() if desk.conversation.id == id), None)
        if shown_already is not None:
            await self.show_mode(shown_already.conversation.mode)
            return
        try:
            found = await self.keeper.ask(lambda store: store.load(id))
        except BqError as error:
            await self.tell(error)
            return
        if found is None:
            self.hint(notes.no_conversation)
        else:
            await self.show_conversation(found)

    async def show_conversation(self, conversation: Conversation) -> None:
        """Put a conversation in the place of its mode's, which stays kept."""
        self.keep_drafts()
        self.has_chosen_mode = True
        desk = self.desks[conversation.mode]
        self._is_opening = True
        try:
            desk.take(conversation)
            await self.show_mode(conversation.mode)
            if desk.is_text:
                text = conversation.draft or "".join(node.content for node in conversation.path())
                self.text_page.view.load(text)
            else:
                desk.view.show_conversation(conversation)
                await self.show_path(desk, is_new=True)
                desk.view.follow()
        finally:
            self._is_opening = False
        self.count_unsent()

    @on(Said.Wants)
    async def _fulfil(self, event: Said.Wants) -> None:
        from bq.tui.app_messages import fulfil

        await fulfil(self, self.desk, event.said, event.wish)

    @on(Said.Left)
    def _leave_messages(self) -> None:
        self.desk.page.focus_target.focus()

    def action_messages(self) -> None:
        """To the last message."""
        messages = list(self.desk.page.query(Said))
        if messages and len(self.screen_stack) == 1:
            messages[-1].focus()
            messages[-1].scroll_visible(animate=False)

    @on(Earlier.Wanted)
    async def _show_earlier(self) -> None:
        await self.desk.view.show_earlier()

    # Keys

    async def action_again(self) -> None:
        if self.engine.model is None and not self.engine.busy:
            self.load()
        elif not self.refuse():
            desk = self.desk
            if desk.is_text:
                self.on_complete_view_go_on()
            elif desk.conversation.current is None:
                self.hint(notes.no_answer_yet)
            else:
                app_answers.answer(self, desk)

    def action_go_on(self) -> None:
        desk = self.desk
        if desk.is_text:
            self.on_complete_view_go_on()
        elif not self.refuse():
            last = desk.conversation.current
            if last is None or not last.is_sent:
                self.hint(notes.nothing_to_continue)
            else:
                app_answers.answer(self, desk, is_continued=True)

    async def action_new(self) -> None:
        if self.engine.busy and self.refuse():
            return
        self.keep_drafts()
        desk = self.desk
        desk.take(Conversation(mode=self.desk_mode, system=desk.conversation.system))
        await desk.page.clear()
        desk.page.focus_target.focus()
        self.show_status()

    async def action_switch(self) -> None:
        self.has_chosen_mode = True
        await self.show_mode(MODES[(MODES.index(self.desk_mode) + 1) % len(MODES)])

    async def show_mode(self, mode: Mode) -> None:
        """Bring a mode onto the screen."""
        self.desk_mode, is_new = mode, not self.desks[mode].has_page
        await self.chat_screen.show_page(self.desk.page)
        if is_new:
            self._remember_questions()
            await app_model.tell_of_model(self, mode)
        self.desk.page.focus_target.focus()
        self.show_status()
        self.count_unsent()

    def action_stop(self) -> None:
        self.engine.stop()
        self.show_status()

    def action_copy_answer(self) -> None:
        self.copy_text(self.desk.conversation.last_answer)

    def copy_text(self, text: str) -> None:
        """Copy a text, saying so."""
        if text:
            self.copy_to_clipboard(text)
            self.hint(lambda: say(f"Copied {len(text)} characters.", f"已复制 {len(text)} 个字符。"))
        else:
            self.hint(notes.no_answer_yet)

    def action_scroll(self, pages: int) -> None:
        self.desk.page.scroll_pages(pages)

    def action_help(self) -> None:
        from bq.tui.dialogs.help import HelpScreen

        self.push_screen(HelpScreen(self.chat_screen.help_entries()))

    def action_conversations(self) -> None:
        self.open_dialog(lambda dialogs: dialogs.conversations(self))

    def action_models(self) -> None:
        self.open_dialog(lambda dialogs: dialogs.models(self))

    def action_settings(self) -> None:
        self.open_dialog(lambda dialogs: dialogs.settings(self))

    def action_templates(self) -> None:
        self.open_dialog(lambda dialogs: dialogs.templates(self))

    def action_form(self) -> None:
        self.open_dialog(lambda dialogs: dialogs.form(self))

    def action_input_file(self) -> None:
        self.open_dialog(lambda dialogs: dialogs.input_file(self))

    def action_save_result(self) -> None:
        self.open_dialog(lambda dialogs: dialogs.save_result(self))

    def action_compare(self) -> None:
        self.open_dialog(lambda dialogs: dialogs.compare(self))

    def open_dialog(self, open_it: "OpenDialog") -> None:
        """Have a dialog take the keyboard until it is closed; a second one is not opened meanwhile.

        No worker is ever cancelled for it: one that changes the screen would take the app's own tasks with it.
        """
        if not self._has_dialog and len(self.screen_stack) == 1:
            self._has_dialog = True
            self.run_worker(self._in_dialog(open_it), group="dialog")

    async def _in_dialog(self, open_it: "OpenDialog") -> None:
        from bq.tui import app_dialogs

        try:
            await open_it(app_dialogs)
        except BqError as error:
            await self.tell(error)
        except OSError as error:
            await self.tell(of_machine(error))
        finally:
            self._has_dialog = False

    def action_command_palette(self) -> None:
        self.open_dialog(lambda dialogs: dialogs.palette(self))

    def action_change_theme(self) -> None:
        self.open_dialog(lambda dialogs: dialogs.theme(self))

    def action_help_quit(self) -> None:
        self.hint(notes.how_to_quit)

    async def action_quit(self) -> None:
        self.engine.stop()
        self.exit()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Esc is greyed in the footer while there is nothing to stop."""
        return True if action != "stop" or self.engine.busy else None

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

    def change_settings(self, parameters: Mapping[str, float | None] | None = None, **changes: str) -> None:
        """Keep what was changed, beside what another window may have set. Raises BqError if that fails."""
        from bq.tui import settings

        kept = settings.load().with_parameters(parameters or {})
        self.settings = replace(
            kept, theme=changes.get("theme", kept.theme), language=changes.get("language", kept.language)
        )
        settings.save(self.settings)

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


if TYPE_CHECKING:
    from types import ModuleType

    OpenDialog = Callable[[ModuleType], Awaitable[None]]


def _text_page() -> Page:
    from bq.tui.widgets.complete_page import CompletePage

    return CompletePage()
