"""Complete mode on the screen: the text goes on from the cursor, alternatives can be taken, undo brings all back."""

import math
import random

import pytest
from textual import events
from textual.app import App, ComposeResult
from textual.widgets import Input, OptionList

from bq.runtime import language
from bq.runtime.generation import Alternative, Step
from bq.tui.widgets.complete import CompleteView


def alternative(piece: bytes, percent: float) -> Alternative:
    return Alternative(1, piece, math.log(percent / 100))


def step(text: str, piece: bytes | None = None) -> Step:
    chosen = alternative(text.encode() if piece is None else piece, 50)
    return Step(text, 1, chosen, (chosen, alternative(" 猫".encode(), 25), alternative(b"\xe7", 12.5)))


BROKEN = [step("", bytes([byte])) for byte in "漢".encode()[:2]] + [step("漢", "漢".encode()[2:])]
ANSWER = [step(" sat"), step("\n"), *BROKEN, step("。")]


class Desk(App[None]):
    """Plays the engine: the first half of the answer comes at once, the rest when the test says so."""

    def __init__(self, at_once: bool = True) -> None:
        super().__init__()
        self.view = CompleteView()
        self.at_once = at_once
        self.asked: list[str] = []
        self.answer = ANSWER

    def compose(self) -> ComposeResult:
        yield self.view

    def on_mount(self) -> None:
        self.view.editor.focus()

    async def on_complete_view_go_on(self, event: CompleteView.GoOn) -> None:
        if event.view.is_running:
            return
        self.asked.append(event.view.prefix())
        event.view.begin()
        await event.view.feed(self.answer[:3])
        if self.at_once:
            await self.end()

    async def end(self, mark: str | None = None) -> None:
        await self.view.feed(self.answer[3:])
        self.view.finish(mark)

    def drawn(self) -> str:
        return "\n".join(strip.text.rstrip() for strip in self.screen._compositor.render_strips())


@pytest.fixture(autouse=True)
def english(monkeypatch):
    monkeypatch.setattr(language, "_current", "en")


def same(view: CompleteView) -> bool:
    """The two copies of the text agree, and what the model wrote is where its tokens are."""
    completion = view.editor.completion
    assert view.editor.text == completion.text == view.text
    assert all(0 <= token.start < token.end <= len(completion.text) for token in completion.tokens)
    return True


async def test_the_text_goes_on_from_the_cursor():
    app = Desk()
    async with app.run_test() as pilot:
        app.view.load("A cat\nThe end")
        app.view.editor.show_offset(5)
        await pilot.press("ctrl+g")
        await pilot.pause()
        assert app.asked == ["A cat"]
        assert app.view.text == "A cat sat\n漢。\nThe end"
        assert app.view.editor.cursor == len("A cat sat\n漢。")
        await pilot.press("ctrl+g")
        assert app.asked[1] == "A cat sat\n漢。"
        assert same(app.view)


async def test_what_is_typed_comes_back_step_by_step():
    app = Desk()
    async with app.run_test() as pilot:
        await pilot.press("a", "enter", "ctrl+g", "b")
        await pilot.pause()
        assert app.view.text == "a\n sat\n漢。b"
        await pilot.press("ctrl+z")
        assert app.view.text == "a\n sat\n漢。"
        await pilot.press("ctrl+z")
        assert app.view.text == "a\n"
        assert app.view.editor.completion.tokens == []
        await pilot.press("ctrl+y")
        assert app.view.text == "a\n sat\n漢。"
        assert len(app.view.editor.completion.tokens) == len(ANSWER)
        assert same(app.view)


async def test_while_the_model_writes_nobody_else_does():
    app = Desk(at_once=False)
    async with app.run_test() as pilot:
        await pilot.press("a", "ctrl+g")
        await pilot.pause()
        text = app.view.text
        app.post_message(events.Paste("x"))
        await pilot.press(
            "b", "enter", "backspace", "delete", "ctrl+z", "ctrl+y", "ctrl+x", "ctrl+k", "ctrl+u", "ctrl+g"
        )
        app.post_message(events.Key("alt+1", "1"))
        app.view.editor.insert("from elsewhere")
        await pilot.pause()
        assert app.view.text == text == "a sat\n"
        assert same(app.view)
        assert app.asked == ["a"]
        await app.end("stopped")
        await pilot.press("b")
        assert app.view.text == "a sat\n漢。b"
        assert "stopped" in app.drawn()


async def test_the_prefix_grows_while_the_model_writes():
    app = Desk(at_once=False)
    async with app.run_test() as pilot:
        app.view.load("abc")
        app.view.editor.show_offset(1)
        await pilot.press("ctrl+g")
        await pilot.press("home")
        assert app.view.prefix() == "a sat\n"


@pytest.mark.parametrize(("at", "expected"), [(0, 0), (1, 1 + len(" sat\n漢。")), (3, 3 + len(" sat\n漢。"))])
async def test_a_cursor_that_was_moved_away_stays_with_its_text(at, expected):
    app = Desk(at_once=False)
    async with app.run_test() as pilot:
        app.view.load("abc")
        app.view.editor.show_offset(1)
        app.answer = [Step(""), Step(""), Step(""), *ANSWER]
        await pilot.press("ctrl+g")
        app.view.editor.show_offset(at)
        await app.end()
        assert app.view.text == "a sat\n漢。bc"
        assert app.view.editor.cursor == expected


async def test_a_text_that_was_scrolled_away_from_stays_where_it_is():
    app = Desk(at_once=False)
    async with app.run_test(size=(80, 24)) as pilot:
        app.view.load("line\n" * 100)
        await pilot.press("ctrl+g")
        await pilot.pause()
        assert app.view.editor.scroll_offset.y > 50
        app.view.editor.scroll_to(y=3, animate=False)
        await pilot.pause()
        await app.view.feed([step("more\n")] * 50)
        await pilot.pause()
        assert app.view.editor.scroll_offset.y == 3
        await pilot.press("down")
        await app.view.feed([step("more\n")] * 50)
        await pilot.pause()
        assert app.view.editor.scroll_offset.y > 150


@pytest.mark.parametrize("character", ["2", None])
async def test_alt_and_a_digit_take_an_alternative_and_go_on(character):
    app = Desk()
    async with app.run_test() as pilot:
        await pilot.press("a", "ctrl+g")
        app.view.editor.show_offset(2)
        await pilot.pause()
        app.post_message(events.Key("alt+2", character))
        await pilot.pause()
        assert app.asked == ["a", "a 猫"]
        assert app.view.text == "a 猫 sat\n漢。"
        await pilot.press("ctrl+z", "ctrl+z")
        assert app.view.text == "a sat\n漢。"
        assert len(app.view.editor.completion.tokens) == len(ANSWER)


async def test_an_alternative_is_taken_from_the_list():
    app = Desk()
    async with app.run_test(size=(120, 30)) as pilot:
        await pilot.press("a", "ctrl+g", "alt+left")
        await pilot.pause()
        await pilot.press("tab", "down", "down", "enter")
        await pilot.pause()
        assert app.asked == ["a", "a sat\n漢 猫"]
        assert app.focused is app.view.editor
        await pilot.click(OptionList, offset=(5, 1))
        await pilot.pause()
        assert app.asked[2] == "a sat\n漢 猫 sat\n漢 猫"


async def test_a_part_of_a_character_is_shown_as_bytes_and_cannot_be_taken():
    app = Desk()
    async with app.run_test(size=(120, 30)) as pilot:
        await pilot.press("a", "ctrl+g")
        await pilot.press("alt+3")
        await pilot.click(OptionList, offset=(5, 2))
        await pilot.pause()
        assert app.asked == ["a"]
        assert '3 "\\xe7"' in app.drawn()
        assert app.query_one(OptionList).get_option_at_index(2).disabled


async def test_one_jumps_from_token_to_token_also_within_a_character():
    app = Desk()
    async with app.run_test(size=(120, 30)) as pilot:
        await pilot.press("a", "ctrl+g")
        await pilot.pause()
        seen = []
        for _ in range(7):
            await pilot.press("alt+left")
            await pilot.pause()
            seen.append((app.view.editor.cursor, app.drawn().splitlines()[0].split("Alternatives")[1].split()[0]))
        assert seen == [
            *((7, '"。"'), (6, '"\\xa2"'), (6, '"\\xbc"'), (6, '"\\xe6"'), (5, '"\\n"'), (1, '"')),
            (1, '"'),
        ]
        await pilot.press(*["alt+right"] * 9)
        assert app.view.editor.cursor == 7


async def test_the_alternatives_tell_rank_and_probability():
    app = Desk()
    async with app.run_test(size=(120, 30)) as pilot:
        await pilot.press("a", "ctrl+g")
        await pilot.pause()
        lines = app.drawn().splitlines()
        assert '"。" 50.0 %' in lines[0]
        assert '1 "。"' in lines[1]
        assert "████ " in lines[1]
        assert '2 " 猫"' in lines[2]
        assert "██ " in lines[2]
        assert "25.0 %" in lines[2]
        await pilot.press("home", "up")
        await pilot.pause()
        assert "Put the cursor on a token" in app.drawn()


@pytest.mark.parametrize(
    ("tongue", "texts"), [("en", ["Alternatives", "Ctrl+G has"]), ("zh", ["候选词元", "按 Ctrl+G 让模型"])]
)
@pytest.mark.parametrize("size", [(60, 20), (120, 30)])
async def test_both_languages_and_sizes(monkeypatch, tongue, texts, size):
    monkeypatch.setattr(language, "_current", tongue)
    app = Desk()
    async with app.run_test(size=size) as pilot:
        await pilot.pause()
        assert all(text in app.drawn() for text in texts)
        await pilot.press("a", "ctrl+g")
        await pilot.pause()
        lines = app.drawn().splitlines()
        first = next(i for i, line in enumerate(lines) if texts[0] in line)
        assert first == (0 if size[0] >= 100 else 12)
        assert "50.0 %" in lines[first + 1]


async def test_what_the_model_wrote_looks_different():
    app = Desk()
    async with app.run_test() as pilot:
        await pilot.press("a", "ctrl+g", "enter", "b")
        await pilot.pause()
        colours = {
            segment.text.strip(): segment.style.color
            for strip in app.screen._compositor.render_strips()
            for segment in strip
            if segment.text.strip() in ("a", "b", "sat", "漢。") and segment.style
        }
        assert colours["a"] == colours["b"] != colours["sat"] == colours["漢。"]


async def test_long_lines_are_drawn_whole_with_cursor_tabs_and_selection():
    app = Desk()
    async with app.run_test(size=(60, 20)) as pilot:
        app.view.load("量" * 70 + "\tx")
        await pilot.pause()
        rows = [line.strip("│╭╮╰╯─ ") for line in app.drawn().splitlines()[:5]]
        assert "".join(rows).count("量") == 70
        assert rows[3].endswith("x")
        await pilot.press("shift+home")
        await pilot.pause()
        background = app.view.editor.get_component_rich_style("text-area--selection").bgcolor
        selected = "".join(
            segment.text
            for strip in app.screen._compositor.render_strips()
            for segment in strip
            if segment.style and segment.style.bgcolor == background
        )
        assert selected.replace(" ", "") == "量" * (70 - 2 * 27 - 1) + "x"  # the first is under the cursor


async def test_controls_and_odd_line_ends_stay_out():
    app = Desk()
    async with app.run_test() as pilot:
        app.post_message(events.Paste("one\x1b]52;c;x\x07\r\ntwo\x9b\u2028three\x85\x0cfour\u2029"))
        await pilot.pause()
        assert app.view.text == "one]52;c;x\ntwo\nthreefour\n"
        app.answer = [step("x\u2029")]
        await pilot.press("ctrl+g")
        assert app.view.text.endswith("\nx\n")
        assert same(app.view)
        app.view.load("\x1b[31mred\r\n\u2028")
        assert app.view.text == "[31mred\n\n"
        assert same(app.view)


async def test_another_text_ends_an_answer_under_way():
    app = Desk(at_once=False)
    async with app.run_test() as pilot:
        await pilot.press("a", "ctrl+g")
        app.view.clear()
        await app.end("stopped")
        assert app.view.text == ""
        assert "stopped" not in app.drawn()
        await pilot.press("b", "ctrl+z", "ctrl+z")
        assert app.view.text == ""
        assert same(app.view)


async def test_the_model_writes_while_the_view_is_hidden():
    app = Desk(at_once=False)
    async with app.run_test(size=(60, 20)) as pilot:
        await pilot.press("a", "ctrl+g")
        app.view.display = False
        await pilot.pause()
        await app.view.feed([step("line\n")] * 60)
        await app.end()
        await pilot.pause()
        app.view.display = True
        await pilot.pause()
        await pilot.press("end")
        await pilot.pause()
        assert "漢。" in app.drawn()
        assert same(app.view)


async def test_keys_go_to_other_widgets_when_they_have_the_focus():
    class WithInput(Desk):
        def compose(self) -> ComposeResult:
            yield Input()
            yield self.view

    app = WithInput()
    async with app.run_test() as pilot:
        await pilot.press("a", "ctrl+g", "shift+tab")
        app.post_message(events.Key("alt+1", "1"))
        await pilot.pause()
        assert app.asked == ["a"]


KEYS = [
    *("a", "猫", "space", "enter", "backspace", "delete", "tab", "left", "right", "up", "down", "home", "end"),
    *("ctrl+g", "ctrl+g", "alt+1", "alt+2", "alt+3", "alt+left", "alt+left", "alt+right", "ctrl+z", "ctrl+z", "ctrl+y"),
    *("ctrl+left", "ctrl+right", "shift+left", "shift+up", "ctrl+x", "ctrl+v", "ctrl+k", "ctrl+u", "f7", "escape"),
]


async def test_no_keys_bring_the_two_copies_of_the_text_apart():
    chance, app = random.Random(1), Desk(at_once=False)
    async with app.run_test(size=(60, 20)) as pilot:
        for i in range(300):
            app.simulate_key(chance.choice(KEYS))
            if i % 12 == 0:
                await pilot.pause()
                assert same(app.view)
            if app.view.is_running and chance.random() < 0.3:
                await app.end()
        assert len(app.asked) > 10
