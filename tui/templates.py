"""Instructions that are given again and again: some come with bq, a person's own are kept in templates.json.

A template may fix the form of the answer. Its own file is changed as a whole; one that is damaged is left alone.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bq.runtime.errors import BqError, UsageError
from bq.runtime.language import say
from bq.tui.answer_form import AnswerForm
from bq.tui.chosen_model import home
from bq.tui.settings import changing, read_json

_FILE = "templates.json"
_NAME_CHARACTERS = 40
_INSTRUCTION_CHARACTERS = 20_000

# Short lists of short texts: so the answer comes to an end with a small model too.
_LIST = '{"type": "array", "maxItems": 20, "items": {"type": "string", "minLength": 1, "maxLength": 60}}'
_FACTS = f"""{{"type": "object", "required": ["people", "organisations", "places", "dates"], "properties": {{
 "people": {_LIST},
 "organisations": {_LIST},
 "places": {_LIST},
 "dates": {_LIST}}}}}"""


@dataclass(frozen=True)
class Template:
    """An instruction that the text to work on follows. `form` None: the answer is free."""

    name: str
    instruction: str
    form: AnswerForm | None = None


def templates() -> list[Template]:
    """All of them, the user's own first. Raises BqError if the file of these is damaged; `built_in` still works."""
    own = own_templates()
    names = {one.name for one in own}
    return [*own, *(one for one in built_in() if one.name not in names)]


def built_in() -> list[Template]:
    """Those that come with bq, in the language in use."""
    return [
        Template(
            say("summarise", "总结"),
            say("Summarise the following text in a few sentences.", "请用几句话总结下面的文字。"),
        ),
        Template(
            say("to-chinese", "译成中文"),
            say("Translate the following text into Chinese.", "请把下面的文字翻译成中文。"),
        ),
        Template(
            say("to-english", "译成英文"),
            say("Translate the following text into English.", "请把下面的文字翻译成英文。"),
        ),
        Template(
            say("extract", "提取"),
            say(
                "List the people, organisations, places and dates of the following text as JSON, with the fields people, "
                "organisations, places and dates.",
                "请以 JSON 列出下面文字中的人物、机构、地点和日期，字段为 people、organisations、places、dates。",
            ),
            AnswerForm("json_schema", _FACTS),
        ),
        Template(
            say("correct", "纠错"),
            say(
                "Correct the mistakes of spelling and grammar in the following text. Give the corrected text alone.",
                "请改正下面文字中的错别字和语法错误，只给出改正后的文字。",
            ),
        ),
        Template(
            say("classify", "分类"),
            say(
                "Is the mood of the following text positive, negative or neutral?",
                "下面文字的情绪是正面、负面还是中性？",
            ),
            AnswerForm("choices", say("positive,negative,neutral", "正面,负面,中性")),
        ),
    ]


def own_templates() -> list[Template]:
    """The user's own, in the order in which they were first saved. Raises BqError if their file is damaged."""
    return _templates_in(read_json(_path()))


def save_template(template: Template) -> None:
    """Keep a template, instead of an own one of the same name. Raises UsageError if it makes no sense, BqError if it cannot."""
    _check(template)
    with changing(_path()) as found:
        _templates_in(found)
        found[template.name] = _as_json(template)


def delete_template(name: str) -> None:
    """Raises UsageError if there is no own template of this name."""
    with changing(_path()) as found:
        _templates_in(found)
        if name not in found:
            raise UsageError(
                say(f"There is no template {name} of your own.", f"没有名为 {name} 的自定义模板。"),
                say("Those that come with bq stay.", "内置模板不能删除。"),
            )
        del found[name]


def _path() -> Path:
    return home() / _FILE


def _templates_in(found: dict[str, Any]) -> list[Template]:
    return [_read(name, value) for name, value in found.items()]


def _as_json(template: Template) -> dict[str, Any]:
    form = {"kind": template.form.kind, "text": template.form.text} if template.form else None
    return {"instruction": template.instruction, "form": form}


def _read(name: str, value: object) -> Template:
    """A template as the file has it."""
    try:
        template = _parsed(name, value)
        _check(template)
    except (ValueError, UsageError) as error:
        reason = error.cause if isinstance(error, UsageError) else str(error)
        raise BqError(
            say(f"{_path()}: the template {name!r} is damaged: {reason}", f"{_path()}：模板 {name!r} 已损坏：{reason}"),
            say("It is left as it is: mend it, or move it away.", "文件保持原样：请修正或移走。"),
        ) from None
    return template


def _parsed(name: str, value: object) -> Template:
    instruction, form = (value.get("instruction"), value.get("form")) if isinstance(value, dict) else (None, None)
    if not isinstance(instruction, str):
        raise ValueError(say("it has no instruction.", "没有指令。"))
    if form is None:
        return Template(name, instruction)
    kind, text = (form.get("kind"), form.get("text")) if isinstance(form, dict) else (None, None)
    if kind not in ("choices", "json_schema", "grammar") or not isinstance(text, str):
        raise ValueError(say("its form is none.", "回答形式无效。"))
    return Template(name, instruction, AnswerForm(kind, text))


def _check(template: Template) -> None:
    """Raise UsageError for a template that could not be chosen or used."""
    name, instruction = template.name, template.instruction
    if not name.strip() or not name.isprintable() or len(name) > _NAME_CHARACTERS or any(map(str.isspace, name)):
        raise UsageError(
            say(f"{name!r} cannot be a template's name.", f"{name!r} 不能用作模板名称。"),
            say(
                f"Give up to {_NAME_CHARACTERS} letters without spaces.",
                f"请用至多 {_NAME_CHARACTERS} 个不含空格的字符。",
            ),
        )
    if not instruction.strip() or len(instruction) > _INSTRUCTION_CHARACTERS:
        raise UsageError(
            say("The instruction is empty or far too long.", "指令为空或过长。"),
            say(f"Give up to {_INSTRUCTION_CHARACTERS} characters.", f"请不超过 {_INSTRUCTION_CHARACTERS} 个字符。"),
        )
    if template.form:
        check_form(template.form)


def check_form(form: AnswerForm) -> None:
    """Raise UsageError for a form that no answer could take."""
    from bq.runtime.grammar import parse_grammar
    from bq.runtime.json_schema import parse_schema, schema_to_gbnf
    from bq.tui.commands.structured import split_choices

    if form.kind == "json_schema":
        schema_to_gbnf(parse_schema(form.text))
    elif form.kind == "grammar":
        parse_grammar(form.text)
    elif len(choices := set(split_choices((form.text,)))) < 2 or "" in choices:
        raise UsageError(
            say("At least two choices are needed, none of them empty.", "至少需要两个不同的选项，且不能为空。"),
            say('Separate them by commas: yes,"no, never"', '请用英文逗号分隔：是,"不,绝不"'),
        )
