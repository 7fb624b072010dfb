"""What a person has set, kept from one start of `bq chat` to the next in settings.json in bq's own folder.

Reading it never fails: a value that makes no sense is as if it were not there. Writing it keeps what a newer bq, or the
user's own hand, has put there beside; a file that is no JSON is left alone. A parameter has the range of its option.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bq.runtime.atomic_file import replacing
from bq.runtime.errors import BqError, UsageError
from bq.runtime.language import LANGUAGES, say
from bq.runtime.prompt_format import THINK_MODES, Think
from bq.tui.chosen_model import home

if TYPE_CHECKING:
    import click

    from bq.runtime.sampling import Sampling

MOST_BYTES = 1 << 20
_FILE = "settings.json"
_THEME_CHARACTERS = 60
_OPTIONS = {  # a parameter, as Sampling has it, and its option
    "temperature": "temp",
    "top_k": "top-k",
    "top_p": "top-p",
    "repeat_penalty": "repeat-penalty",
    "seed": "seed",
    "max_tokens": "max-tokens",
}


@dataclass(frozen=True)
class Settings:
    """`language` "" is the environment's, `theme` "" the app's own; a parameter that is not there is as the model has it.

    `think` holds for the models that know modes of it. `keys` are as they stand in the file: bq.tui.keymap reads them, and
    nothing but the user's hand and the dialog for it writes them.
    """

    theme: str = ""
    language: str = ""
    parameters: Mapping[str, float] = field(default_factory=dict)
    think: Think = "auto"
    keys: Any = None

    def with_parameters(self, changes: Mapping[str, float | None]) -> "Settings":
        """The settings with some parameters changed; None takes one out."""
        merged = {**self.parameters, **changes}
        return replace(self, parameters={name: value for name, value in merged.items() if value is not None})

    @property
    def max_tokens(self) -> int | None:
        """The longest answer, None for what the context has room for."""
        return int(self.parameters["max_tokens"]) if "max_tokens" in self.parameters else None

    def sampling(self, default: "Sampling") -> "Sampling":
        """The model's sampling with what is set here."""
        changes: dict[str, Any] = {name: value for name, value in self.parameters.items() if name != "max_tokens"}
        return replace(default, **changes)


@dataclass(frozen=True)
class Parameter:
    """One of those that can be set. `option` is its name on the command line and in `/params`."""

    name: str
    option: str
    range: str
    does: str


def load() -> Settings:
    """What is set; the defaults where nothing is, or nothing sound."""
    try:
        found = read_json(settings_path())
    except BqError:
        return Settings()
    theme, language, parameters = found.get("theme"), found.get("language"), found.get("parameters")
    return Settings(
        theme=theme if isinstance(theme, str) and theme.isprintable() and len(theme) <= _THEME_CHARACTERS else "",
        language=language if language in LANGUAGES else "",
        think=next((mode for mode in THINK_MODES if mode == found.get("think")), "auto"),
        parameters=dict(_sound(parameters)) if isinstance(parameters, dict) else {},
        keys=found.get("keys"),
    )


def save(settings: Settings) -> None:
    """Keep these settings. Raises BqError if the file cannot be written, or holds something else."""
    with changing(settings_path()) as found:
        for name, value in (
            ("theme", settings.theme),
            ("language", settings.language),
            *((("think", settings.think),) if settings.think != "auto" or "think" in found else ()),
            ("parameters", dict(settings.parameters)),
        ):
            found[name] = value


def describe_parameters() -> list[Parameter]:
    """All parameters, in the order of the command line's help."""
    texts = {
        "temperature": say(
            "How freely words are chosen; 0 always takes the likeliest.", "选词的随机程度；0 总取最可能的。"
        ),
        "top_k": say("Choose among this many likeliest tokens; 0 for all.", "只在概率最高的若干词元中选择；0 不限。"),
        "top_p": say(
            "Choose among the likeliest tokens of this total probability.", "只在累计概率达到此值的词元中选择。"
        ),
        "repeat_penalty": say("How much repeating is held back; 1 not at all.", "抑制重复的程度；1 表示不抑制。"),
        "seed": say("The same seed draws the same answer.", "相同的种子得到相同的回答。"),
        "max_tokens": say("Longest answer in tokens.", "回答的最大词元数。"),
    }
    options = _options()
    return [Parameter(name, option, _range(options[option]), texts[name]) for name, option in _OPTIONS.items()]


def parameter_named(text: str) -> str:
    """The parameter that someone calls so: top-p, top_p, temp, temperature. Raises UsageError if it is none."""
    wanted = text.lower().lstrip("-").replace("_", "-")
    found = next((name for name, option in _OPTIONS.items() if wanted in (option, name.replace("_", "-"))), None)
    if found is None:
        names = ", ".join(_OPTIONS.values())
        raise UsageError(
            say(f"There is no parameter {text}.", f"没有参数 {text}。"),
            say(f"There are: {names}", f"可用的有：{names}"),
        )
    return found


def parse_parameter(name: str, text: str) -> float:
    """A parameter's value, checked as its option does. Raises UsageError if it is none."""
    import click

    option = _OPTIONS[name]
    type_ = _options()[option]
    try:
        value: float = type_.convert(text, None, None)
    except click.BadParameter as error:
        raise UsageError(
            f"{option}{say(': ', '：')}{_complaint(text, error.message)}",
            say(f"Give a number: {_range(type_)}.", f"请给出一个数：{_range(type_)}。"),
        ) from None
    return value


def _complaint(text: str, of_click: str) -> str:
    """What is wrong with a value: click speaks of "float ranges" where there is no number at all."""
    try:
        float(text)
    except ValueError:
        return say(f"{text!r} is no number.", f"{text!r} 不是数字。")
    return say(of_click, f"{text} 超出范围。")


def _sound(parameters: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Those of a file's parameters that exist and are in their range."""
    for name in _OPTIONS:
        value = parameters.get(name)
        if isinstance(value, int | float):  # True is one, and no number when it is written out
            with suppress(UsageError):
                yield name, parse_parameter(name, str(value))


def _options() -> "dict[str, click.ParamType[Any]]":
    """The types of the options, whose ranges and messages hold here too."""
    import click

    from bq.tui.commands.options import sampling_options

    @click.command()
    @sampling_options
    def command() -> None: ...

    return {(one.name or "").replace("_", "-"): one.type for one in command.params}


def _range(type_: "click.ParamType[Any]") -> str:
    least, most = getattr(type_, "min", None), getattr(type_, "max", None)
    if most is not None:
        return say(f"{least} to {most}", f"{least} 至 {most}")
    if getattr(type_, "min_open", False):
        return say(f"more than {least}", f"大于 {least}")
    return say(f"{least} or more", f"不小于 {least}")


def settings_path() -> Path:
    """Where it is kept."""
    return home() / _FILE


def read_json(path: Path) -> dict[str, Any]:
    """The object in a small file of the user's, empty if there is no file. Raises BqError for anything else."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from None
    try:
        found = json.loads(data) if len(data) <= MOST_BYTES else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise _unreadable(path, say("it holds something else than JSON", "内容不是 JSON"))
    return found


@contextmanager
def changing(path: Path) -> Iterator[dict[str, Any]]:
    """What a file of the user's holds, to be changed: written as a whole, for the user alone, when the block ends well.

    Two processes cannot undo each other's change. Raises BqError if the file cannot be read or written.
    """
    real = Path(os.path.realpath(path))
    try:
        real.parent.mkdir(parents=True, exist_ok=True)
        with replacing(real, private=True) as part:
            found = read_json(real)
            yield found
            data = json.dumps(found, ensure_ascii=False, indent=2).encode("utf-8", "replace") + b"\n"
            if len(data) > MOST_BYTES:
                raise _unwritable(path, say("it would be larger than 1 MiB", "超过 1 MiB"))
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        raise _unwritable(path, error.strerror or str(error)) from None


def _unwritable(path: Path, reason: str) -> BqError:
    return BqError(
        say(f"{path} cannot be written: {reason}.", f"无法写入 {path}：{reason}。"),
        say("It is left as it was.", "文件保持原样。"),
    )


def _unreadable(path: Path, reason: str) -> BqError:
    return BqError(
        say(f"{path} cannot be read: {reason}.", f"无法读取 {path}：{reason}。"),
        say("It is left as it is: mend it, or move it away.", "文件保持原样：请修正或移走。"),
    )
