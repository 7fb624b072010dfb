"""numpy's matrix products on one thread each, for a caller who has threads of his own.

OpenBLAS, which numpy's wheels bring along, splits each product among threads that wait for each other by spinning: on cores
that something else has taken that is tens of times slower, and beside threads of our own no faster on idle ones.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

_FOLDERS = ("../numpy.libs", ".dylibs")  # beside the package on Linux and Windows, within it on macOS
_PREFIXES = ("scipy_openblas", "openblas")  # of the wheels since numpy 1.26, and of those before
_SUFFIXES = ("64_", "")


@contextmanager
def one_thread_each() -> Iterator[None]:
    """While it lasts; without effect where numpy has another BLAS."""
    functions = _functions()
    if functions is None:
        yield
        return
    get, put = functions
    before = get()
    put(1)
    try:
        yield
    finally:
        put(before)


@cache
def _functions() -> tuple[Any, Any] | None:
    """How OpenBLAS is asked for its number of threads, and told."""
    package = Path(np.__file__).resolve().parent
    for folder in _FOLDERS:
        for path in sorted((package / folder).glob("*openblas*")):
            try:
                library = ctypes.CDLL(str(path))  # the one that numpy has loaded
            except OSError:
                continue
            for name in (f"{prefix}_{{}}_num_threads{suffix}" for prefix in _PREFIXES for suffix in _SUFFIXES):
                if hasattr(library, name.format("set")):
                    return getattr(library, name.format("get")), getattr(library, name.format("set"))
    return None
