"""llama.cpp's library, loaded once, silent: what it logs is kept and shown only on demand or when something fails."""

import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from bq.runtime.errors import BqError
from bq.runtime.language import say
from bq.runtime.openmp import limit_spins

_LOG_LINES = 400
_ERROR_LEVEL = 4  # enum ggml_log_level in ggml.h: debug 1, info 2, warn 3, error 4
_log: deque[tuple[int, str]] = deque(maxlen=_LOG_LINES)
_logged = 0  # lines ever
_listeners: list[list[tuple[int, str]]] = []
_echo = False
_keep: list[Any] = []  # C holds only a pointer to the callback


def echo_log(on: bool) -> bool:
    """Copy llama.cpp's log to stderr from now on, or no more (`--debug`); returns whether it was copied until now."""
    global _echo
    before, _echo = _echo, on
    return before


def kept_log() -> str:
    """The last lines that llama.cpp logged."""
    return "".join(text for _, text in _log)


def log_position() -> int:
    """A mark: how many lines llama.cpp has logged."""
    return _logged


def last_errors(mark: int) -> str:
    """The last error lines that llama.cpp has logged since the mark, in one line."""
    count = min(_logged - mark, len(_log))
    return errors_of(list(_log)[len(_log) - count :])


def errors_of(log: Iterable[tuple[int, str]]) -> str:
    """The last error lines of a log, in one line."""
    lines = [text.strip() for level, text in log if level >= _ERROR_LEVEL and text.strip()]
    return " / ".join(lines[-2:])


@contextmanager
def listening() -> Iterator[list[tuple[int, str]]]:
    """A list that all that llama.cpp logs in the meantime is added to: (level, text)."""
    heard: list[tuple[int, str]] = []
    _listeners.append(heard)
    try:
        yield heard
    finally:
        _listeners[:] = [one for one in _listeners if one is not heard]


@cache
def library() -> Any:
    """The module of llama.cpp's bindings, its backend started. Raises BqError if it cannot be loaded."""
    limit_spins()
    try:
        from llama_cpp import llama_cpp as bindings
    except (ImportError, OSError, RuntimeError) as error:
        raise BqError(
            say(f"llama.cpp cannot be loaded: {error}.", f"无法加载 llama.cpp：{error}。"),
            say(
                "Run `make demo`, or install llama-cpp-python again.",
                "请运行 `make demo`，或重新安装 llama-cpp-python。",
            ),
        ) from None

    @bindings.llama_log_callback  # type: ignore[untyped-decorator, unused-ignore]
    def keep_line(level: int, text: bytes, _: object) -> None:
        global _logged
        line = text.decode("utf-8", "replace")
        _log.append((level, line))
        _logged += 1
        for heard in _listeners:
            heard.append((level, line))
        if _echo:
            sys.stderr.write(line)

    _keep.append(keep_line)
    bindings.llama_log_set(keep_line, None)
    bindings.llama_backend_init()
    return bindings


def model_params() -> Any:
    """Default parameters for loading a model, safe on this machine.

    On a processor with AMX, llama.cpp repacks weights for it and then ends the process: compilers drop most of the tile
    configuration that it builds on the stack (llama.cpp#26954, #20824; gcc 12 does). Without the extra buffer types the weights
    stay as they are and the ordinary kernels run. Only server processors have AMX.
    """
    lib = library()
    params = lib.llama_model_default_params()
    if b"AMX_INT8 = 1" in lib.llama_print_system_info():
        params.use_extra_bufts = False
    return params
