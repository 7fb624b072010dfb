"""`--session FILE`: a conversation that goes on from one call to the next, with what the model has read of it.

While a command uses the file, no other one does; it changes only when an answer has ended, and then as a whole.
"""

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from bq.runtime.errors import UsageError
from bq.runtime.language import say
from bq.runtime.prompt import Message, split_rounds

if TYPE_CHECKING:
    from bq.runtime.session_file import SessionFile


class Restored(Protocol):
    """What became of a session's KV cache (Session of bq.runtime.session, or as the model's process tells it)."""

    @property
    def restored_tokens(self) -> int: ...

    @property
    def note(self) -> str: ...


class Model(Protocol):
    """What keeping a session needs of a model, be it in this process or in its own."""

    def restore_session(self, session: "SessionFile") -> Restored: ...

    def save_session(self, path: Path, messages: Sequence[Message], with_cache: bool = ...) -> int: ...


class KeptSession:
    """A session's file in use; `messages` is what it holds. After `restore`, `note` says why they must be read anew, if so."""

    def __init__(self, path: Path, stored: "SessionFile | None") -> None:
        self.messages: tuple[Message, ...] = stored.messages if stored else ()
        self.model_name = stored.header.model.get("name", "") if stored else ""  # of the one that answered
        self.note = ""
        self._path, self._stored = path, stored
        self._has_cache = False  # whether the file holds what this model has read of the messages
        self._one_at_a_time = threading.Lock()

    def history(self, system: str) -> list[Message]:
        """What the next question goes on from. Raises UsageError if that is no dialogue, or `system` is not its own."""
        if not self.messages:
            return [Message("system", system)] if system else []
        own, rounds = split_rounds(self.messages)
        if any([message.role for message in one] != ["user", "assistant"] for one in rounds):
            raise UsageError(
                say(f"{self._path.name} holds more than questions and answers.", f"{self._path.name} 不是一问一答。"),
                say("Give another --session.", "请换一个 --session。"),
            )
        if system not in ("", own):
            raise UsageError(
                say(f"{self._path.name} has another system prompt.", f"{self._path.name} 的系统提示不同。"),
                say("Leave out --system, or give another --session.", "请去掉 --system，或换一个 --session。"),
            )
        return list(self.messages)

    def restore(self, model: Model) -> None:
        """Fill the model's KV cache with what the file has of it, and let go of the file."""
        if self._stored is not None:
            restored = model.restore_session(self._stored)
            self.note, self._has_cache = restored.note, restored.restored_tokens > 0
            self._stored.close()

    def keep(self, model: Model, messages: Sequence[Message], with_cache: bool = True) -> None:
        """Write the conversation to the file, with the KV cache as it stands, unless the file has it all already.

        Raises BqError if that fails.
        """
        with self._one_at_a_time:
            if tuple(messages) == self.messages and (self._has_cache or not with_cache):
                return
            self._has_cache = model.save_session(self._path, messages, with_cache) > 0
            self.messages = tuple(messages)


@contextmanager
def session_in_use(given: str | None) -> Iterator[KeptSession | None]:
    """The session of `--session`. Raises BqError if it is damaged, or another command uses it."""
    if given is None:
        yield None
        return
    from bq.runtime.atomic_file import in_use
    from bq.runtime.session_file import open_session

    path = _checked_path(given)
    with in_use(path):
        stored = open_session(path) if path.exists() else None
        try:
            yield KeptSession(path, stored)
        finally:
            if stored is not None:
                stored.close()


def _checked_path(given: str) -> Path:
    """Raises UsageError for what can be no file's name."""
    path = Path(given).expanduser()
    if not given or path.is_dir():
        what = say(f"{given} is a folder.", f"{given} 是文件夹。") if given else say("It is empty.", "名称为空。")
        raise UsageError(f"--session{say(': ', '：')}{what}", say("Give a file's name.", "请给出文件名。"))
    if not path.parent.is_dir():
        raise UsageError(
            say(f"There is no folder {path.parent}.", f"没有文件夹 {path.parent}。"),
            say("Make it first, or give another --session.", "请先创建，或换一个 --session。"),
        )
    return path


def print_note(session: KeptSession) -> None:
    """On stderr, where nothing but the answer is on stdout."""
    if session.note:
        print(say("Note: ", "注意：") + session.note, file=sys.stderr)
