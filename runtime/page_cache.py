"""Reads a file into the system's cache with progress, so that llama.cpp finds it there and maps it at once.

On Linux llama.cpp maps a model with MAP_POPULATE: one system call that reads the whole file, which shows no progress and
cannot be stopped. What is in the cache already is not read again (mincore(2)).
"""

import ctypes
import mmap
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

_CHUNK = 8 << 20


def read_ahead(path: Path, progress: Callable[[float], bool]) -> bool:
    """Bring a file into the cache. `progress` hears a fraction and returns False to stop; then this returns False.

    Does nothing where mapping does not wait for the disk. A file that cannot be read is left to whoever loads it.
    """
    if sys.platform != "linux":
        return True
    try:
        with path.open("rb", buffering=0) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            missing = missing_chunks(mapped)
            buffer = bytearray(_CHUNK)
            for done, chunk in enumerate(missing):
                if not progress(done / len(missing)):
                    return False
                file.seek(chunk * _CHUNK)
                file.readinto(buffer)
    except (OSError, ValueError):
        return True
    return True


def missing_chunks(mapped: mmap.mmap) -> list[int]:
    """The chunks of a mapped file of which some page is not in the cache; none if the system does not say."""
    data = np.frombuffer(mapped, np.uint8)
    pages = np.zeros(-(-len(data) // mmap.PAGESIZE), np.uint8)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    if libc.mincore(data.ctypes.data, len(data), pages.ctypes.data):
        return []
    return _chunks_missing(pages & 1 == 0)


def _chunks_missing(is_missing: npt.NDArray[np.bool_]) -> list[int]:
    per_chunk = _CHUNK // mmap.PAGESIZE
    starts = np.arange(0, len(is_missing), per_chunk)
    return [int(chunk) for chunk in np.flatnonzero(np.logical_or.reduceat(is_missing, starts))]
