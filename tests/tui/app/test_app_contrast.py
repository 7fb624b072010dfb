"""The themes of high contrast: every text that the app draws stands out by at least 7 to 1 (WCAG 2.2, 1.4.6), as it is drawn."""

import pytest
from rich.cells import cell_len
from textual.color import Color
from textual.geometry import Offset

from bq.tui.engine import Candidate
from bq.tui.settings import Settings
from bq.tui.themes import HIGH_CONTRAST
from tests.support.contrast import contrast
from tests.support.undrawn import strips

from .fake import ModelInfo
from .session import Session

AAA = 7.0
NAMES = [theme.name for theme in HIGH_CONTRAST]
LINES = " │╭╮╰╯─▊▎▔▁▌▐▄▀█▏▕▍▋▉┃━┌┐└┘├┤┬┴┼"  # of borders and bars
ANSWER = """\
# One
## Two
###### Six

A `word`, a [link](https://example.org), *this* and **that**.

> quoted

```python
# a comment
def f(x: int) -> str:
    return "text" + str(1.5)  # True
```

| a | b |
|---|---|
| 1 | 2 |

1. one
"""


def hidden(session: Session) -> dict[str, float]:
    """The texts of the screen or the dialog on it that stand out by less, with their contrast.

    Keys that do nothing now are left out, as in the criterion.
    """
    screen = session.app.screen
    shown = screen.query(".dialog").first().region if screen.is_modal else screen.region
    grey = [one.region for one in screen.query("FooterKey.-disabled")]
    found: dict[str, float] = {}
    for y, strip in enumerate(strips(session.app)):
        x = 0
        for text, style, _ in strip:
            at = Offset(x, y)
            x += cell_len(text)
            if text.strip(LINES) and at in shown and not any(at in one for one in grey):
                written, behind = (Color.from_rich_color(one).rgb for one in (style.color, style.bgcolor))
                if (ratio := contrast(written, behind)) < AAA:
                    found[text.strip()] = round(ratio, 2)
    return found


@pytest.mark.parametrize("theme", NAMES)
async def test_all_texts_of_a_chat_stand_out(start, fake, theme):
    fake.info = ModelInfo(context=2400)
    fake.answers = ["x" * 700, ANSWER]
    fake.stop = "length"
    fake.warnings = ("A warning.",)
    async with start(size=(100, 60), settings=Settings(theme=theme)) as s:
        await s.ask("a question " * 40)
        await s.ask("another")
        s.prompt.load_text("draft " * 20)
        await s.until(lambda: s.shows("leaves out"))
        await s.press("shift+home")
        assert hidden(s) == {}
        await s.press("ctrl+up")
        assert hidden(s) == {}


@pytest.mark.parametrize("theme", NAMES)
async def test_all_texts_of_the_dialogs_stand_out(start, fake, theme, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.gguf", "b.gguf", "c.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    known = {"mixture": "Q8_0", "variant": "chat", "size_bytes": 9, "layers": 41, "context": 4096}
    fake.candidates = {
        tmp_path / "a.gguf": Candidate(tmp_path / "a.gguf", name="A", **known, warnings=("beware",), quality="KL 0.1"),
        tmp_path / "b.gguf": Candidate(tmp_path / "b.gguf", error="broken"),
    }
    async with start(size=(100, 60), settings=Settings(theme=theme)) as s:
        await s.ask("hi")
        for key in ("f3", "f4", "f5"):
            await s.press(key)
            await s.until(lambda: len(s.app.screen_stack) == 2)
            await s.press("down")
            await s.press("tab")
            assert hidden(s) == {}, key
            await s.press("escape")
            await s.until(lambda: len(s.app.screen_stack) == 1)


@pytest.mark.parametrize("theme", NAMES)
@pytest.mark.parametrize("mode", ["instruct", "complete"])
async def test_all_texts_of_the_other_modes_stand_out(start, fake, theme, mode):
    fake.answers = [" upon a time"]
    async with start(mode=mode, size=(110, 30), settings=Settings(theme=theme)) as s:
        assert hidden(s) == {}
        await s.press(*"Once", "ctrl+g" if mode == "complete" else "enter")
        await s.ready()
        await s.press("alt+left")
        assert hidden(s) == {}


@pytest.mark.parametrize("theme", HIGH_CONTRAST, ids=NAMES)
def test_each_named_colour_of_a_text_stands_out_from_all_that_may_be_behind_it(theme):
    colours = theme.to_color_system().generate() | theme.variables
    texts = [f"text-{name}" for name in ("primary", "secondary", "accent", "warning", "error", "success")]
    behind = ["background", "surface", "panel", "boost", "block-cursor-background", "block-hover-background"]
    for text in [*texts, "foreground", "footer-key-foreground", "link-color"]:
        for back in [*behind, "warning-muted", "error-muted"]:
            ratio = contrast(Color.parse(colours[text]).rgb, Color.parse(colours[back]).rgb)
            assert ratio >= AAA, (text, back, ratio)


async def test_without_colours_all_is_grey_and_nothing_is_told_by_colour_alone(start, fake, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    fake.warnings = ("A warning.",)
    async with start(size=(90, 40)) as s:
        await s.ask("hi")
        await s.press("ctrl+r")
        await s.ready()
        drawn = [style for strip in strips(s.app) for _, style, _ in strip]
        colours = [one.get_truecolor() for style in drawn for one in (style.color, style.bgcolor) if one]
        assert all(one.red == one.green == one.blue for one in colours)
        assert s.shows("A warning.", "You", "‹2/2›", "ready")
