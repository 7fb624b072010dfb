"""How the app looks: each mode and dialog, in English or Chinese, wide or narrow."""

import pytest

from bq.runtime.language import set_language
from bq.tui.engine import Candidate

from .fake import ModelInfo

ANSWER = """\
量化把每个权重压缩成更少的比特。常用的几种：

| 混合 | 大小 (GiB) | 质量 |
|---|---:|---|
| Q8_0 | 7.43 | 几乎与原始一致 |
| Q4_K_M | 4.29 | **默认**，最均衡 |

转换命令：

```shell
bq convert Baichuan2-7B-Chat -q Q4_K_M
```

1. 先下载
2. 再转换
"""


async def nothing(session):
    pass


def test_an_empty_chat(looks_right):
    assert looks_right(nothing)


def test_an_answered_chat_in_chinese(looks_right, fake):
    set_language("zh")
    fake.answers = [ANSWER]
    fake.context_used = 2300

    async def steps(session):
        await session.ask("Q4_K_M 是什么？\n和 Q8_0 比怎么样？")

    assert looks_right(steps, size=(80, 44))


@pytest.mark.parametrize("width", [60, 120])
def test_the_single_instruction_mode(looks_right, fake, width):
    fake.answers = ["- **7B**: 4.29 GiB\n- **13B**: 8.38 GiB\n"]

    async def steps(session):
        session.app.desk.view.material.load_text("The 7B file has 4.29 GiB,\nthe 13B file 8.38 GiB.")
        await session.ask("Make a list of the sizes")

    assert looks_right(steps, mode="instruct", size=(width, 26))


def test_the_help_in_chinese(looks_right):
    set_language("zh")

    async def steps(session):
        await session.press("f1")

    assert looks_right(steps)


def test_a_load_error(looks_right, fake):
    from bq.runtime.errors import BqError

    fake.load_error = BqError("llama.cpp could not load m.gguf.", "Use a smaller mixture or a smaller --ctx.")
    assert looks_right(nothing, size=(70, 20))


@pytest.mark.parametrize(("width", "language"), [(60, "zh"), (110, "en")])
def test_the_text_mode(looks_right, fake, width, language):
    set_language(language)
    fake.answers = [" upon a time 从前"]

    async def steps(session):
        await session.press(*"Once", "ctrl+g")
        await session.ready()
        await session.press("alt+left")

    assert looks_right(steps, mode="complete", size=(width, 20))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_rounds_that_will_not_be_sent_are_dimmed_and_versions_are_numbered(looks_right, fake, language):
    set_language(language)
    fake.info = ModelInfo(context=256)

    async def steps(session):
        for question in ("first question, of some length", "second question, of some length"):
            await session.ask(question)
        await session.press("ctrl+r")
        await session.ready()
        await session.press(*"a third")
        await session.until(lambda: session.app.desk.unsent is not None)

    assert looks_right(steps, size=(80, 28))


def test_a_message_and_its_menu(looks_right, fake):
    fake.answers = ["```sh\nls\n```\n"]

    async def steps(session):
        await session.ask("How do I list files?")
        await session.press("ctrl+up", "enter")
        await session.until(lambda: len(session.app.screen_stack) == 2)

    assert looks_right(steps, size=(70, 24))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_settings(looks_right, language, monkeypatch):
    set_language(language)
    monkeypatch.setattr("bq.tui.dialogs.settings.settings_path", lambda: "/home/me/settings.json")

    async def steps(session):
        await session.press("f5")
        await session.until(lambda: len(session.app.screen_stack) == 2)
        session.app.screen.set_focus(None)

    assert looks_right(steps, size=(90, 40))


def test_the_model_picker(looks_right, fake, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    too_large = {"name": "Baichuan2-13B-Chat", "fits": False, "estimate_bytes": 20 << 30, "free_bytes": 8 << 30}
    known = {
        "mixture": "Q8_0",
        "variant": "chat",
        "size_bytes": 14_766_428_160,
        "plan": "",
        "layers": 41,
        "context": 4096,
    }
    fake.candidates = {tmp_path / "b.gguf": Candidate(tmp_path / "b.gguf", **known, **too_large)}

    async def steps(session):
        await session.press("f4")
        await session.until(lambda: session.shows("does not fit"))

    assert looks_right(steps, size=(80, 24))


def test_the_conversations_in_chinese(looks_right, monkeypatch):
    set_language("zh")
    monkeypatch.setattr("bq.tui.dialogs.conversations.when", lambda moment: "12:00     ")

    async def steps(session):
        await session.ask("量化是什么？")
        await session.press("f3")
        await session.until(lambda: session.shows("12:00"))
        session.app.screen.query_one("Input").cursor_blink = False

    assert looks_right(steps, size=(80, 24))


def test_a_narrow_chat(looks_right, fake):
    fake.answers = ["A line that is longer than sixty columns are, so that it has to be broken."]

    async def steps(session):
        await session.ask("A question that is longer than sixty columns are, too")
        await session.press("/", "p")

    assert looks_right(steps, size=(60, 20))
