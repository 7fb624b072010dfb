"""Models in the line mode: which there are, another one for the talk, and one that answers the same question beside it."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bq.runtime.errors import BqError, Cancelled
from bq.runtime.language import say
from bq.tui.engine import Answering, Loading, Question
from bq.tui.model_lines import model_lines
from bq.tui.model_paths import model_path, model_paths
from bq.tui.plain_input import tell
from bq.tui.slash import Command
from bq.tui.voice import Voice

if TYPE_CHECKING:
    from bq.tui.plain import PlainChat

_SEED = 1  # the same for both, where none was chosen


def model(chat: "PlainChat", command: Command) -> None:
    """Show the models, or load another one."""
    from bq.tui.chosen_model import remember_model

    if not command.argument:
        _show(chat)
        return
    path = model_path(command.argument, chat.path)
    chat.load(path)
    if chat.engine.model is not None:
        remember_model(path)


def _show(chat: "PlainChat") -> None:
    """The lines of the app's picker."""
    paths = model_paths(chat.path)
    if not paths:
        tell(say("No model is known yet: /model FILE loads one.", "还没有已知的模型：/model 文件 加载一个。"))
        return
    found = {one.path: one for one in chat.engine.examine(paths)}
    is_loaded = chat.engine.model is not None
    for number, path in enumerate(paths, 1):
        is_current = is_loaded and path.resolve() == chat.path.resolve()
        lines = ["".join(text for text, _ in parts) for parts in model_lines(number, path, found.get(path), is_current)]
        lines[0] += say("  (loaded)", "  （当前）") if is_current else ""
        lines[1:1] = [f"     {path}"]
        tell("\n".join(lines))


def compare(chat: "PlainChat", command: Command) -> None:
    """Have the model in use and another one answer the last question, and say what they have in common."""
    if chat.conversation.current is None:
        raise BqError(say("Nothing was asked yet.", "还没有提问。"))
    if not command.argument:
        raise BqError(
            say("The other model is missing.", "缺少另一个模型。"),
            say(
                "Write: /compare NUMBER, or a FILE; /model shows the numbers.",
                "写法：/compare 编号或文件；/model 列出编号。",
            ),
        )
    first, other = chat.path, model_path(command.argument, chat.path)
    question = _question(chat)
    try:
        left = _answer(chat, question)
        _load(chat, other)
        right = _answer(chat, question)
    finally:
        if chat.engine.model is None or chat.engine.model.path != first:
            _load(chat, first)
    _tell_common(left, right)


def _question(chat: "PlainChat") -> Question:
    """The last question of the talk, with what was said before it, to be drawn alike."""
    sampling = chat.sampling() or (chat.engine.model.info.sampling if chat.engine.model else None)
    if sampling is not None and sampling.seed is None:
        sampling = replace(sampling, seed=_SEED)
    return replace(chat.question(), messages=chat.conversation.messages_again(), sampling=sampling)


def _load(chat: "PlainChat", path: Path) -> None:
    tell(say(f"Loading {path.name} …", f"正在加载 {path.name} ……"))
    loading = Loading(path)
    chat.work(loading)
    if loading.error is not None:
        raise loading.error


def _answer(chat: "PlainChat", question: Question) -> str:
    """One model's answer, on stdout; before it its name, behind it what it took, beside."""
    used = chat.engine.model
    if used is None:
        raise BqError(say("No model is loaded.", "尚未加载模型。"))
    tell(f"--- {used.info.name} {used.info.mixture}")
    job, voice, text = Answering(question), Voice(), []

    def look() -> None:
        text.append(job.take())
        voice.add(text[-1])

    try:
        chat.work(job, look)
    finally:
        look()
        voice.end()
    if job.error is not None:
        raise job.error
    if job.stats is not None:
        speed, tokens = job.stats.tokens_per_second, job.stats.tokens
        tell(say(f"({tokens} tokens, {speed:.1f} tok/s)", f"（{tokens} 词元，{speed:.1f} 词元/秒）"))
    if job.stop == "cancel":
        raise Cancelled(say("The answer was stopped.", "回答已停止。"))
    return "".join(text)


def _tell_common(left: str, right: str) -> None:
    from bq.tui.differences import differences, share_in_common

    share = 100 * share_in_common(differences(left, right))
    tell(
        say("The two answers are the same.", "两个回答完全相同。")
        if left == right
        else say(f"{share:.1f} % of the two answers is the same.", f"两个回答有 {share:.1f} % 相同。")
    )
