"""--json-schema, --grammar and --choices: answers that always parse, on stdout only when they are whole."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bq.runtime.errors import BqError, Cancelled, UsageError
from bq.runtime.language import say
from bq.tui.aloud import Aloud

if TYPE_CHECKING:
    from bq.runtime.generation import Generation

F = TypeVar("F", bound=Callable[..., Any])
MOST_BYTES = 1 << 20
_CHOICE = re.compile(r'\s*(?:"((?:[^"]|"")*)"|(?!")([^,]*?))\s*(,|\Z)')
_OPTIONS = ("json_schema", "grammar", "choices")


def structured_options(function: F) -> F:
    """The three options, of which one may be given."""
    for option in (
        click.option(
            "--choices",
            multiple=True,
            metavar="A,B,C",
            help=say(
                'Answer with exactly one of these; a text with a comma in double quotes: yes,"no, never". May be repeated.',
                '只从这些选项中回答一个；含逗号的选项用双引号括起：是,"不,绝不"。可多次指定。',
            ),
        ),
        click.option(
            "--grammar",
            metavar="FILE",
            help=say(
                "Answer by the grammar (llama.cpp's GBNF) in this file.", "按此文件中的语法（llama.cpp 的 GBNF）回答。"
            ),
        ),
        click.option(
            "--json-schema",
            metavar="FILE|TEXT",
            help=say(
                "Answer with JSON that is valid by this schema. The model does not see it: naming the fields in the "
                "instruction makes better answers.",
                "以符合此模式的 JSON 回答。模型看不到该模式：在指令中说明各字段，回答会更好。",
            ),
        ),
    ):
        function = option(function)
    return function


def with_constraint(given: dict[str, Any]) -> dict[str, Any]:
    """The arguments with the options' files read, and what they ask for as `constraint` (None: nothing).

    `constraint_file` is the one it was read from, if any.

    Raises UsageError for more than one of them, one that cannot be read or kept, and for --stop beside it.
    """
    asked = [name for name in _OPTIONS if given[name] not in (None, ())]
    if not asked:
        return {**given, "constraint": None, "constraint_file": None}
    names = ", ".join("--" + name.replace("_", "-") for name in asked)
    if len(asked) > 1:
        raise UsageError(
            say(f"{names}: only one of them can be kept.", f"{names}：只能使用其中一个。"),
            say("Leave the others out.", "请去掉其余的。"),
        )
    if given["stop"]:
        raise UsageError(
            say(f"--stop would cut what {names} keeps whole.", f"--stop 会截断 {names} 要保证完整的回答。"),
            say("Leave one of them out.", "请去掉其中一个。"),
        )
    if given[asked[0]] == "":  # as from a script's variable that is not set
        raise UsageError(
            say(f"{names} is empty.", f"{names} 为空。"), say("Give a file, or leave it out.", "请给出文件，或去掉它。")
        )
    return {**given, "constraint_file": None, **_READERS[asked[0]](given[asked[0]])}


def _json_schema(text: str) -> dict[str, Any]:
    from bq.runtime.constraint import by_json_schema
    from bq.runtime.json_schema import parse_schema

    file = None if text.lstrip().startswith("{") else Path(text).expanduser()
    schema = parse_schema(text if file is None else read_text(text))
    return {"json_schema": json.dumps(schema), "constraint": by_json_schema(schema), "constraint_file": file}


def _grammar(path: str) -> dict[str, Any]:
    from bq.runtime.constraint import by_grammar

    text = read_text(path)
    try:
        constraint = by_grammar(text)
    except UsageError as error:
        raise UsageError(f"{path}: {error.cause}", error.remedy) from None
    return {"grammar": text, "constraint": constraint, "constraint_file": Path(path).expanduser()}


def _choices(lines: tuple[str, ...]) -> dict[str, Any]:
    from bq.runtime.constraint import by_choices

    choices = split_choices(lines)
    return {"choices": tuple(choices), "constraint": by_choices(choices)}


_READERS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "json_schema": _json_schema,
    "grammar": _grammar,
    "choices": _choices,
}


def split_choices(lines: tuple[str, ...]) -> list[str]:
    """The texts between the commas, without the spaces around them; quoted ones as they are. Raises UsageError."""
    found: list[str] = []
    for line in lines:
        at, more = 0, True
        while more:
            match = _CHOICE.match(line, at)
            if match is None:
                raise UsageError(
                    say(f"--choices {line}: the quotes do not match.", f"--choices {line}：引号不匹配。"),
                    say(
                        'A text with a comma stands in double quotes: yes,"no, never"',
                        '含逗号的选项用双引号括起：是,"不,绝不"',
                    ),
                )
            quoted, plain, comma = match.groups()
            found.append(plain if quoted is None else quoted.replace('""', '"'))
            at, more = match.end(), bool(comma)
    return found


def read_text(name: str) -> str:
    """A text file of the user's. Raises UsageError if it is none, or larger than a megabyte."""
    path = Path(name).expanduser()
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UsageError(
            say(f"{name} cannot be read: {reason}.", f"无法读取 {name}：{reason}。"),
            say("Give the path of a file that you may read.", "请给出有读取权限的文件的路径。"),
        ) from None
    if len(data) > MOST_BYTES:
        raise UsageError(
            say(f"{name} is larger than 1 MiB.", f"{name} 超过 1 MiB。"),
            say("Use a smaller one.", "请使用更小的文件。"),
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            say(f"{name} is no UTF-8 text: byte {error.start}.", f"{name} 不是 UTF-8 文本：第 {error.start} 字节。"),
            say("Save it as UTF-8.", "请另存为 UTF-8。"),
        ) from None


def show_whole(generation: "Generation", is_json: bool) -> str:
    """Print an answer that obeys a constraint: as it comes on a terminal, else when it is whole; returns it.

    Raises BqError if it came to no end, Cancelled if it was stopped; then nothing stands on stdout but on a terminal.
    """
    is_seen = sys.stdout.isatty()
    whole = Aloud(is_held=not is_seen).follow(generation)
    try:
        check_whole(generation.stats.stop, whole if is_json else None)
    finally:
        if is_seen:
            sys.stdout.write("\n")
            sys.stdout.flush()
    if not is_seen:
        sys.stdout.write(whole + "\n")
        sys.stdout.flush()
    return whole


def check_whole(stop: str, text: str | None) -> None:
    """Raise BqError for an answer under a constraint that came to no end, or whose `text` is no JSON, Cancelled for a stopped one."""
    if stop == "cancel":
        raise Cancelled(say("The answer was stopped.", "回答已停止。"))
    if stop == "incomplete":
        raise BqError(
            say("The answer came to no end that the grammar allows.", "回答未能按语法结束。"),
            say(
                "Use a larger --max-tokens or --ctx, or a simpler schema.", "请增大 --max-tokens 或 --ctx，或简化模式。"
            ),
        )
    if text is None:
        return
    try:
        json.loads(text)
    except ValueError as error:
        raise BqError(
            say(f"A defect of bq: the answer is no JSON ({error}).", f"程序缺陷：回答不是 JSON（{error}）。"),
            say("Report it with the schema.", "请连同该模式一并报告。"),
        ) from None
