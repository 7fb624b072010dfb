"""Two answers side by side: each streams into its column, in the end what differs is marked, and text is only text."""

import pytest
from rich.segment import Segment
from textual.app import App, ComposeResult
from textual.containers import VerticalScroll

from bq.runtime import language
from bq.tui.line_filter import with_no_controls
from bq.tui.widgets.compare import CompareView


class Desk(App[None]):
    def __init__(self) -> None:
        super().__init__()
        self.view = CompareView()

    def compose(self) -> ComposeResult:
        yield self.view

    def get_line_filters(self):
        return with_no_controls(super().get_line_filters())

    def drawn(self) -> str:
        return "\n".join(strip.text.rstrip() for strip in self.screen._compositor.render_strips())

    def segments(self) -> list[Segment]:
        return [segment for strip in self.screen._compositor.render_strips() for segment in strip]

    def marked(self) -> list[str]:
        """What is drawn in bold within the answers."""
        texts = [s.text.strip() for s in self.segments() if s.style and s.style.bold and s.style.bgcolor != self.plain]
        return [text for text in texts if text]

    @property
    def plain(self):
        return self.view.rich_style.bgcolor


@pytest.fixture(autouse=True)
def english(monkeypatch):
    monkeypatch.setattr(language, "_current", "en")


async def answer(app: Desk, pilot, left: str, right: str) -> None:
    """Both models answer, one after the other."""
    for side, name, text in (("left", "Q4_K_M", left), ("right", "Q8_0", right)):
        app.view.begin(side, name)
        for character in text:
            app.view.feed(side, character)
        app.view.finish(side, 12.34, len(text), memory_bytes=3 * 2**30)
    await app.workers.wait_for_complete()
    await pilot.pause()


@pytest.mark.parametrize("size", [(60, 20), (120, 30)])
async def test_each_answer_has_its_name_figures_and_text(size):
    app = Desk()
    async with app.run_test(size=size) as pilot:
        await answer(app, pilot, "the cat", "the dog")
        lines = app.drawn().splitlines()
        assert sum("cat" in line or "dog" in line for line in lines) == (1 if size[0] >= 100 else 2)
        drawn = app.drawn()
        assert all(text in drawn for text in ["Q4_K_M", "Q8_0", "12.3 tokens/s  7 tokens  3.00 GiB"])


async def test_what_differs_is_marked_once_both_are_there():
    app = Desk()
    async with app.run_test(size=(120, 20)) as pilot:
        app.view.begin("left", "a")
        app.view.feed("left", "我爱 the cat")
        app.view.finish("left", 1, 1)
        app.view.begin("right", "b")
        app.view.feed("right", "我恨 the cat")
        await app.workers.wait_for_complete()
        await pilot.pause()
        assert app.marked() == []
        app.view.finish("right", 1, 1, "stopped")
        await app.workers.wait_for_complete()
        await pilot.pause()
        assert app.marked() == ["爱", "恨"]
        assert "87.5 % of the two answers is the same." in app.drawn()
        assert "stopped" in app.drawn()


async def test_equal_answers_are_called_so():
    app = Desk()
    async with app.run_test() as pilot:
        await answer(app, pilot, "the cat", "the cat")
        assert app.marked() == []
        assert "The two answers are the same." in app.drawn()


async def test_figures_and_verdict_follow_the_language(monkeypatch):
    app = Desk()
    async with app.run_test(size=(60, 20)) as pilot:
        await answer(app, pilot, "一二三四", "一二三五")
        monkeypatch.setattr(language, "_current", "zh")
        app.refresh(layout=True)
        for line in app.query("Line"):
            line.refresh(layout=True)
        await pilot.pause()
        drawn = app.drawn()
        assert "12.3 词元/秒  4 个词元  3.00 GiB" in drawn
        assert "两个回答有 75.0 % 相同。" in drawn


async def test_a_new_question_clears_both_sides():
    app = Desk()
    async with app.run_test(size=(120, 20)) as pilot:
        await answer(app, pilot, "the cat", "the dog")
        app.view.begin("left", "new")
        app.view.feed("left", "fresh")
        await pilot.pause()
        drawn = app.drawn()
        assert "fresh" in drawn
        assert not any(text in drawn for text in ["cat", "dog", "Q8_0", "tokens", "%"])
        assert (app.view.text("left"), app.view.text("right")) == ("fresh", "")


async def test_the_second_answer_leaves_the_first_one():
    app = Desk()
    async with app.run_test(size=(120, 20)) as pilot:
        app.view.begin("left", "a")
        app.view.feed("left", "one")
        app.view.finish("left", 1, 1)
        app.view.begin("right", "b")
        app.view.feed("right", "two")
        await pilot.pause()
        assert "one" in app.drawn()
        assert "two" in app.drawn()


@pytest.mark.parametrize("texts", [("the cat", "the dog"), ("", "")])
async def test_a_comparison_that_comes_too_late_is_not_shown(texts):
    app = Desk()
    async with app.run_test(size=(120, 20)) as pilot:
        for side, text in zip(("left", "right"), texts, strict=True):
            app.view.begin(side, side)
            app.view.feed(side, text)
            app.view.finish(side, 1, 1)
        app.view.begin("left", "new")
        app.view.feed("left", texts[0])
        await app.workers.wait_for_complete()
        await pilot.pause()
        assert app.marked() == []
        assert "same" not in app.drawn()
        assert "%" not in app.drawn()


@pytest.mark.parametrize("finish", [True, False])
async def test_text_is_only_text(finish):
    hostile = "[bold]x[/bold] [@click=app.quit]q[/] \x1b[31mred\x1b]52;c;x\x07 \u202egnp [/nothing] [$warning"
    app = Desk()
    async with app.run_test(size=(120, 20)) as pilot:
        for side in ("left", "right"):
            app.view.begin(side, hostile)
            app.view.feed(side, hostile + side)
            if finish:
                app.view.finish(side, 1, 1, hostile)
        await app.workers.wait_for_complete()
        await pilot.pause()
        drawn = app.drawn()
        assert "\x1b" not in app.view.text("left")
        assert "[bold]x[/bold] [@click=app.quit]q[/] [31mred]52;c;x gnp" in drawn
        assert "\x1b" not in drawn
        assert "\u202e" not in drawn
        assert all(not (s.style and s.style.meta.get("@click")) for s in app.segments())


async def test_a_long_answer_is_followed_until_one_scrolls():
    app = Desk()
    async with app.run_test(size=(120, 20)) as pilot:
        app.view.begin("left", "a")
        scroll = app.query(VerticalScroll).first()
        app.view.feed("left", "short\n")
        await pilot.pause()
        assert app.drawn().splitlines()[2].startswith("│ short")
        app.view.feed("left", "line\n" * 100 + "last")
        await pilot.pause()
        assert "last" in app.drawn()
        scroll.focus()
        await pilot.press("home")
        app.view.feed("left", "\nmore" * 20)
        await pilot.pause()
        assert "short" in app.drawn()
        assert "more" not in app.drawn()


async def test_both_answers_may_come_at_once_and_be_empty():
    app = Desk()
    async with app.run_test(size=(60, 20)) as pilot:
        for side in ("left", "right"):
            app.view.begin(side, side)
        for side in ("right", "left"):
            app.view.finish(side, 0, 0, "nothing")
        await app.workers.wait_for_complete()
        await pilot.pause()
        assert "The two answers are the same." in app.drawn()
        assert "tokens" not in app.drawn()
        app.view.clear()
        await pilot.pause()
        assert "same" not in app.drawn()
