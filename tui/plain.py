"""`bq chat --plain`: the conversation line by line, for pipes, simple terminals and screen readers.

Answers go to stdout and all else to stderr; nothing is drawn twice, and no cursor moves. What is said is kept where the
app keeps it: each message at once, an answer that is being written about once in a second.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bq.runtime.errors import BqError, Cancelled
from bq.runtime.language import say
from bq.tui.answer import stop_on_interrupt
from bq.tui.answer_form import AnswerForm
from bq.tui.conversation import Conversation, Mode, Node
from bq.tui.engine import Answering, Engine, Job, Loading, Question
from bq.tui.opening import Opening
from bq.tui.plain_input import Terminated, Typed, is_interactive, messages, tell
from bq.tui.slash import message_text, parse
from bq.tui.thinking import spoken
from bq.tui.unheard_signals import every_signal_heard
from bq.tui.voice import Voice

if TYPE_CHECKING:
    from bq.runtime.prompt_format import Think
    from bq.runtime.values import Sampling
    from bq.tui.store import Store

LOOK_EVERY_SECONDS = 0.05
KEEP_EVERY_SECONDS = 1.0


class PlainChat:
    """One run: a model, the conversation that is held with it, and where it is kept."""

    def __init__(self, opening: Opening) -> None:
        self.path = opening.path
        self.engine = Engine(opening.options)
        self.settings = opening.settings
        self.conversation = Conversation(mode=opening.mode or "chat", system=opening.system)
        self.listed: list[str] = []  # the conversations of the last list, by id
        self.deleted: str | None = None  # the conversation that the last command deleted
        self.is_over = False
        self._status = 0
        self._mode, self._session, self._resume = opening.mode, opening.session, opening.resume
        self._given_sampling, self._given_max_tokens = opening.sampling, opening.max_tokens
        self.given_think = opening.think
        self.form: AnswerForm | None = None  # of the answers to come
        self._store: Store | None = None
        self._told: set[str] = set()
        self._kept, self._is_unkept = 0.0, False  # when of the open answer something was kept last
        if self._session is not None:
            self.conversation = Conversation.of(self._session.history(opening.system))
        self._session_id = self.conversation.id if self._session else None

    def run(self) -> int:
        """Talk until the input ends; returns the exit status: 1 if something that was piped in failed."""
        before = signal.signal(signal.SIGTERM, _end)
        try:
            with every_signal_heard():
                return self._run()
        finally:
            signal.signal(signal.SIGTERM, before)

    def _run(self) -> int:
        if self._resume is not None:
            self.open(self._resume)
        self.load(self.path)
        if is_interactive():
            tell(
                say(
                    "Type a message. /help shows the commands; Ctrl+D quits.",
                    "请输入消息。/help 列出命令；Ctrl+D 退出。",
                )
            )
        for typed in messages(self._history(), self._candidates):
            self._take(typed)
            if self.is_over:
                break
        return self._status

    def _take(self, typed: Typed) -> None:
        """Run a command, or send a message. What goes wrong is told, and the next one has its turn."""
        from bq.tui.plain_commands import run_command

        try:
            command = None if typed.is_block else parse(typed.text, "plain")
            if command is not None:
                run_command(self, command)
            else:
                self.deleted = None
                self.ask(typed.text if typed.is_block else message_text(typed.text))
        except Cancelled:
            if not is_interactive():
                raise
        except BrokenPipeError:
            raise
        except (BqError, OSError) as error:
            if not is_interactive() and self.engine.model is None:
                raise
            self._status = 0 if is_interactive() else 1
            tell(f"bq: {error}")

    # The model

    def load(self, path: Path) -> None:
        """Load a model, and say what should be known of it. On a terminal a failure is told, else raised."""
        tell(say(f"Loading {path.name} …", f"正在加载 {path.name} ……"))
        loading = Loading(path, None if self.engine.was_loaded else self._session)
        self.work(loading)
        if loading.error is None:
            self.path = path
            self._greet(loading)
        elif is_interactive():
            tell(f"bq: {loading.error}")
            tell(say("/retry tries again; /model loads another one.", "/retry 重试；/model 加载其他模型。"))
        else:
            raise loading.error

    def _greet(self, loading: Loading) -> None:
        model = self.engine.model
        if model is None:
            return
        for note in (*model.warnings, self._session.note if self._session else ""):
            if note:
                tell(say("Note: ", "注意：") + note)
        if self._mode is None and not self.conversation.nodes:
            variants: dict[str, Mode] = {"base": "complete", "instruct": "instruct"}
            self.conversation.mode = variants.get(model.info.variant, "chat")
        if self.conversation.mode == "complete":
            tell(say("The model goes on with each text that you give.", "模型会续写您给出的每段文字。"))
        tell(say(f"Ready: {model.info.name}. {loading.fit}", f"就绪：{model.info.name}。{loading.fit}"))

    @property
    def model_name(self) -> str:
        return self.engine.model.info.name if self.engine.model else ""

    def sampling(self) -> "Sampling | None":
        """What the command line and the settings say; None for what the file says."""
        if not set(self.settings.parameters) - {"max_tokens"} or self.engine.model is None:
            return self._given_sampling
        return self._given_sampling or self.settings.sampling(self.engine.model.info.sampling)

    def max_tokens(self) -> int | None:
        return self._given_max_tokens or self.settings.max_tokens

    def think(self) -> "Think":
        """Whether the next answer begins with thoughts; what is set counts for a model that knows modes of it."""
        knows = self.engine.model is not None and self.engine.model.info.thinks
        return (self.given_think or self.settings.think) if knows else "auto"

    def change_parameters(self, changes: dict[str, float | None]) -> None:
        """Use other parameters from now on, also in place of what the command line gave."""
        self.settings = self.settings.with_parameters(changes)
        if "max_tokens" in changes:
            self._given_max_tokens = None
        if self._given_sampling is not None and self.engine.model is not None:
            model = self.engine.model.info.sampling
            values: dict[str, Any] = {
                name: getattr(model, name) if value is None else value
                for name, value in changes.items()
                if name != "max_tokens"
            }
            self._given_sampling = replace(self._given_sampling, **values)

    def work(self, job: Job, look: Callable[[], None] = lambda: None) -> None:
        """Have a job done and look at it now and then. Ctrl+C stops the job, a second one the program."""
        self.engine.job = job
        worker = threading.Thread(target=self.engine.work, args=(job,), daemon=True)
        with stop_on_interrupt() as cancel:
            worker.start()
            while worker.is_alive():
                worker.join(LOOK_EVERY_SECONDS)
                if cancel.is_set():
                    job.cancel.set()
                look()
        job.settled = True

    # Asking

    def ask(self, text: str, form: AnswerForm | None = None) -> None:
        """Ask a question, or give an instruction, or a text to go on with: these stand alone. `form` None: the one that is set."""
        self._need_model()
        if self.conversation.mode != "chat":
            self.begin_new()
        question = self.conversation.ask(text)
        self.keep([question])
        self.answer(form)

    def ask_alone(self, text: str, form: AnswerForm | None) -> None:
        """Give one instruction beside the conversation."""
        beside, self.conversation = self.conversation, Conversation(mode="instruct", system=self.conversation.system)
        try:
            self.ask(text, form)
        finally:
            self.conversation = beside

    def answer(self, form: AnswerForm | None = None, is_continued: bool = False) -> None:
        """Have the last question answered, or its answer continued."""
        self._need_model()
        talk = self.conversation
        opened = talk.go_on() if is_continued else talk.begin(self.model_name)
        if opened is None:
            raise BqError(say("There is no answer to go on with.", "没有可以继续的回答。"))
        self._tell_left_out()
        voice, job = Voice(opened.content), Answering(self.question(form))
        self._kept, self._is_unkept = time.monotonic(), False
        try:
            self.work(job, lambda: self._look(job, voice, opened))
        finally:
            self._finish(job, voice)
        self._tell_end(job, talk.nodes.get(opened.id), voice)

    def question(self, form: AnswerForm | None = None) -> Question:
        """The open answer's, as it is put to the model."""
        talk, model = self.conversation, self.engine.model
        is_base = model is not None and model.info.variant == "base"
        return Question(
            messages=talk.messages(),
            pinned=talk.pinned(),
            sampling=self.sampling(),
            max_tokens=self.max_tokens(),
            raw=talk.mode == "complete" or (talk.mode == "instruct" and is_base),
            force=True,  # a Base file's user was warned
            form=form or self.form,
            think=self.think(),
        )

    def _look(self, job: Answering, voice: Voice, opened: Node) -> None:
        """Take what has come of the answer."""
        text = job.take()
        if text:
            self.conversation.write(text)
            self._is_unkept = True
        if self._is_unkept and time.monotonic() - self._kept > KEEP_EVERY_SECONDS:  # also when the model pauses
            self._kept, self._is_unkept = time.monotonic(), False
            self.keep([opened])
        if text:
            voice.add(text)

    def _finish(self, job: Answering, voice: Voice) -> None:
        """End the answer and keep it before anything else is done."""
        rest = job.take()
        self.conversation.write(rest)
        stats = job.stats
        ended = self.conversation.finish(
            job.stop if job.done else "cancel", stats.tokens if stats else 0, stats.decode_seconds if stats else 0.0
        )
        self.keep([ended] if ended else ())
        if self.is_sessions and self._session and self.engine.model and ended:
            self._session.keep(self.engine.model, self.conversation.transcript(), with_cache=False)
        voice.add(rest)
        voice.end()

    def _tell_end(self, job: Answering, answer: Node | None, voice: Voice) -> None:
        """How it ended, if not by itself. Raises the error that it ended by."""
        if job.error is not None and not isinstance(job.error, Cancelled):
            raise job.error if self.engine.model else _loaded_again(job.error)
        texts = {
            "cancel": say("(stopped; /continue goes on)", "（已停止；/continue 继续）"),
            "length": say(
                "(cut off at the limit of the length; /continue goes on)", "（达到长度上限，已截断；/continue 继续）"
            ),
            "incomplete": say("(cut off before it was whole)", "（尚未完整就被截断）"),
        }
        if answer is None and job.stop == "cancel":
            tell(say("(stopped before the answer began; /retry asks again)", "（回答开始前已停止；/retry 重新提问）"))
        elif answer is None:
            tell(say("(the model gave an empty answer)", "（模型给出了空回答）"))
        elif job.stop == "end" and voice.is_silent:
            tell(say("(the model adds nothing)", "（模型没有补充内容）"))
        elif answer.stop in texts:
            tell(texts[answer.stop])
        if job.stop == "cancel":
            raise Cancelled(say("The answer was stopped.", "回答已停止。"))

    def _tell_left_out(self) -> None:
        """Say which rounds the model is not going to read."""
        talk = self.conversation
        if talk.mode != "chat":
            return
        unsent = self.engine.measure(talk.messages(), self.max_tokens(), talk.pinned(), self.think())
        if unsent is not None and unsent.left_out:
            tell(self.left_out_text(unsent.left_out))

    def left_out_text(self, left_out: Iterable[int]) -> str:
        """The rounds without room, by their number in the conversation. `left_out` counts those that are sent."""
        sent = [number for number, one in enumerate(self.conversation.rounds, 1) if one.is_sent]
        numbers = ", ".join(str(sent[i]) for i in sorted(left_out) if i < len(sent))
        return say(f"No room in the context for round {numbers}: not sent.", f"上下文空间不足，第 {numbers} 轮不发送。")

    def _need_model(self) -> None:
        if self.engine.model is None:
            raise _loaded_again(self.engine.lost) if self.engine.lost else no_model()

    # What is kept

    @property
    def store(self) -> "Store":
        """Where conversations are kept. Raises BqError if it cannot be used."""
        if self._store is None:
            from bq.tui.store import Store

            self._store = Store.open()
        return self._store

    @property
    def is_sessions(self) -> bool:
        """Whether the conversation is the one of --session, which is kept there."""
        return self.conversation.id == self._session_id

    def keep(self, nodes: Iterable[Node] = ()) -> None:
        """Keep the conversation and these messages. That it fails is told once for each cause; the talk goes on."""
        if self.is_sessions:
            return
        try:
            self.store.save(self.conversation, nodes)
        except BqError as error:
            if error.cause not in self._told:
                self._told.add(error.cause)
                tell(f"bq: {error}")

    def begin_new(self) -> None:
        """Begin another conversation with the same system prompt, unless nothing was said in this one."""
        if self.conversation.nodes:
            self.conversation = Conversation(mode=self.conversation.mode, system=self.conversation.system)

    def open(self, id: str) -> None:
        """Go on with a kept conversation. Raises BqError if it is gone."""
        found = self.store.load(id)
        if found is None:
            raise BqError(say("That conversation is not there any more.", "该对话已不存在。"))
        self.take_up(found)

    def take_up(self, conversation: Conversation) -> None:
        """Go on with this conversation, and show where it stands."""
        self.conversation = conversation
        rounds = conversation.rounds
        tell(say(f"“{conversation.heading}”, rounds: {len(rounds)}", f"“{conversation.heading}”，轮数：{len(rounds)}"))
        if rounds:
            answer = rounds[-1].answer
            tell(f"> {rounds[-1].question.content}")
            tell(spoken(answer.content) if answer else say("(no answer)", "（没有回答）"))

    def keep_session(self) -> None:
        """Write the session with the KV cache, unless nothing was said. Raises BqError if that fails."""
        session, model, job = self._session, self.engine.model, self.engine.job
        if session is None or model is None:
            return
        said = self.conversation.transcript() if self.is_sessions else session.messages
        was_read = isinstance(job, Answering) and said[: len(job.question.messages)] == tuple(job.question.messages)
        if said:
            session.keep(model, said, with_cache=was_read)

    def close(self) -> None:
        """Stop the model and let go of what is kept."""
        self.engine.close()
        if self._store is not None:
            self._store.close()

    def _history(self) -> list[str]:
        """The earlier questions, the oldest first."""
        with suppress(BqError):
            return self.store.questions(200)[::-1] if is_interactive() else []
        return []

    def _candidates(self, command: str) -> Sequence[str]:
        """What may follow a command, for the key that completes."""
        from bq.tui.model_paths import model_paths
        from bq.tui.templates import templates

        if command in ("model", "compare"):
            return [str(path) for path in model_paths(self.path)]
        if command == "template":
            with suppress(BqError):
                return [one.name for one in templates()]
        return []


def _end(number: int, frame: object) -> None:
    """Ctrl+C ends an answer alone; a termination is for the program."""
    raise Terminated


def no_model() -> BqError:
    return BqError(say("No model is loaded.", "尚未加载模型。"), say("/retry loads it.", "/retry 重新加载。"))


def _loaded_again(error: BqError) -> BqError:
    """The error of a model that is gone, with the way that the line mode has."""
    return BqError(error.cause, say("/retry loads the model again.", "/retry 重新加载模型。"))
