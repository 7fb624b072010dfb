"""`bq chat`: the terminal app. It puts the conversation on the screen and the questions to the model.

Nothing here waits for the model. The engine works in a thread; twelve times a second the app looks at what has come,
writes it into the conversation (plain objects) and shows it. llama.cpp, numpy and gguf are not imported by the screen.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from textual import on, work
from textual.app import App, SystemCommand
from textual.binding import Binding
from textual.command import CommandPalette
from textual.filter import LineFilter
from textual.screen import Screen
from textual.timer import Timer
from textual.widgets import ContentSwitcher, Markdown

from bq.runtime.errors import BqError, Cancelled
from bq.runtime.language import say
from bq.runtime.prompt import Message
from bq.tui import notes
from bq.tui.clipboard import copy_natively
from bq.tui.conversation import Conversation, Round
from bq.tui.engine import Answering, Engine, Job, Loading, Unsent
from bq.tui.harmless import clean, with_no_controls
from bq.tui.keys import texts
from bq.tui.screen import ChatScreen
from bq.tui.status import observe
from bq.tui.widgets.answer import Answer
from bq.tui.widgets.help import HelpScreen
from bq.tui.widgets.line import Notice
from bq.tui.widgets.prompt import Prompt
from bq.tui.widgets.views import ChatView, InstructView, View

if TYPE_CHECKING:
    from bq.runtime.loading import LoadOptions
    from bq.runtime.model import Model
    from bq.runtime.sampling import Sampling
    from bq.tui.kept_session import KeptSession

Mode = Literal["chat", "instruct"]

LOOK_EVERY_SECONDS = 1 / 12
COUNT_AFTER_SECONDS = 0.15
SHOWN_ROUNDS = 50  # of a session that is taken up; more would hold the start up


@dataclass
class Desk:
    """One mode's work: what was said, where it is shown, and the answer that was begun last."""

    conversation: Conversation
    view: View
    job: Answering | None = None
    unsent: Unsent | None = None  # what is being written, counted


class ChatApp(App[None], inherit_bindings=False):
    TITLE = "bq"
    CSS_PATH = "chat.tcss"
    BINDINGS = [
        Binding("f1", "help", "Help", id="chat.help"),
        Binding("f2", "switch", "Mode", id="chat.mode"),
        Binding("escape", "stop", "Stop", id="chat.stop"),
        Binding("ctrl+n", "new", "New", id="chat.new"),
        Binding("ctrl+r", "again", "Again", id="chat.again"),
        Binding("ctrl+o", "copy_answer", "Copy", id="chat.copy"),
        Binding("ctrl+p", "command_palette", "Commands", id="chat.palette", show=False, priority=True),
        Binding("ctrl+q", "quit", "Quit", id="chat.quit", priority=True),
        Binding("ctrl+c", "help_quit", show=False, system=True),
    ]

    def __init__(
        self,
        path: Path,
        options: "LoadOptions",
        mode: Mode = "chat",
        system: str = "",
        sampling: "Sampling | None" = None,
        max_tokens: int | None = None,
        session: "KeptSession | None" = None,
    ) -> None:
        super().__init__()
        self.engine = Engine(path, options)
        self.desks: dict[Mode, Desk] = {
            "chat": Desk(Conversation(system), ChatView()),
            "instruct": Desk(Conversation(system, single=True), InstructView()),
        }
        self.desk_mode: Mode = mode
        self._sampling = sampling
        self._max_tokens = max_tokens
        self._session = session
        if session is not None:
            self.desks["chat"].conversation.take_up(session.history(system))
        self._pause: Timer | None = None
        self._chat_screen = ChatScreen(clean(path.name), [desk.view for desk in self.desks.values()], mode)

    @property
    def desk(self) -> Desk:
        """The one on the screen."""
        return self.desks[self.desk_mode]

    def get_default_screen(self) -> Screen[None]:
        return self._chat_screen

    def get_line_filters(self) -> Sequence[LineFilter]:
        return with_no_controls(super().get_line_filters())

    async def on_ready(self) -> None:
        self.desk.view.prompt.focus()
        await self._show_history()
        self._load()

    async def _show_history(self) -> None:
        """What was said in the session before."""
        view, rounds = self.desks["chat"].view, self.desks["chat"].conversation.rounds
        name = clean(self._session.model_name) if self._session else ""
        for past in rounds[-SHOWN_ROUNDS:]:
            answer = await view.begin(clean(past.question), lambda: name)
            await answer.replace(past.answer)

    async def on_unmount(self) -> None:
        """A session is kept afterwards, when the terminal is the user's again: `keep_session`."""
        await asyncio.to_thread(self.engine.rest if self._session else self.engine.close)

    def keep_session(self) -> None:
        """Write the session with the KV cache, unless nothing was said. Raises BqError if that fails.

        After Ctrl+N it is what was kept last.
        """
        talk, session, model, job = self.desks["chat"].conversation, self._session, self.engine.model, self.engine.job
        if session is None or model is None:
            return
        if isinstance(job, Answering) and job is self.desks["chat"].job and not job.settled:
            talk.write(job.take())  # what the app had no time to show
        said = talk.transcript() if talk.last_answer else session.messages
        was_read = isinstance(job, Answering) and said[: len(job.messages)] == tuple(job.messages)
        if said:
            session.keep(model, said, with_cache=was_read)

    def _start(self, job: Job) -> None:
        self.engine.job = job
        self._work(job)
        self._show_status()
        self.refresh_bindings()

    @work(thread=True, group="engine")
    def _work(self, job: Job) -> None:
        self.engine.work(job)

    def _load(self) -> None:
        loading = Loading(self._session)
        self._start(loading)
        self._follow_loading(loading)

    @work(group="follow")
    async def _follow_loading(self, loading: Loading) -> None:
        panel = self._chat_screen.load_panel
        await panel.begin()
        while not loading.done:
            await asyncio.sleep(LOOK_EVERY_SECONDS)
            panel.progress(loading.progress, loading.plan)
            self._show_status()
        if loading.error:
            await panel.fail(loading.error)
        elif self.engine.model:
            panel.finish()
            await self._greet(self.engine.model, loading.fit)
        self._settle(loading)

    def _settle(self, job: Job) -> None:
        """All that the job brought is in the conversation and on the screen."""
        job.settled = True
        self._show_status()
        self.refresh_bindings()

    async def _greet(self, model: "Model", fit: str) -> None:
        """Says what the user should know of this file before the first question, and what it took."""
        await self.desks["chat"].view.notice(Notice("hint", notes.welcome, fit))
        for desk in self.desks.values():
            for warning in model.warnings:
                await desk.view.notice(Notice("warning", warning))
            if model.info.variant == "base":
                await desk.view.notice(Notice("warning", notes.base_cause, notes.base_remedy))
        if self._session and self._session.note:
            await self.desks["chat"].view.notice(Notice("hint", self._session.note))

    def _begin(self, desk: Desk) -> Answering:
        """Has the open round of this desk answered; nothing else may begin from here on."""
        desk.unsent = None
        desk.job = Answering(
            desk.conversation.messages(),
            sampling=self._sampling,
            max_tokens=self._max_tokens,
            raw=desk.conversation.single and self._is_base,
        )
        self._start(desk.job)
        return desk.job

    @work(group="follow")
    async def _follow(self, desk: Desk, job: Answering, answer: Answer) -> None:
        done = False
        while not done:
            await asyncio.sleep(LOOK_EVERY_SECONDS)
            done = job.done  # looked at before the text is taken: then no text can come after it
            text = job.take()
            if text:
                desk.conversation.write(text)
                await answer.feed(text)
            self._show_status()
        ended = await self._finish(desk, job, answer)
        self._settle(job)
        self._count_unsent()
        if self._session and self.engine.model and desk is self.desks["chat"] and ended.answer:
            await self._keep_messages(self._session, self.engine.model, desk)

    async def _finish(self, desk: Desk, job: Answering, answer: Answer) -> Round:
        """Ends the round: all text is shown, and how it ended."""
        new_text = desk.conversation.rounds[-1].answer
        ended = desk.conversation.finish(job.stop)
        if ended.answer == new_text:
            await answer.finish(notes.end_of(ended))
        else:
            await answer.replace(ended.answer)
            answer.mark(notes.end_of(ended))
            self.hint(notes.older_answer)
        if job.error and not isinstance(job.error, Cancelled):
            await desk.view.notice(Notice.of(job.error))
            if not ended.answer:
                desk.view.give_back(ended.question)
        return ended

    async def _keep_messages(self, session: "KeptSession", model: "Model", desk: Desk) -> None:
        """The KV cache, which may be large, is written at the end alone."""
        try:
            await asyncio.to_thread(session.keep, model, desk.conversation.transcript(), with_cache=False)
        except BqError as error:
            await desk.view.notice(Notice.of(error))

    @on(Prompt.Changed)
    def _text_changed(self) -> None:
        """Counts what is written once the writing pauses."""
        if self._pause is not None:
            self._pause.stop()
        self._pause = self.set_timer(COUNT_AFTER_SECONDS, self._count_unsent)

    def _count_unsent(self) -> None:
        messages = self._to_send(self.desk)
        if messages:
            self._measure(self.desk, messages)
        else:
            self.desk.unsent = None
            self._show_status()

    def _to_send(self, desk: Desk) -> Sequence[Message]:
        """What the model would have to read if what is written were sent now; nothing if it was sent already."""
        question, last = clean(desk.view.question()), desk.conversation.current
        was_sent = last is not None and last.question == question  # a single instruction stays in its box
        return desk.conversation.messages_with(question) if question and not was_sent and not self._is_base else ()

    @work(thread=True, group="measure", exclusive=True)
    def _measure(self, desk: Desk, messages: Sequence[Message]) -> None:
        self.call_later(self._measured, desk, messages, self.engine.measure(messages, self._max_tokens))

    def _measured(self, desk: Desk, messages: Sequence[Message], unsent: Unsent | None) -> None:
        """Takes the count, unless something else is written by now: that may have found the counter taken."""
        if messages == self._to_send(desk):
            desk.unsent = unsent
            self._show_status()
        else:
            self._count_unsent()

    @on(Prompt.Submitted)
    async def _send(self) -> None:
        desk = self.desk
        question = clean(desk.view.question())
        if not question or self._refuse():
            return
        desk.conversation.ask(question)
        job = self._begin(desk)
        self._follow(desk, job, await desk.view.begin(question, self._model_name))

    async def action_again(self) -> None:
        if self.engine.model is None and not self.engine.busy:
            self._load()
        elif not self._refuse():
            desk = self.desk
            if desk.conversation.ask_again() is None:
                self.hint(notes.no_answer_yet)
            else:
                job = self._begin(desk)
                self._follow(desk, job, await desk.view.begin_again(self._model_name))

    async def action_new(self) -> None:
        if self.engine.busy and self._refuse():
            return
        self.desk.conversation.clear()
        self.desk.job = None
        await self.desk.view.clear()
        self.desk.view.prompt.focus()
        self._show_status()

    def action_switch(self) -> None:
        self.desk_mode = "instruct" if self.desk_mode == "chat" else "chat"
        self._chat_screen.query_one(ContentSwitcher).current = self.desk_mode
        self.desk.view.prompt.focus()
        self._show_status()

    def action_stop(self) -> None:
        self.engine.stop()
        self._show_status()

    def action_copy_answer(self) -> None:
        answer = self.desk.conversation.last_answer
        if answer:
            self.copy_to_clipboard(answer)
            self.hint(lambda: say(f"Copied {len(answer)} characters.", f"已复制 {len(answer)} 个字符。"))
        else:
            self.hint(notes.no_answer_yet)

    def action_scroll(self, pages: int) -> None:
        log = self.desk.view.log_area
        (log.scroll_page_up if pages < 0 else log.scroll_page_down)(animate=False)

    def action_help(self) -> None:
        self.push_screen(HelpScreen(self._chat_screen.help_entries()))

    def action_command_palette(self) -> None:
        if not isinstance(self.screen, CommandPalette):
            self.push_screen(CommandPalette(placeholder=say("Search commands…", "搜索命令…"), id="--command-palette"))

    def action_help_quit(self) -> None:
        self.hint(notes.how_to_quit)

    async def action_quit(self) -> None:
        self.engine.stop()
        self.exit()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Esc is greyed in the footer while there is nothing to stop."""
        return True if action != "stop" or self.engine.busy else None

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        actions: dict[str, Callable[[], object]] = {
            "chat.mode": self.action_switch,
            "chat.new": self.action_new,
            "chat.again": self.action_again,
            "chat.copy": self.action_copy_answer,
            "chat.stop": self.action_stop,
            "chat.help": self.action_help,
            "chat.quit": self.action_quit,
        }
        for id, action in actions.items():
            yield SystemCommand(texts()[id], "", action)
        yield SystemCommand(say("Colour theme", "颜色主题"), "", self.action_change_theme)

    @on(Markdown.LinkClicked)
    def _copy_link(self, event: Markdown.LinkClicked) -> None:
        """A link of the model is never opened: its address is shown and copied, for the user to judge."""
        address = clean(event.href)
        self.copy_to_clipboard(address)
        self.hint(lambda: say("Copied the link: ", "已复制链接：") + address)

    def copy_to_clipboard(self, text: str) -> None:
        super().copy_to_clipboard(text)
        self._copy_natively(text)

    @work(thread=True, group="clipboard")
    def _copy_natively(self, text: str) -> None:
        copy_natively(text)

    def hint(self, text: notes.Text) -> None:
        self._chat_screen.status_line.hint(text)

    def _refuse(self) -> bool:
        """Says why no question can be put now, if so."""
        why = notes.refusal(self.engine)
        if why:
            self.hint(why)
        return why is not None

    def _show_status(self) -> None:
        self._chat_screen.status_line.status = observe(
            self.engine, self.desk.job, None if self.engine.busy else self.desk.unsent
        )

    @property
    def _is_base(self) -> bool:
        return self.engine.model is not None and self.engine.model.info.variant == "base"

    def _model_name(self) -> str:
        return clean(self.engine.model.info.name) if self.engine.model else ""
