"""From the start to the first question: progress, stopping, errors and what the file is warned of."""

import pytest
from textual.widgets import ProgressBar

from bq.runtime.errors import BqError
from bq.runtime.language import set_language

from .fake import ModelInfo


async def test_loading_shows_how_far_it_is(start, fake):
    fake.loading.shut()
    async with start(load=False) as s:
        await s.until(lambda: s.shows("Loading baichuan.gguf", "loading 50%"))
        await s.until(lambda: s.app.screen.query_one(ProgressBar).progress == 0.5)
        fake.loading.open()
        await s.ready()
        assert s.shows("ready", "Baichuan2-7B-Chat Q4_K_M")
        assert not s.shows("Loading baichuan.gguf")


async def test_writing_begins_while_the_model_loads_and_sending_waits(start, fake):
    fake.loading.shut()
    async with start(load=False) as s:
        await s.until(lambda: s.shows("loading 50%"))
        await s.press("h", "i", "enter")
        assert s.shows("Waiting to be sent (Esc or Up takes it back): hi")
        assert s.prompt.text == ""
        fake.loading.open()
        await s.until(lambda: s.shows("An answer."))
        assert not s.shows("Waiting to be sent")


async def test_esc_stops_the_loading_and_ctrl_r_loads_again(start, fake):
    fake.loading.shut()
    async with start(load=False) as s:
        await s.until(lambda: s.shows("loading 50%"))
        await s.press("escape")
        await s.until(lambda: s.shows("Loading was stopped.", "not loaded", "Ctrl+R loads again"))
        fake.loading.open()
        await s.press("ctrl+r")
        await s.ready()
        assert s.shows("ready")
        assert not s.shows("Loading was stopped.")
        assert fake.open_models == 1


async def test_a_load_error_is_one_message_with_its_remedy(start, fake):
    fake.load_error = BqError("llama.cpp could not load [/m].gguf.", "Use a smaller mixture.")
    async with start() as s:
        assert s.shows("llama.cpp could not load [/m].gguf.", "Use a smaller mixture.", "Ctrl+Q quits", "not loaded")
        await s.send("text")
        assert s.shows("No model is loaded")
        assert s.prompt.text == "text"
        await s.press("ctrl+q")
        await s.until(lambda: not s.app.is_running)
        assert s.app.return_code == 0


async def test_a_defect_while_loading_is_a_message_too(start, fake):
    fake.load_error = OSError("libllama.so not found")
    async with start() as s:
        assert s.shows("Unexpected error: OSError: libllama.so not found", "--debug")


@pytest.mark.parametrize("mode", ["chat", "instruct"])
async def test_the_files_warnings_are_shown(start, fake, mode):
    fake.warnings = ("NormHead is not folded: answers are [wrong].", "No chat template.")
    async with start(mode=mode, size=(100, 40)) as s:
        assert s.shows("NormHead is not folded: answers are [wrong].", "No chat template.")
        await s.press("ctrl+n")
        assert s.shows("No chat template.")


async def test_a_base_model_goes_on_with_a_text_in_the_single_mode(start, fake):
    fake.info = ModelInfo(name="Baichuan2-7B-Base", variant="base")
    fake.answers = ["upon a time"]
    async with start(mode="instruct", system="ignored") as s:
        await s.ask("Once")
        assert fake.completed == ["Once"]
        assert s.shows("upon a time")


async def test_a_models_name_cannot_control_the_terminal(start, fake):
    fake.info = ModelInfo(name="\x1b]0;owned\x07[red]Name")
    async with start() as s:
        await s.ask("x")
        assert "\x1b" not in s.text()
        assert s.shows("[red]Name")


async def test_the_app_speaks_chinese(start, fake):
    set_language("zh")
    fake.loading.shut()
    async with start(load=False) as s:
        await s.until(lambda: s.shows("正在加载 baichuan.gguf", "加载中 50%", "停止"))
        fake.loading.open()
        await s.ready()
        assert s.shows("就绪", "消息", "请提问", "帮助", "退出", "模式")


async def test_what_loading_took_is_told_beside_what_was_predicted(start):
    async with start() as s:
        assert s.shows("Memory: predicted 4.62 GiB, used 4.60 GiB (-0.6 %)")
        await s.press("f2")
        assert not s.shows("Memory:"), "once is enough"


async def test_loading_shows_what_it_will_take(start, fake):
    fake.plan = some_plan()
    fake.loading.shut()
    async with start(load=False) as s:
        await s.until(lambda: s.shows("Memory: CPU", "of 16.0 GiB free", "context 1024", "KV f16"))
        fake.loading.open()
        await s.ready()
        assert not s.shows("Memory: CPU")


def some_plan():
    from bq.runtime.cpu import Cores
    from bq.runtime.fit import LoadOptions, Machine, plans
    from bq.runtime.host import Memory
    from bq.runtime.memory import Shape

    shape = Shape(256, 768, 4000, 1024, 1 << 20, 1 << 20, (1 << 20,) * 32, 1.0)
    return plans(shape, Machine((), Memory(32 << 30, 16 << 30), Cores(8, 4)), LoadOptions())[0]
