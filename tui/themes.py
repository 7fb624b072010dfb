"""The app's own colours: two themes of high contrast, beside those that Textual brings.

Every text that the app draws in them stands out from what is behind it by at least 7 to 1, which is level AAA of WCAG 2.2
(success criterion 1.4.6). Keys that do nothing at the moment are the exception that the criterion makes, too.
"""

from typing import Any

from textual.app import App
from textual.theme import Theme

DARK, LIGHT = "high-contrast-dark", "high-contrast-light"

# What the style sheets ask for beyond Textual's variables; the values of the other themes.
VARIABLES = {
    "left-out-opacity": "55%",  # of a round that is not sent: its heading says so, too
    "hint-text": "auto 40%",  # what stands in an empty box
    "code-text": "rgb(210,210,210)",
    "mark-text": "auto 50%",  # of a list that opens
}

_NO_HAZE = {  # colours that Textual lets shine through are whole
    "text": "auto 100%",
    "text-muted": "auto 100%",
    "text-disabled": "auto 100%",
    "left-out-opacity": "100%",
    "hint-text": "auto 100%",
    "code-text": "auto 100%",
    "mark-text": "auto 100%",
    # The marked line is told by its underline as well as by its colour.
    "block-cursor-text-style": "bold underline",
    "block-cursor-blurred-text-style": "bold underline",
    "button-focus-text-style": "bold reverse",
}


def _dark() -> Theme:
    white, black, marked = "#ffffff", "#000000", "#00304d"
    blue, yellow, red, green = "#9fd8ff", "#ffe14d", "#ffb8b8", "#8fff8f"
    return Theme(
        name=DARK,
        primary=blue,
        secondary=blue,
        accent=yellow,
        warning=yellow,
        error=red,
        success=green,
        foreground=white,
        background=black,
        surface=black,
        panel=black,
        variables=_NO_HAZE
        | _texts(white, blue, yellow, yellow, red, green)
        | _marks(white, black, "#141414", marked, yellow, "#332b00"),
    )


def _light() -> Theme:
    white, black, marked = "#ffffff", "#000000", "#fff3b8"
    blue, brown, red, green = "#002f6c", "#4a2b00", "#7a0000", "#00330f"
    return Theme(
        name=LIGHT,
        primary=blue,
        secondary=blue,
        accent=blue,
        warning=brown,
        error=red,
        success=green,
        foreground=black,
        background=white,
        surface=white,
        panel=white,
        dark=False,
        variables=_NO_HAZE
        | _texts(black, blue, blue, brown, red, green)
        | _marks(black, white, "#f5f5f5", marked, blue, "#ffedc2"),
    )


def _texts(plain: str, blue: str, accent: str, warning: str, error: str, success: str) -> dict[str, str]:
    """The colours of texts, and of headings."""
    named = {"primary": blue, "secondary": blue, "accent": accent, "warning": warning, "error": error}
    named["success"] = success
    headings = {f"markdown-h{level}-color": plain for level in range(1, 7)}
    return {f"text-{name}": colour for name, colour in named.items()} | headings


def _marks(plain: str, behind: str, raised: str, marked: str, accent: str, different: str) -> dict[str, str]:
    """The colours behind a text that is marked, selected or pointed at."""
    muted = {f"{name}-muted": different for name in ("primary", "secondary", "accent", "warning", "error", "success")}
    return muted | {
        "boost": raised,
        "foreground-muted": plain,
        "foreground-disabled": plain,
        "block-cursor-foreground": plain,
        "block-cursor-background": marked,
        "block-cursor-blurred-foreground": plain,
        "block-cursor-blurred-background": marked,
        "block-hover-background": marked,
        "surface-active": marked,
        "border": accent,
        "border-blurred": plain,
        "footer-key-foreground": accent,
        "footer-background": behind,
        "input-cursor-foreground": behind,
        "input-cursor-background": plain,
        "input-selection-foreground": behind,
        "input-selection-background": accent,
        "screen-selection-foreground": behind,
        "screen-selection-background": accent,
        "link-color": plain,
        "link-color-hover": behind,
        "link-background-hover": accent,
        "scrollbar": plain,
        "scrollbar-hover": accent,
        "scrollbar-active": accent,
        "scrollbar-background": behind,
    }


HIGH_CONTRAST = (_dark(), _light())


def register(app: App[Any]) -> None:
    """Let the app know them, by their names."""
    for theme in HIGH_CONTRAST:
        app.register_theme(theme)
