"""The file of a session: messages, and the KV cache that reading them cost. It is checked whole before any byte is used.

A cache of GiBs is never copied: llama.cpp writes it straight to the disk, at the file's start, which is why the header
stands behind it, as in a ZIP archive. All numbers are little-endian.

    8 bytes   magic
    S bytes   the state of one sequence as llama_state_seq_get_data gives it; none in a session of messages alone
    4 N bytes the ids of the N tokens in the cache
    H bytes   JSON: the messages, the model they were exchanged with, and the llama.cpp that the state belongs to
    24 bytes  version (4), N (4), S (8), H (8)
    32 bytes  BLAKE2b digest of all before it
"""

import hashlib
import json
import os
import stat
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from bq.runtime.errors import BqError
from bq.runtime.language import say
from bq.runtime.prompt import Message
from bq.runtime.unreadable import unreadable

MAGIC = b"bqsess\r\n"  # a transfer as text would change it
VERSION = 1
MAX_HEADER_BYTES = MAX_TOKENS = 1 << 24
STATE_START = len(MAGIC)
_COUNTS = struct.Struct("<IIQQ")
_ID_BYTES, _DIGEST_BYTES, _CHUNK_BYTES = 4, 32, 1 << 20
_ROLES = ("system", "user", "assistant")

Fingerprint = Mapping[str, str]


@dataclass(frozen=True)
class Header:
    """What was said; `model` and `runtime` say what the state belongs to."""

    messages: tuple[Message, ...]
    model: Fingerprint
    runtime: Fingerprint


@dataclass(frozen=True)
class SessionFile:
    """A session's file, found whole and kept open, with the ids of the tokens in its state."""

    path: Path
    file: BinaryIO
    header: Header
    ids: tuple[int, ...]
    state_bytes: int

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation."""
        return self.header.messages

    def close(self) -> None:
        """Where a file cannot be replaced while it is open, it can be afterwards."""
        self.file.close()

    def __enter__(self) -> "SessionFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Bad(Exception):
    """A claim of the file does not hold; the text says which."""


def finish_session(out: BinaryIO, header: Header, ids: Sequence[int]) -> None:
    """Complete and sync a file, open for reading and writing, that holds the magic and the state of `ids`."""
    state_bytes = out.seek(0, os.SEEK_END) - STATE_START
    text = _encode(header)
    out.write(struct.pack(f"<{len(ids)}i", *ids) + text + _COUNTS.pack(VERSION, len(ids), state_bytes, len(text)))
    out.write(_digest(out, out.tell()))
    out.flush()
    os.fsync(out.fileno())


def open_session(path: Path) -> SessionFile:
    """Read and check the whole file (about a second per GB). Raises BqError saying what is wrong; the file stays as it is."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # before it is opened: a named pipe would wait there for a writer
            raise _Bad(say("it is no file", "它不是文件"))
        file = path.open("rb")
    except FileNotFoundError:
        raise BqError(
            say(f"There is no session {path}.", f"没有会话 {path}。"),
            say("Check the path; --session makes one.", "请检查路径；--session 可新建会话。"),
        ) from None
    except OSError as error:
        raise unreadable(path, error) from None
    except _Bad as error:
        raise _damaged(path, error) from None
    try:
        return _read(path, file)
    except OSError as error:
        file.close()
        raise unreadable(path, error) from None
    except (_Bad, ValueError, RecursionError, MemoryError) as error:
        file.close()
        raise _damaged(path, error) from None
    except BaseException:
        file.close()
        raise


def _read(path: Path, file: BinaryIO) -> SessionFile:
    size = file.seek(0, os.SEEK_END)
    if _at(file, 0, STATE_START) != MAGIC:
        raise _Bad(say("it does not begin as one", "开头不是会话文件"))
    end = size - _DIGEST_BYTES
    if end < STATE_START + _COUNTS.size or _digest(file, end) != _at(file, end, _DIGEST_BYTES):
        raise _Bad(say("it was cut off or changed (wrong checksum)", "被截断或改动（校验和不符）"))
    version, count, state_bytes, header_bytes = _COUNTS.unpack(_at(file, end - _COUNTS.size, _COUNTS.size))
    if version != VERSION:
        raise _Bad(say(f"its version is {version}, known is {VERSION}", f"版本为 {version}，只支持 {VERSION}"))
    if header_bytes > MAX_HEADER_BYTES or count > MAX_TOKENS or bool(count) != bool(state_bytes):
        raise _Bad(say("its lengths make no sense", "长度没有意义"))
    if STATE_START + state_bytes + count * _ID_BYTES + header_bytes + _COUNTS.size != end:
        raise _Bad(say("its lengths do not add up", "长度之和不符"))
    ids = struct.unpack(f"<{count}i", _at(file, STATE_START + state_bytes, count * _ID_BYTES))
    header = _decode(_at(file, end - _COUNTS.size - header_bytes, header_bytes))
    return SessionFile(path, file, header, ids, state_bytes)


def _at(file: BinaryIO, start: int, count: int) -> bytes:
    file.seek(start)
    return file.read(count)


def _digest(file: BinaryIO, end: int) -> bytes:
    """The digest of the file's first `end` bytes; the file stands there afterwards."""
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    file.seek(0)
    while chunk := file.read(min(_CHUNK_BYTES, end - file.tell())):
        digest.update(chunk)
    return digest.digest()


def _encode(header: Header) -> bytes:
    messages = [{"role": message.role, "content": message.content} for message in header.messages]
    data = {"messages": messages, "model": dict(header.model), "runtime": dict(header.runtime)}
    text = json.dumps(data, ensure_ascii=False).encode("utf-8", "replace")
    if len(text) > MAX_HEADER_BYTES:
        raise BqError(
            say("The conversation is too long for a session.", "对话太长，无法保存为会话。"),
            say("Begin a new one.", "请开始新的会话。"),
        )
    return text


def _decode(data: bytes) -> Header:
    """The header of this JSON, in which every value is text. Raises ValueError or _Bad for anything else."""
    parsed = json.loads(
        data.decode("utf-8"),
        object_pairs_hook=_object,
        parse_int=_refuse_number,
        parse_float=_refuse_number,
        parse_constant=_refuse_number,
    )
    if not isinstance(parsed, dict) or set(parsed) != {"messages", "model", "runtime"}:
        raise _Bad(say("its header has other parts", "文件头的内容不对"))
    listed = parsed["messages"]
    if not isinstance(listed, list):
        raise _Bad(say("its messages are no list", "消息不是列表"))
    messages = tuple(_message(one, is_first=i == 0) for i, one in enumerate(listed))
    return Header(messages, _fingerprint(parsed["model"]), _fingerprint(parsed["runtime"]))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Bad(say("its header says something twice", "文件头有重复的内容"))
    return found


def _refuse_number(text: str) -> NoReturn:
    raise _Bad(say(f"its header holds the number {text[:20]}", f"文件头含有数字 {text[:20]}"))


def _message(data: Any, is_first: bool) -> Message:
    if not isinstance(data, dict) or set(data) != {"role", "content"}:
        raise _Bad(say("a message has other parts", "消息的内容不对"))
    role, content = data["role"], data["content"]
    if role not in _ROLES or not isinstance(content, str) or (role == "system" and not is_first):
        raise _Bad(say("a message has no role that fits its place", "消息的角色不对"))
    content.encode()  # half a character (a lone surrogate) is a ValueError
    return Message(role, content)


def _fingerprint(data: Any) -> Fingerprint:
    if not isinstance(data, dict) or not all(isinstance(value, str) for value in data.values()):
        raise _Bad(say("it does not say what it belongs to", "没有说明所属的模型"))
    return data


def _damaged(path: Path, error: Exception) -> BqError:
    return BqError(
        say(f"{path.name} is no whole session: {error}.", f"{path.name} 不是完整的会话文件：{error}。"),
        say("It is left as it is; give another name to begin anew.", "文件保持原样；要重新开始请换一个文件名。"),
    )
