"""The models that the picker and `/model` offer, in one order, so that a number means the same in both."""

from contextlib import suppress
from pathlib import Path

from bq.tui.user_files import file_named, is_there


def model_paths(current: Path) -> list[Path]:
    """The files that bq knows of: the one in use, those beside it, the last ones, and those in the folder where bq runs."""
    from bq.tui.chosen_model import known_models

    beside: list[Path] = []
    for folder in (current.absolute().parent, Path()):
        with suppress(OSError):  # one that is gone, or may not be read
            beside += folder.absolute().glob("*.gguf")
    found = [current.absolute(), *sorted(beside), *known_models()]
    return list(dict.fromkeys(path for path in found if is_there(path)))


def model_path(argument: str, current: Path) -> Path:
    """By its number in the list, or its name or path. Raises UsageError for what is no file: the model in use stays."""
    from bq.tui.chosen_model import model_named, refuse_folder
    from bq.tui.slash_arguments import place_in

    if argument.isdecimal() and not is_there(Path(argument)):
        paths = model_paths(current)
        return paths[place_in(argument, len(paths), "/model")]
    path = model_named(argument)
    refuse_folder(path)
    return file_named(str(path))
