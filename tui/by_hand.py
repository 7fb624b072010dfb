"""What a user does with a conversation as a whole, in the app or line by line: names it, writes it to a file, reads one."""

from pathlib import Path

from bq.runtime.errors import UsageError
from bq.runtime.language import say
from bq.tui.conversation import Conversation
from bq.tui.transfer import read_conversation, suggested_name, to_json, to_markdown
from bq.tui.user_files import path_named, write_text

_WRITERS = {".md": to_markdown, ".json": to_json}  # no line of a piped text makes a file that anything runs


def rename(conversation: Conversation, title: str) -> None:
    """Give it a title; "" for none of its own."""
    conversation.title = " ".join(title.split())


def export(conversation: Conversation, name: str, force: bool) -> Path:
    """Write it to a file of that name, or of one from its heading. Raises BqError if that fails, or it is there and no `force`."""
    path = path_named(name or suggested_name(conversation, ".md"))
    write = _WRITERS.get(path.suffix.lower())
    if write is None:
        raise UsageError(
            say(f"{path} is neither .md nor .json.", f"{path} 既不是 .md 也不是 .json。"),
            say("Name the file so.", "请使用这样的文件名。"),
        )
    write_text(path, write(conversation), force)
    return path


def from_file(name: str) -> Conversation:
    """The conversation in a file. Raises UsageError if there is none."""
    return read_conversation(path_named(name))
