"""A conversation with its KV cache, kept on disk and taken up again: a long text is read by the model once, not each time.

The state is restored only into the model, and by the llama.cpp, that wrote it. Everything else in a session is text, and
holds for any model: it is then read anew.
"""

import ctypes
import errno
import mmap
import os
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from pathlib import Path

import numpy as np

from bq.runtime.atomic_file import replacing
from bq.runtime.engine import Engine
from bq.runtime.errors import BqError
from bq.runtime.gguf_file import GgufFile
from bq.runtime.kv_state import HEAD, is_state
from bq.runtime.language import say
from bq.runtime.llama import last_errors, library, log_position
from bq.runtime.prompt import Message
from bq.runtime.session_file import MAGIC, STATE_START, Fingerprint, Header, SessionFile, finish_session

_SEQUENCE = 0
_SAMPLES, _SAMPLE_BYTES = 1024, 1024
_MARGIN_BYTES = 1 << 20  # of a disk, for the messages and the folder


@dataclass(frozen=True)
class Session:
    """A restored session. `restored_tokens` are in the KV cache; `note` says why none are although the file had some."""

    messages: tuple[Message, ...]
    restored_tokens: int = 0
    note: str = ""


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from, as far as telling it from others needs."""

    path: Path
    name: str
    size_bytes: int
    data_start: int

    @classmethod
    def of(cls, file: GgufFile, name: str) -> "ModelSource":
        start = min((tensor.start for tensor in file.tensors.values()), default=file.size_bytes)
        return cls(file.path.absolute(), name, file.size_bytes, start)

    def fingerprint(self) -> Fingerprint:
        """The name, the size, the digest of all metadata and of 1 KiB at a thousand places of the weights.

        A file that is gone is like no other.
        """
        weights = blake2b(digest_size=16)
        try:
            with self.path.open("rb") as file:
                metadata = blake2b(file.read(self.data_start), digest_size=16)
                for i in range(_SAMPLES):
                    file.seek(self.data_start + (self.size_bytes - self.data_start) * i // _SAMPLES)
                    weights.update(file.read(_SAMPLE_BYTES))
        except OSError:
            return {"name": self.name, "gone": secrets.token_hex(16)}
        return {
            "name": self.name,
            "bytes": str(self.size_bytes),
            "metadata": metadata.hexdigest(),
            "weights": weights.hexdigest(),
        }


@cache
def runtime_fingerprint() -> Fingerprint:
    """What decides how llama.cpp lays out and computes a state: its version, and what it uses of the machine."""
    lib = library()
    from llama_cpp import __version__

    return {"llama-cpp-python": __version__, "system": lib.llama_print_system_info().decode("utf-8", "replace").strip()}


def save(engine: Engine | None, model: Fingerprint, path: Path, messages: Sequence[Message]) -> int:
    """Write a session with what the engine's cache holds (None: the messages alone); returns how many tokens that is.

    Raises BqError if it cannot be written; what was there before is whole then.
    """
    path = path.resolve()  # of a link the file is replaced, not the link
    header = Header(tuple(messages), model, runtime_fingerprint())
    try:
        with replacing(path, private=True) as part:
            if engine is not None and engine.ids:
                _check_space(engine, part)
                _write_state(engine, part)
            with part.open("r+b") as out:
                out.write(MAGIC + HEAD)  # over the head of llama.cpp's own file: what follows is the state
                ids = engine.ids if engine is not None else ()
                if not is_state(out, STATE_START, out.seek(0, os.SEEK_END) - STATE_START, len(ids)):
                    ids = ()  # nothing is cached, or a llama.cpp to come writes it in another form
                    out.truncate(STATE_START)
                finish_session(out, header, ids)
    except OSError as error:
        raise _write_failure(path, error.strerror or str(error)) from None
    return len(ids)


def _check_space(engine: Engine, part: Path) -> None:
    need = int(library().llama_state_seq_get_size(engine.context, _SEQUENCE)) + _MARGIN_BYTES
    free = shutil.disk_usage(part.parent).free
    if free < need:
        raise BqError(
            say(
                f"{part.parent} has {free / 1e9:.2f} GB free, the session needs {need / 1e9:.2f} GB.",
                f"{part.parent} 剩余 {free / 1e9:.2f} GB，而会话需要 {need / 1e9:.2f} GB。",
            ),
            say("Free some space, or keep it on another disk.", "请腾出空间，或保存到另一块磁盘。"),
        )


def _write_state(engine: Engine, part: Path) -> None:
    """By llama.cpp itself, straight to the disk: a state in memory would need as much again as the cache.

    Its file begins with a magic, a version, a number of tokens and these: with one token as long as MAGIC and HEAD.
    """
    lib = library()
    token = (lib.llama_token * 1)()
    mark = log_position()
    written = lib.llama_state_seq_save_file(engine.context, os.fsencode(part), _SEQUENCE, token, 1)
    if written == 0 or written != part.stat().st_size:  # it does not look at what closing the file says
        raise _write_failure(part, last_errors(mark) if written == 0 else os.strerror(errno.ENOSPC))


def restore(engine: Engine, model: Fingerprint, stored: SessionFile) -> Session:
    """Fill the engine's cache with a session's state where that fits; else it stays or becomes empty, and a note says why."""
    note = _misfit(engine, model, stored) if stored.ids else ""
    if note or not stored.ids:
        return Session(stored.messages, note=note)
    engine.forget()
    if not _read_state(engine, stored):
        engine.forget()
        why = say("its KV cache has another type or form (--kv)", "其 KV 缓存的类型或格式不同（--kv）")
        return Session(stored.messages, note=_read_anew(why))
    engine.adopt(stored.ids)
    return Session(stored.messages, len(stored.ids))


def _misfit(engine: Engine, model: Fingerprint, stored: SessionFile) -> str:
    """Why this state is not for this engine, "" if it may be."""
    saved = stored.header
    if saved.model != model:
        name = saved.model.get("name", "?")
        return _read_anew(say(f"it was held with another model file ({name})", f"它属于另一个模型文件（{name}）"))
    if saved.runtime != runtime_fingerprint():
        return _read_anew(
            say("it was kept by another llama.cpp or machine", "它由另一版本的 llama.cpp 或另一台机器保存")
        )
    if len(stored.ids) > engine.size:
        have, need = engine.size, len(stored.ids)
        return _read_anew(
            say(
                f"its {need} tokens do not fit into a context of {have} (--ctx)",
                f"其 {need} 个词元超出上下文 {have}（--ctx）",
            )
        )
    if not all(0 <= token < len(engine.tokenizer) for token in stored.ids) or not is_state(
        stored.file, STATE_START, stored.state_bytes, len(stored.ids)
    ):
        return _read_anew(say("its KV cache makes no sense", "其 KV 缓存没有意义"))
    return ""


def _read_anew(why: str) -> str:
    return say(f"The session's text is read anew: {why}.", f"会话内容将重新读取：{why}。")


def _read_state(engine: Engine, stored: SessionFile) -> bool:
    """Hand the state to llama.cpp, mapped: it reads it from the file's pages. False if llama.cpp did not take all of it."""
    lib = library()
    with mmap.mmap(stored.file.fileno(), STATE_START + stored.state_bytes, access=mmap.ACCESS_READ) as mapped:
        state = np.frombuffer(mapped, np.uint8, stored.state_bytes, STATE_START)
        pointer = state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        taken = lib.llama_state_seq_set_data(engine.context, pointer, stored.state_bytes, _SEQUENCE)
        del pointer, state  # or the map cannot be closed
    return int(taken) == stored.state_bytes


def _write_failure(path: Path, detail: str) -> BqError:
    name = path.name.removesuffix(".part")
    return BqError(
        say(f"The session {name} could not be written: {detail}.", f"无法写入会话 {name}：{detail}。"),
        say("What was there before is unchanged. Free some space.", "原有内容未变。请腾出空间。"),
    )
