"""A model file as what lists models sees it: whole, or the reason why it is none. Nothing of llama.cpp is needed."""

from pathlib import Path

from bq.runtime.errors import BqError
from bq.runtime.gguf_file import GgufFile, read_gguf
from bq.runtime.language import say
from bq.runtime.structure import check_structure
from bq.tui.chosen_model import refuse_folder


def read_model(path: Path) -> GgufFile:
    """The file, its structure checked. Raises BqError for whatever is wrong with it or keeps it from being read."""
    try:
        refuse_folder(path)
        file = read_gguf(path)
        check_structure(file)
    except OSError as error:  # a folder above that may not be entered, a file that cannot be mapped
        raise BqError(
            say(f"{path} cannot be read: {error.strerror}.", f"无法读取 {path}：{error.strerror}。"),
            say("Check the permissions.", "请检查权限。"),
        ) from None
    return file
