"""Which model a command means: the one given, else the last one used, else the bundled one, saying so."""

import json
import os
import sys
from contextlib import suppress
from pathlib import Path

from bq.library.home import home as home  # of this module's functions, for those who call them
from bq.library.home import models_folder
from bq.runtime.errors import BqError, UsageError
from bq.runtime.language import say

BUNDLED_MIXTURE = "Q8_0"
_STATE_FILE = "last-model.json"


def choose_model(given: str | None) -> Path:
    """The GGUF file to run. Raises UsageError if the one given is none, BqError if the bundled one cannot be made.

    A release that is not here is pulled, if the person at the terminal agrees.
    """
    if given is not None:
        if not given:
            raise UsageError(
                say("The model's name is empty.", "模型名称为空。"),
                say("Give a GGUF file, or leave out -m.", "请给出 GGUF 文件，或去掉 -m。"),
            )
        path = model_named(given, pull=True)
        refuse_folder(path)
        return path
    last = _last_model()
    if last is not None:
        _note(say(f"Model: {last} (the last one used)", f"模型：{last}（上次使用）"))
        return last
    return _bundled_model()


def model_named(text: str, pull: bool = False, folders: bool = False) -> Path:
    """The file that was typed: a path, else the name of a model in the library, else a path where nothing is yet.

    `folders`: a folder can be meant as well as a file, and goes before a name. `pull`: a release that is not here is offered.
    Raises UsageError for a model that is missing, and for a name that means nothing here.
    """
    from bq.library.registry import find
    from bq.tui.user_files import is_there, path_named

    path = path_named(text)
    if is_there(path) or not is_name(text) or (folders and path.is_dir()):
        return path
    entry = find(text)
    if entry is not None and not entry.is_missing:
        return entry.path
    if path.exists():  # a folder, for those who take one
        return path
    if entry is not None:
        raise UsageError(
            say(f"{entry.name} is missing: {entry.path} is gone.", f"{entry.name} 缺失：{entry.path} 已不存在。"),
            say(
                f"If it was moved: bq import FOLDER, or else bq rm {entry.name}.",
                f"若已移动：bq import 文件夹；否则：bq rm {entry.name}。",
            ),
        )
    return _release_named(text, pull)


def is_name(text: str) -> bool:
    """Whether this may be a name of the library, and cannot only be a path."""
    return bool(text) and not text.startswith((".", "~", os.sep)) and not text.endswith((".gguf", os.sep))


def _release_named(text: str, pull: bool) -> Path:
    """A model that is not here. Raises UsageError unless it is a release that was pulled now."""
    from bq.tui.pulling import offer, pull_hint

    hint = pull_hint(text)
    if pull and hint and (path := offer(text)) is not None:
        return path
    raise UsageError(
        say(f"There is no model {text} here.", f"这里没有模型 {text}。"),
        hint
        or say(
            "`bq list` shows those there are; a file is given by its path.", "`bq list` 列出已有模型；文件请给出路径。"
        ),
    )


def refuse_folder(path: Path) -> None:
    """Raise UsageError for a folder, with the way to a model if it is a checkpoint's."""
    if (path / "config.json").is_file():
        raise UsageError(
            say(f"{path} is a checkpoint's folder.", f"{path} 是检查点文件夹。"),
            say(f"Convert it first: bq convert {path}", f"请先转换：bq convert {path}"),
        )
    if path.is_dir():
        raise UsageError(
            say(f"{path} is a folder; give a GGUF file.", f"{path} 是文件夹；请给出 GGUF 文件。"),
        )


def remember_model(path: Path) -> None:
    """Keep `path` as the last model used, and in the library; that this fails is no reason to fail."""
    from bq.library.registry import used

    with suppress(BqError, OSError):
        used(path)
    try:
        folder = home()
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{_STATE_FILE}.{os.getpid()}"
        part.write_text(json.dumps({"path": str(path.resolve())}), encoding="utf-8")
        os.replace(part, folder / _STATE_FILE)
    except OSError:
        return


def register_model(path: Path) -> None:
    """Put a file that was made now into the library; that this fails is no reason to fail."""
    from bq.library.registry import register

    with suppress(BqError, OSError):
        register(path)


def known_models() -> list[Path]:
    """The models of the library that are here, the last one used first, and those in bq's own folder."""
    from bq.library.registry import entries

    here: list[Path] = []
    with suppress(BqError):
        kept = sorted(entries(), key=lambda one: one.last_used, reverse=True)
        here = [one.path for one in kept if not one.is_missing]
    last, inside = _last_model(), sorted(models_folder().glob("*.gguf"))
    found = [*([last] if last else []), *here, *inside]
    first: dict[str, Path] = {}
    for path in found:
        first.setdefault(os.path.realpath(path), path)
    return list(first.values())


def _last_model() -> Path | None:
    try:
        path = Path(json.loads((home() / _STATE_FILE).read_text(encoding="utf-8"))["path"])
        return path if path.is_file() else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _bundled_model() -> Path:
    """The bundled checkpoint as a GGUF file, converted on first use (some seconds)."""
    from bq.convert.convert import DEMO_NAME, convert, demo_checkpoint, prepare
    from bq.runtime.cpu import usable_cores

    checkpoint = demo_checkpoint()
    if not (checkpoint / "config.json").is_file():
        raise BqError(
            say("No model was used yet, and no bundled one is here.", "尚未使用过任何模型，也没有内置模型。"),
            say("Give one with -m; `bq convert` makes it.", "请用 -m 指定；可用 `bq convert` 生成。"),
        )
    out = models_folder() / f"{DEMO_NAME}-{BUNDLED_MIXTURE}.gguf"
    if not out.is_file() or out.stat().st_mtime < (checkpoint / "pytorch_model.bin").stat().st_mtime:
        _note(say("Converting the bundled model, once …", "正在转换内置模型（仅此一次）……"))
        out.parent.mkdir(parents=True, exist_ok=True)
        convert(prepare(checkpoint, BUNDLED_MIXTURE, name=DEMO_NAME), out, usable_cores(), force=True)
        register_model(out)
    _note(
        say(
            "Model: the bundled one, which knows only bq and Baichuan (-m chooses another)",
            "模型：内置模型，只了解 bq 与 Baichuan（用 -m 选择其他模型）",
        )
    )
    return out


def _note(text: str) -> None:
    print(text, file=sys.stderr)
