"""What can be done with a message that stands on the screen: copied, edited, forked, pinned, shown in another version."""

from typing import TYPE_CHECKING

from bq.runtime.language import say
from bq.tui import app_answers, app_kept
from bq.tui.conversation import Conversation, Node
from bq.tui.desk import Desk
from bq.tui.thinking import spoken
from bq.tui.widgets.message import Answer, Said, Wish

if TYPE_CHECKING:
    from bq.tui.app import ChatApp


async def fulfil(app: "ChatApp", desk: Desk, said: Said, wish: Wish) -> None:
    """Do it. What would change the path waits until no answer is being written."""
    if wish == "copy":
        app.copy_text(spoken(said.node.content))
    elif wish == "code":
        _copy_code(app, said)
    elif wish == "fold":
        if isinstance(said, Answer):
            said.toggle_thinking()
    elif wish == "menu":
        app.open_dialog(lambda _: _menu(app, desk, said))
    elif wish == "edit":
        app.open_dialog(lambda _: _edit(app, desk, said))
    elif wish == "side":
        app.open_dialog(lambda _: _side_by_side(app, desk.conversation, said.node))
    elif not (app.engine.busy and app.refuse()):
        await _change(app, desk, said.node, wish)


async def _change(app: "ChatApp", desk: Desk, node: Node, wish: Wish) -> None:
    talk = desk.conversation
    if wish == "pin":
        await pin(app, desk, node)
    elif wish == "fork":
        await fork(app, desk, node)
    elif wish in ("before", "after"):
        versions = talk.versions(node.id)
        at = [one.id for one in versions].index(node.id) + (1 if wish == "after" else -1)
        if 0 <= at < len(versions):
            talk.show(versions[at].id)
            app.keep(desk)
            await app.show_path(desk)
            app.count_unsent()
            _focus(app, versions[at].id)


async def pin(app: "ChatApp", desk: Desk, node: Node) -> None:
    """Keep a message's round in the context from now on, or no longer."""
    question = _question_of(desk.conversation, node)
    if question is None:
        return
    question.pinned = not question.pinned
    app.keep(desk, [question])
    await app.show_path(desk)
    app.count_unsent()
    app.hint(
        (lambda: say("Pinned: this round stays in the context.", "已固定：这一轮会留在上下文中。"))
        if question.pinned
        else (lambda: say("No longer pinned.", "已取消固定。"))
    )


async def fork(app: "ChatApp", desk: Desk, node: Node) -> None:
    """Go on from a message in a new conversation; this one stays as it is."""
    made = desk.conversation.fork(node.id)
    app.keeper.keep(made, made.nodes.values())
    await app_kept.show_conversation(app, made)
    app.hint(lambda: say("A new conversation from here; the old one is kept.", "已从此处另开对话，原对话保留。"))


def _copy_code(app: "ChatApp", said: Said) -> None:
    """The blocks one after the other, each time the next."""
    codes = said.codes() if isinstance(said, Answer) else []
    if not codes:
        app.hint(lambda: say("There is no block of code in it.", "其中没有代码块。"))
        return
    number = said.next_code(len(codes)) if isinstance(said, Answer) else 0
    app.copy_to_clipboard(codes[number])
    app.hint(
        lambda: say(
            f"Copied block {number + 1} of {len(codes)}: {len(codes[number])} characters.",
            f"已复制第 {number + 1}/{len(codes)} 个代码块：{len(codes[number])} 个字符。",
        )
    )


async def _menu(app: "ChatApp", desk: Desk, said: Said) -> None:
    from bq.tui.dialogs.small import Choice

    chosen = await app.push_screen_wait(Choice(lambda: say("This message", "这条消息"), _offers(desk, said)))
    if chosen == "again":
        if not app.refuse():
            question = _question_of(desk.conversation, said.node)
            if question is not None:
                desk.conversation.head = question.id  # what came after it stays in the tree
                app_answers.answer(app, desk)
    elif chosen is not None:
        said.action_wish(chosen)  # type: ignore[arg-type]  # one of the names below


def _offers(desk: Desk, said: Said) -> list[tuple[str, str]]:
    """What makes sense for this message."""
    talk, is_answer = desk.conversation, isinstance(said, Answer)
    question = said.node if not is_answer else talk.nodes.get(said.node.parent or "")
    is_pinned = question is not None and question.pinned
    offers = [("copy", say("Copy", "复制"))]
    if isinstance(said, Answer) and (count := len(said.codes())):
        offers.append(("code", say(f"Copy a block of code ({count})", f"复制代码块（{count}）")))
    if not is_answer:
        offers.append(("edit", say("Edit and ask again", "修改后重新提问")))
    offers += [
        ("again", say("Answer again", "重新回答")),
        ("fork", say("Fork: go on from here in a new conversation", "分支：从此处另开对话")),
        ("pin", say("Unpin the round", "取消固定这一轮") if is_pinned else say("Pin the round", "固定这一轮")),
    ]
    if said.standing.versions > 1:
        offers += [
            ("before", say("Version before", "上一个版本")),
            ("after", say("Version after", "下一个版本")),
            ("side", say("Versions side by side", "并排比较版本")),
        ]
    return offers


def _question_of(talk: Conversation, node: Node) -> Node | None:
    """The question of a message's round; None for an answer that follows none, as in a file from elsewhere."""
    return node if node.role == "user" else talk.nodes.get(node.parent or "")


async def _edit(app: "ChatApp", desk: Desk, said: Said) -> None:
    from bq.tui.dialogs.small import Editor

    node = _question_of(desk.conversation, said.node)
    if node is None or app.refuse():
        return
    text = await app.push_screen_wait(
        Editor(lambda: say("Ask in other words; the old question is kept", "修改问题；旧问题会保留"), node.content)
    )
    if text and text.strip():
        await edit(app, desk, node, text.strip())


async def edit(app: "ChatApp", desk: Desk, node: Node, text: str) -> None:
    """Ask a question in other words, beside the old one."""
    if app.refuse():
        desk.view.show_draft(text)
        return
    app_answers.answer(app, desk, [desk.conversation.edit(node.id, text)])


async def _side_by_side(app: "ChatApp", talk: Conversation, node: Node) -> None:
    """This version of a message and the one before it (or after the first), with their difference."""
    from bq.tui.dialogs.compare import VersionsScreen

    versions = talk.versions(node.id)
    if len(versions) < 2:
        app.hint(lambda: say("There is one version only.", "只有一个版本。"))
        return
    at = max(1, [one.id for one in versions].index(node.id))
    await app.push_screen_wait(VersionsScreen(versions[at - 1], versions[at], (at, at + 1)))


def _focus(app: "ChatApp", id: str) -> None:
    """Back to the message, which another widget shows now."""
    for said in app.desk.page.query(Said):
        if said.node.id == id:
            said.focus()
