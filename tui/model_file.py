"""A model file as what lists models sees it: whole, or the reason why it is none. Nothing of llama.cpp is needed."""

from pathlib import Path

from bq.runtime.gguf_file import GgufFile, read_gguf
from bq.runtime.structure import check_structure
from bq.runtime.unreadable import unreadable
from bq.tui.chosen_model import refuse_folder


def read_model(path: Path) -> GgufFile:
    """The file, its structure checked. Raises BqError for whatever is wrong with it or keeps it from being read."""
    try:
        refuse_folder(path)
        file = read_gguf(path)
        check_structure(file)
    except OSError as error:  # a folder above that may not be entered, a file that cannot be mapped
        raise unreadable(path, error) from None
    return file
