"""What each dialog of the app is opened with, and what follows from what was chosen in it. Imported with the first one."""

from pathlib import Path
from typing import TYPE_CHECKING

from textual.binding import Binding

from bq.runtime.errors import BqError, UsageError
from bq.runtime.language import say
from bq.runtime.prompt import Message
from bq.tui import app_kept, app_sampling
from bq.tui.answer_form import AnswerForm
from bq.tui.conversation import Conversation
from bq.tui.desk import Desk
from bq.tui.dialogs.conversations import ConversationsScreen
from bq.tui.dialogs.finder import Finder
from bq.tui.dialogs.models import ModelsScreen
from bq.tui.dialogs.settings import Chosen, SettingsScreen, apply_language
from bq.tui.dialogs.small import Choice, Editor, Entry
from bq.tui.harmless import clean
from bq.tui.keys import texts
from bq.tui.model_paths import model_paths
from bq.tui.templates import Template, check_form, delete_template, own_templates, save_template
from bq.tui.templates import templates as all_templates
from bq.tui.user_files import is_there, path_named, write_text
from bq.tui.widgets.instruct_view import InstructView

if TYPE_CHECKING:
    from bq.tui.app import ChatApp

_KEEP, _DROP = "\0keep", "\0drop"  # no template has such a name


async def conversations(app: "ChatApp", search: str = "") -> None:
    """Find a conversation and open it."""
    app_kept.keep_drafts(app)
    current = app.desk.conversation.id
    screen = ConversationsScreen(app.keeper, current, lambda id: _leave(app, id), app.deletions, search)
    id = await app.push_screen_wait(screen)
    if id is not None and id != app.desk.conversation.id and not (app.engine.busy and app.refuse()):
        await app_kept.open_conversation(app, id)


async def _leave(app: "ChatApp", id: str) -> bool:
    """Take a conversation off the screen that is to be deleted; False while an answer is being written in it."""
    desk = next((one for one in app.desks.values() if one.conversation.id == id), None)
    if desk is not None and desk.job is not None and not desk.job.settled:
        return False
    if desk is not None:
        await app_kept.renew(app, desk)
        app.show_status()
    return True


async def palette(app: "ChatApp") -> None:
    """Everything that can be done, by its name."""
    bindings = [one for one in app.BINDINGS if isinstance(one, Binding) and one.id and one.id != "chat.palette"]
    named = [(one.action, texts()[one.id or ""]) for one in bindings]
    more = [("compare", say("Compare two models", "对比两个模型")), ("change_theme", say("Colour theme", "颜色主题"))]
    action = await app.push_screen_wait(Finder(lambda: say("Commands", "命令"), [*named, *more]))
    if action is not None:
        app.call_later(app.run_action, action)  # it may open a dialog of its own: after this one


async def theme(app: "ChatApp") -> None:
    """Choose the colours, which are kept."""
    names = sorted(app.available_themes)
    name = await app.push_screen_wait(Finder(lambda: say("Colour theme", "颜色主题"), [(one, one) for one in names]))
    if name is not None:
        app.theme = name
        app_kept.change_settings(app, theme=name)


async def models(app: "ChatApp") -> None:
    """Choose a model; the conversation stays."""
    if app.engine.busy and app.refuse():
        return
    path = await app.push_screen_wait(
        ModelsScreen(app.engine, model_paths(app.path), app.path, lambda: say("Models", "模型"))
    )
    if path is not None:
        app.load(path)


async def settings(app: "ChatApp") -> None:
    """Change settings, which are kept, and this conversation's system prompt."""
    desk, defaults, themes = app.desk, app_sampling.default_sampling(app), sorted(app.available_themes)
    chosen = await app.push_screen_wait(
        SettingsScreen(app.settings, app.parameters, defaults, desk.conversation.system, app.keeper, themes, app.thinks)
    )
    if chosen is not None:
        take_settings(app, desk, chosen)


def take_settings(app: "ChatApp", desk: Desk, chosen: Chosen) -> None:
    """Use what was chosen from now on, and keep what was changed. Raises BqError if it cannot be kept."""
    before, after = app.parameters.parameters, chosen.settings.parameters
    changes = {name: after.get(name) for name in {*before, *after} if before.get(name) != after.get(name)}
    app.parameters = app.parameters.with_parameters(changes)
    if "max_tokens" in changes:
        app.given_max_tokens = None
    if chosen.system != desk.conversation.system:
        desk.conversation.system = chosen.system
        app.keep(desk)
    changed = {
        name: getattr(chosen.settings, name)
        for name in ("theme", "language", "think")
        if getattr(chosen.settings, name) != getattr(app.settings, name)
    }
    if "theme" in changed:
        app.theme = chosen.settings.theme
    if "language" in changed:
        apply_language(chosen.settings)
        app.speak()
    if "think" in changed:
        app.given_think = None
    app_kept.change_settings(app, changes, **changed)
    app.count_unsent()


async def templates(app: "ChatApp") -> None:
    """Take an instruction from the templates, or keep the one that is written as one."""
    found = all_templates()
    options = [(one.name, f"{one.name}: {one.instruction}") for one in found]
    keep = (_KEEP, say("Keep this instruction as a template…", "把当前指令存为模板……"))
    own = [one.name for one in own_templates()]
    drop = [(_DROP, say("Delete one of your own…", "删除自己的模板……"))] if own else []
    name = await app.push_screen_wait(Choice(lambda: say("Templates", "模板"), [*options, keep, *drop]))
    if name == _KEEP:
        await _keep_template(app)
    elif name == _DROP:
        await _drop_template(app, own)
    elif name is not None:
        await use_template(app, next(one for one in found if one.name == name))


async def use_template(app: "ChatApp", template: Template, material: str = "") -> None:
    """Put a template's instruction and form into the single-instruction mode."""
    await app.show_mode("instruct")
    view = _instruct(app)
    view.prompt.write(template.instruction)
    view.form = template.form
    if material:
        view.material.write(material)
    view.material.focus()


async def _drop_template(app: "ChatApp", names: list[str]) -> None:
    title = say("Delete which template?", "删除哪个模板？")
    name = await app.push_screen_wait(Choice(title, [(one, one) for one in names]))
    if name is not None:
        delete_template(name)
        app.hint(lambda: say(f"Deleted: {name}", f"已删除：{name}"))


async def _keep_template(app: "ChatApp") -> None:
    await app.show_mode("instruct")
    view = _instruct(app)
    instruction = clean(view.prompt.full_text).strip()
    if not instruction:
        app.hint(lambda: say("Write an instruction first.", "请先写下指令。"))
        return
    name = await app.push_screen_wait(Entry(lambda: say("Name of the template", "模板名称")))
    if name:
        save_template(Template(name, instruction, view.form))
        app.hint(lambda: say(f"Kept as {name}.", f"已存为 {name}。"))


async def form(app: "ChatApp") -> None:
    """Say what an answer has to look like."""
    kinds = [
        ("none", say("free text", "自由文本")),
        ("choices", say("one of several choices", "从若干选项中选一个")),
        ("json_schema", say("JSON by a schema", "符合模式的 JSON")),
        ("grammar", say("by a grammar (GBNF)", "符合语法（GBNF）")),
    ]
    await app.show_mode("instruct")
    view = _instruct(app)
    kind = await app.push_screen_wait(Choice(lambda: say("Output", "输出格式"), kinds))
    if kind == "none":
        view.form = None
    elif kind is not None:
        await _write_form(app, view, kind)


async def _write_form(app: "ChatApp", view: InstructView, kind: str) -> None:
    text = view.form.text if view.form and view.form.kind == kind else ""
    titles = {
        "choices": lambda: say("The choices, with commas between them", "选项，以逗号分隔"),
        "json_schema": lambda: say("The JSON schema", "JSON 模式"),
        "grammar": lambda: say("The grammar", "语法"),
    }
    made = await app.push_screen_wait(Editor(titles[kind], text, lambda text: _wrong_form(kind, text)))
    if made is not None:
        view.form = _form(kind, made)


def _form(kind: str, text: str) -> AnswerForm:
    return AnswerForm(kind, text.strip())  # type: ignore[arg-type]  # one of the three


def _wrong_form(kind: str, text: str) -> str:
    try:
        check_form(_form(kind, text))
    except UsageError as error:
        return str(error)
    return ""


async def input_file(app: "ChatApp") -> None:
    """Take the text to work on from a file."""
    name = await app.push_screen_wait(Entry(lambda: say("File with the input", "输入文件")))
    if name:
        from bq.tui.commands.structured import read_text

        text = clean(read_text(name))
        if app.desk_mode == "instruct":
            _instruct(app).material.write(text)
        else:
            app.desk.page.insert_text(text)


async def save_result(app: "ChatApp") -> None:
    """Write the last answer to a file."""
    answer = app.desk.conversation.last_answer
    if not answer:
        app.hint(lambda: say("There is no answer yet.", "还没有回答。"))
        return
    name = await app.push_screen_wait(Entry(lambda: say("Save the answer as", "把回答存为"), "answer.md", _taken))
    if name:
        write_text(path_named(name), answer + "\n")
        app.hint(lambda: say(f"Saved: {name}", f"已保存：{name}"))


def _taken(name: str) -> str:
    try:
        return say(f"{name} exists already.", f"{name} 已存在。") if name and is_there(path_named(name)) else ""
    except BqError as error:
        return str(error)


async def compare(app: "ChatApp", path: Path | None = None) -> None:
    """Have another model answer the same question, side by side with this one."""
    from bq.tui.dialogs.compare import CompareScreen

    if app.refuse():
        return
    talk = app.desks["chat"].conversation
    question = clean(app.desks["chat"].view.question()) or (talk.current.question.content if talk.current else "")
    if not question:
        app.hint(lambda: say("Write a question first, or ask one.", "请先写下或提出一个问题。"))
        return
    title = lambda: say("The other model", "另一个模型")  # noqa: E731
    other = path or await app.push_screen_wait(ModelsScreen(app.engine, model_paths(app.path), app.path, title))
    if other is not None:
        await app.push_screen_wait(CompareScreen(app, _asking(talk, question), other))


def _asking(talk: Conversation, question: str) -> tuple[Message, ...]:
    """What a model reads to answer this question, which may be the last one that was asked."""
    rounds = talk.transcript()
    last = talk.current
    was_asked = last is not None and last.is_sent and last.question.content == question
    before = rounds[:-2] if was_asked else rounds
    return (*before, Message("user", question))


def _instruct(app: "ChatApp") -> InstructView:
    page = app.desks["instruct"].page
    assert isinstance(page, InstructView)
    return page
