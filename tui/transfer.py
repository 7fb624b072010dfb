"""Conversations as files: Markdown to read, JSON with all that there is, from here and from elsewhere.

Only this module touches the disk, and only to read, up to a bound. A name that it suggests is one on every system.
"""

import re
from pathlib import Path

from bq.runtime.errors import UsageError
from bq.runtime.language import say
from bq.tui.conversation import Conversation, heading_of
from bq.tui.transfer_json import from_json, to_json
from bq.tui.transfer_markdown import from_markdown, to_markdown

__all__ = ["from_json", "from_markdown", "read_conversation", "suggested_name", "to_json", "to_markdown"]

MAX_BYTES = 64 << 20
_MARKDOWN = (".md", ".markdown")
_MAX_NAME_BYTES = 180  # of the 255 that most file systems allow, so that a suffix and a `.part` fit too
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\s]+')
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])(\..*)?\Z", re.IGNORECASE)


def read_conversation(path: Path) -> Conversation:
    """The conversation in a file, JSON or Markdown. Raises UsageError if it has none."""
    text = _read(path)
    suffix = path.suffix.lower()
    looks_like_json = suffix not in _MARKDOWN and text.lstrip().startswith(("{", "["))
    try:
        return from_json(text) if suffix == ".json" or looks_like_json else from_markdown(text)
    except UsageError as error:
        raise UsageError(say(f"{path.name}: {error.cause}", f"{path.name}：{error.cause}"), error.remedy) from None


def _read(path: Path) -> str:
    """The text of a file. Raises UsageError if it is none, too large, or not UTF-8."""
    try:
        if path.exists() and not path.is_file():  # a pipe would keep the reader waiting
            raise _unreadable(path, say("it is no file", "它不是文件"))
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from None
    except ValueError:
        raise _unreadable(path, say("no file has such a name", "没有这样的文件名")) from None
    if len(data) > MAX_BYTES:
        raise _unreadable(path, say("it is larger than 64 MiB", "超过 64 MiB"))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _unreadable(
            path, say(f"byte {error.start + 1} is no UTF-8", f"第 {error.start + 1} 字节不是 UTF-8")
        ) from None


def _unreadable(path: Path, why: str) -> UsageError:
    return UsageError(
        say(f"{path} cannot be read: {why}.", f"无法读取 {path}：{why}。"),
        say("Give a .md or .json file.", "请给出 .md 或 .json 文件。"),
    )


def suggested_name(conversation: Conversation, suffix: str) -> str:
    """A name for the file, from the heading, that Linux, macOS and Windows all take. `suffix` with its dot."""
    printable = "".join(c if c.isprintable() else " " for c in heading_of(conversation.heading))
    name = _FORBIDDEN.sub(" ", printable).replace("…", "").strip(" .-~")
    name = name.encode("utf-8", "ignore")[:_MAX_NAME_BYTES].decode("utf-8", "ignore").rstrip(" .")
    if _RESERVED.match(name):
        name = "_" + name
    return (name or say("conversation", "对话")) + suffix
