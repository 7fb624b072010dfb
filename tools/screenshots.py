"""Makes the pictures of the READMEs: the app with the demo model, in each mode and both languages.

    make screenshots

or `.venv/bin/python tools/screenshots.py [MODEL.gguf]`; without a model the demo checkpoint is converted first. It ends with
status 1 and a line if the model cannot be loaded or an answer fails; the pictures that are there stay as they are.
"""

import asyncio
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from textual.widgets import OptionList

from bq.convert.convert import convert, demo_checkpoint, prepare
from bq.runtime.errors import BqError
from bq.runtime.language import set_language
from bq.runtime.values import LoadOptions, Sampling
from bq.tui import app_dialogs
from bq.tui.app import ChatApp
from bq.tui.dialogs.models import ModelsScreen
from bq.tui.engine import Job
from bq.tui.opening import Opening
from bq.tui.settings import Settings
from bq.tui.templates import templates
from bq.tui.widgets.complete_page import CompletePage

SCREENS = Path(__file__).resolve().parent.parent / "docs" / "screens"
SIZE = (100, 28)
PATIENCE_SECONDS, LOOK_SECONDS = 120.0, 0.05
GREEDY = Sampling(temperature=0, repeat_penalty=1.05)
TEXTS = {
    "en": {
        "questions": ["What is Q4_K_M?", "Which mixture should I choose?"],
        "draft": "Does it run offline?",
        "input": "bq converts a Baichuan checkpoint and runs it on a laptop, offline. I like it.",
        "beginning": "The NormHead of Baichuan 2",
    },
    "zh": {
        "questions": ["Q4_K_M 是什么？", "我该选哪种量化？"],
        "draft": "可以离线使用吗？",
        "input": "bq 把 Baichuan 检查点转换后在笔记本上离线运行，我很喜欢。",
        "beginning": "Baichuan 2 的 NormHead",
    },
}

Steps = Callable[[ChatApp, dict[str, list[str] | str]], Awaitable[None]]


async def chat(app: ChatApp, texts: dict[str, list[str] | str]) -> None:
    """Two rounds, and a draft that is being counted."""
    for question in texts["questions"]:
        await send(app, question)
    desk = app.desks["chat"]
    desk.view.prompt.write(str(texts["draft"]))


async def instruct(app: ChatApp, texts: dict[str, list[str] | str]) -> None:
    """A template with a fixed form of the answer."""
    classify = next(one for one in templates() if one.form and one.form.kind == "choices")
    await app_dialogs.use_template(app, classify, str(texts["input"]))
    await answered(app, lambda: app.desks["instruct"].view.prompt.action_send())


async def complete(app: ChatApp, texts: dict[str, list[str] | str]) -> None:
    """A text that went on, and what else might have come."""
    await app.show_mode("complete")
    page = app.desks["complete"].page
    assert isinstance(page, CompletePage)
    page.view.editor.insert(str(texts["beginning"]))
    await answered(app, page.view.action_go_on)
    for _ in range(4):
        page.view.action_jump(False)


async def conversations(app: ChatApp, texts: dict[str, list[str] | str]) -> None:
    """The list of what was said, above a chat."""
    for question in texts["questions"]:
        await app.action_new()
        await send(app, question)
    app.action_conversations()


async def models(app: ChatApp, texts: dict[str, list[str] | str]) -> None:
    """The model picker, when it has looked at the file."""
    app.action_models()
    await until(
        lambda: (
            isinstance(app.screen, ModelsScreen) and "GiB" in str(app.screen.query_one(OptionList).options[0].prompt)
        )
    )


SHOTS: dict[str, Steps] = {
    "chat": chat,
    "instruct": instruct,
    "complete": complete,
    "conversations": conversations,
    "models": models,
}


async def send(app: ChatApp, text: str) -> None:
    prompt = app.desks["chat"].view.prompt
    prompt.write(text)
    await answered(app, prompt.action_send)


async def answered(app: ChatApp, act: Callable[[], None]) -> None:
    """Do something that brings an answer, and wait for its end. Raises BqError if that is one."""
    before = app.engine.job
    act()
    await until(lambda: app.engine.job is not before)
    await ended(app.engine.job)


async def ended(job: Job | None) -> None:
    """Raises BqError if the job fails."""
    await until(lambda: job is not None and job.settled)
    if job is not None and job.error is not None:
        raise job.error


async def until(condition: Callable[[], bool]) -> None:
    """Raises BqError if it takes too long."""
    for _ in range(round(PATIENCE_SECONDS / LOOK_SECONDS)):
        if condition():
            return
        await asyncio.sleep(LOOK_SECONDS)
    raise BqError("The picture did not come.", f"It was waited for {PATIENCE_SECONDS:g} seconds.")


async def shoot(name: str, language: str, model: Path) -> None:
    """One picture, in the dark theme that is the default."""
    set_language(language)
    set_by_user = Settings(language=language)
    app = ChatApp(
        Opening(model, LoadOptions(ctx=1024), mode="chat", sampling=GREEDY, max_tokens=120, settings=set_by_user)
    )
    async with app.run_test(size=SIZE) as pilot:
        await until(lambda: app.engine.job is not None)
        await ended(app.engine.job)
        await SHOTS[name](app, TEXTS[language])
        await asyncio.sleep(1.0)
        await pilot.pause()
        SCREENS.mkdir(parents=True, exist_ok=True)
        path = SCREENS / f"{name}-{language}.svg"
        path.write_text(app.export_screenshot(title="bq chat"), encoding="utf-8")
        print(path.relative_to(SCREENS.parent.parent))


def main() -> int:
    """All of them; returns the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            model = Path(sys.argv[1]) if len(sys.argv) > 1 else converted(Path(folder))
            for language in TEXTS:
                for name in SHOTS:
                    os.environ["BQ_HOME"] = str(Path(folder) / f"{name}-{language}")
                    asyncio.run(shoot(name, language, model))
        except BqError as error:
            print(f"screenshots: {error}", file=sys.stderr)
            return 1
    return 0


def converted(folder: Path) -> Path:
    """The demo checkpoint as a model."""
    model = folder / "bq-demo-Q4_K_M.gguf"
    convert(prepare(demo_checkpoint(), "Q4_K_M", name="bq-demo"), model, threads=2)
    return model


if __name__ == "__main__":
    sys.exit(main())
