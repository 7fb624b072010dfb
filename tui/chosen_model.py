"""Which model a command means: the one given, else the last one used, else the bundled one, saying so."""

import json
import os
import sys
from pathlib import Path

from bq.runtime.errors import BqError, UsageError
from bq.runtime.language import say

BUNDLED_MIXTURE = "Q8_0"
_STATE_FILE = "last-model.json"


def home() -> Path:
    """The folder of what bq keeps on this computer: `BQ_HOME`, else the system's place for such data."""
    import platformdirs

    return Path(os.environ.get("BQ_HOME") or platformdirs.user_data_dir("bq", appauthor=False))


def choose_model(given: str | None) -> Path:
    """The GGUF file to run. Raises UsageError if the one given is none, BqError if the bundled one cannot be made."""
    if given is not None:
        if not given:
            raise UsageError(
                say("The model's name is empty.", "模型名称为空。"),
                say("Give a GGUF file, or leave out -m.", "请给出 GGUF 文件，或去掉 -m。"),
            )
        path = Path(given).expanduser()
        refuse_folder(path)
        return path
    last = _last_model()
    if last is not None:
        _note(say(f"Model: {last} (the last one used)", f"模型：{last}（上次使用）"))
        return last
    return _bundled_model()


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
    """Keep `path` as the last model used; that this fails is no reason to fail."""
    try:
        folder = home()
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{_STATE_FILE}.{os.getpid()}"
        part.write_text(json.dumps({"path": str(path.resolve())}), encoding="utf-8")
        os.replace(part, folder / _STATE_FILE)
    except OSError:
        return


def known_models() -> list[Path]:
    """The last model used and those in bq's own folder, the bundled one among them if it was converted already."""
    last = _last_model()
    inside = sorted((home() / "models").glob("*.gguf"))
    return list(dict.fromkeys([*([last] if last else []), *inside]))


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
    out = home() / "models" / f"{DEMO_NAME}-{BUNDLED_MIXTURE}.gguf"
    if not out.is_file() or out.stat().st_mtime < (checkpoint / "pytorch_model.bin").stat().st_mtime:
        _note(say("Converting the bundled model, once …", "正在转换内置模型（仅此一次）……"))
        out.parent.mkdir(parents=True, exist_ok=True)
        convert(prepare(checkpoint, BUNDLED_MIXTURE, name=DEMO_NAME), out, usable_cores(), force=True)
    _note(
        say(
            "Model: the bundled one, which knows only bq and Baichuan (-m chooses another)",
            "模型：内置模型，只了解 bq 与 Baichuan（用 -m 选择其他模型）",
        )
    )
    return out


def _note(text: str) -> None:
    print(text, file=sys.stderr)
