"""How the app looks: an empty chat, an answered one in Chinese, the single-instruction mode, the help."""

import pytest

from bq.runtime.language import set_language

from .session import Session, make_app

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


@pytest.fixture
def looks_right(snap_compare, fake):
    """Compares the app after some steps; the cursor stands still and no time is shown."""

    def compare(steps, size=(80, 32), **options):
        app = make_app(**options)
        for desk in app.desks.values():
            desk.view.prompt.cursor_blink = False

        async def run_before(pilot):
            session = Session(app, pilot, fake)
            await session.ready()
            await steps(session)
            await pilot.pause()

        return snap_compare(app, run_before=run_before, terminal_size=size)

    return compare


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
