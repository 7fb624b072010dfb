"""What the app remarks stands where it belongs: with its conversation, with its model, and as it is."""

from pathlib import Path

from bq.tui.store import Store
from bq.tui.widgets.compare import Column
from bq.tui.widgets.line import Notice

from .fake import ModelInfo
from .test_app_conversations import store_conversations, talk


def notices(session):
    return session.app.desk.page.notices.query_children(Notice)


async def test_remarks_on_a_conversation_go_with_it(start):
    async with start() as s:
        for leave in ("ctrl+n", "open"):
            await s.send("/params")
            await s.until(lambda: s.shows("repeat-penalty"))
            if leave == "open":
                store_conversations(talk("other", "answer"))
                await s.send("/open 1")
                await s.until(lambda: s.shows("other"))
            else:
                await s.press(leave)
            await s.until(lambda: not s.shows("repeat-penalty"))


async def test_the_context_is_told_without_zeros(start, fake):
    async with start() as s:
        await s.ask("x")
        await s.send("/context")
        await s.until(lambda: s.shows("tokens before the answer."))
        assert not s.shows("no room")
        assert not s.shows("pinned")
        await s.send("/pin")
        await s.send("/context")
        await s.until(lambda: s.shows("tokens before the answer; 1 pinned."))


async def test_f2_leads_a_base_file_from_chat_to_the_text_mode_as_it_says(start, fake):
    fake.info = ModelInfo(variant="base")
    async with start(mode="chat") as s:
        assert s.shows("F2 goes to the text mode")
        modes = []
        for _ in range(3):
            await s.press("f2")
            modes.append(s.app.desk_mode)
        assert modes == ["complete", "instruct", "chat"]


async def test_another_model_is_told_and_has_no_figures_of_the_one_before(start, fake):
    fake.context_used = 77
    async with start() as s:
        await s.ask("x")
        assert s.shows("ctx 77", "12.5 tok/s  ctx")
        fake.info = ModelInfo(name="Other-13B")
        s.app.load(Path("/models/other.gguf"))
        await s.ready()
        await s.until(lambda: s.shows("From here on: Other-13B", "ctx 0"))
        assert not s.shows("tok/s  ctx")
        s.app.load(Path("/models/other.gguf"))
        await s.ready()
        assert s.text().count("From here on") == 1, "the same model again is no change"


async def test_what_was_thought_is_not_copied(start, fake):
    fake.answers = ["<think>well</think>\n\nthe answer"]
    async with start() as s:
        await s.ask("x")
        for way in ("ctrl+o", "/copy", "c"):
            s.app.copy_to_clipboard("")
            if way == "/copy":
                await s.send(way)
            else:
                await s.press(*(["ctrl+up"] if way == "c" else []), way)
            await s.until(lambda: s.app.clipboard == "the answer")
        assert s.app.desk.conversation.path()[1].content.startswith("<think>"), "it is kept"


async def test_a_file_stands_in_the_box_as_a_note_and_is_sent_whole(start, fake, tmp_path):
    text = "\n".join(f"line {number}" for number in range(50))
    (tmp_path / "long.txt").write_text(text)
    async with start() as s:
        await s.press("f6")
        await s.until(lambda: s.shows("File with the input"))
        await s.press(*str(tmp_path / "long.txt"), "enter")
        await s.until(lambda: s.prompt.text.startswith("["))
        assert "50 lines]" in s.prompt.text
        await s.press("enter")
        await s.ready()
        assert fake.asked[-1][-1].content == text
        with_draft = Store.open()
        assert with_draft.questions() == [text]
        with_draft.close()


async def test_versions_stand_side_by_side_on_a_hundred_columns(start, fake):
    fake.answers = ["first answer", "second answer"]
    async with start(size=(100, 30)) as s:
        await s.ask("x")
        await s.press("ctrl+r")
        await s.ready()
        await s.press("ctrl+up", "v")
        await s.until(lambda: s.shows("Version 1", "Version 2"))
        left, right = s.app.screen.query(Column)
        assert (left.region.y, left.region.x < right.region.x) == (right.region.y, True)
