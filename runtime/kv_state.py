"""Whether bytes are the KV state of one sequence as llama.cpp writes and reads it, found out before C code sees them.

The form is that of `llama_kv_cache::state_write` (src/llama-kv-cache.cpp), all little-endian: a magic, the sequence, the
number of streams, and for each stream its number of cells, the cells (position, number of sequences, the sequence), then
for each layer the keys' type, the bytes of a row and the rows, and likewise the values. Without flash attention the
values are transposed: type, bytes of an element, elements of a row. llama.cpp compares types and sizes with its own; what
it takes on trust is that all bytes are there and that the positions are those of a text.
"""

import os
import struct
from typing import BinaryIO

import numpy as np

HEAD = struct.pack("<Ii", 0xAF143CD8, 0)  # io_magic (src/llama-context.cpp) and the sequence
_NUMBER, _FORM = struct.Struct("<I"), struct.Struct("<II")
_ROWS, _TRANSPOSED_ROWS = struct.Struct("<iQ"), struct.Struct("<iII")
_CELL_NUMBERS = 3
_CELL_BYTES = 4 * _CELL_NUMBERS
_MOST_LAYERS, _MOST_STREAMS, _MOST_ROW_BYTES = 1024, 256, 1 << 24


def is_state(file: BinaryIO, start: int, size: int, tokens: int) -> bool:
    """Whether the `size` bytes from `start` are the whole state of `tokens` tokens at positions 0, 1, 2, … of sequence 0."""
    file.seek(start)
    end = start + size
    if file.read(len(HEAD)) != HEAD:
        return False
    try:
        (streams,) = _take(file, _NUMBER)
        if not _are_cells(file, end, tokens) or not _are_layers(file, end, tokens):
            return False
    except struct.error:  # the file ends within a number
        return False
    empty = bytes(_NUMBER.size * (streams - 1)) if 1 <= streams <= _MOST_STREAMS else b"?"
    return end - file.tell() == len(empty) and file.read(len(empty)) == empty


def _take(file: BinaryIO, form: struct.Struct) -> tuple[int, ...]:
    return form.unpack(file.read(form.size))


def _are_cells(file: BinaryIO, end: int, tokens: int) -> bool:
    """In any order: where the cache was shared before, free cells lie apart."""
    (count,) = _take(file, _NUMBER)
    if count != tokens or count * _CELL_BYTES > end - file.tell():
        return False
    cells = np.frombuffer(file.read(count * _CELL_BYTES), "<i4").reshape(count, _CELL_NUMBERS)
    positions, sequence_counts, sequences = cells.T
    is_text = np.array_equal(np.sort(positions), np.arange(count))
    return is_text and bool((sequence_counts == 1).all()) and bool((sequences == 0).all())


def _are_layers(file: BinaryIO, end: int, tokens: int) -> bool:
    transposed, layers = _take(file, _FORM)
    if transposed > 1 or not 1 <= layers <= _MOST_LAYERS:
        return False
    forms = [_ROWS] * layers + [_TRANSPOSED_ROWS if transposed else _ROWS] * layers
    for form in forms:
        _, *sizes = _take(file, form)
        row_bytes = sizes[0] * (sizes[1] if len(sizes) > 1 else 1)
        if not 1 <= row_bytes <= _MOST_ROW_BYTES or row_bytes * tokens > end - file.tell():
            return False
        file.seek(row_bytes * tokens, os.SEEK_CUR)
    return True
