"""The chat's state, without an app: what is sent, what is kept, what the status line says."""

import pytest

from bq.runtime import language
from bq.tui import clipboard
from bq.tui.harmless import clean
from bq.tui.keys import texts
from bq.tui.status import Status, parts, short


@pytest.fixture(autouse=True)
def _english(monkeypatch):
    monkeypatch.setattr(language, "_current", "en")


@pytest.mark.parametrize(
    ("tokens", "text"), [(0, "0"), (812, "812"), (999, "999"), (1000, "1.0k"), (1234, "1.2k"), (4096, "4.1k")]
)
def test_numbers_of_tokens_are_short(tokens, text):
    assert short(tokens) == text


@pytest.mark.parametrize(("used", "style"), [(0, "$text-success"), (2048, "$text-warning"), (3300, "$text-error")])
def test_the_context_use_is_coloured_by_its_level(used, style):
    status = Status(activity="ready", context=4096, context_used=used)
    assert [s for t, s in parts(status) if t.startswith("ctx ")] == [style]


def test_the_status_line_says_it_all():
    status = Status("Baichuan Q4_K_M", "reading", 40, 12.34, 1229, 4096, 2)
    assert [text for text, _ in parts(status)] == [
        "reading the prompt 40%",
        "2 oldest rounds left out",
        "12.3 tok/s",
        "ctx 1.2k / 4.1k (30%)",
        "Baichuan Q4_K_M",
    ]


def test_the_status_line_speaks_chinese():
    language.set_language("zh")
    assert parts(Status(activity="ready", dropped_rounds=1))[1][0] == "已略去最早的 1 轮"


def test_every_key_is_described_in_both_languages():
    english = texts()
    language.set_language("zh")
    chinese = texts()
    assert all(english[key] != chinese[key] for key in english)


def test_pasted_text_loses_its_control_characters_only():
    assert clean("a\x1b[31m\r\nb\rc\td\x9b\u202e\x07好") == "a[31m\nb\nc\td好"


@pytest.mark.parametrize(
    ("environment", "tools", "command"),
    [
        ({"WAYLAND_DISPLAY": "w", "DISPLAY": ":0"}, {"wl-copy", "xclip"}, "wl-copy"),
        ({"WAYLAND_DISPLAY": "w", "DISPLAY": ":0"}, {"xclip"}, "xclip"),
        ({"DISPLAY": ":0"}, {"xsel"}, "xsel"),
        ({"TMUX": "/tmp/x"}, {"tmux", "wl-copy"}, "tmux"),
        ({}, {"wl-copy", "xclip", "tmux"}, None),
    ],
)
def test_the_clipboard_tool_is_the_one_of_this_desktop(monkeypatch, environment, tools, command):
    monkeypatch.setattr(clipboard.sys, "platform", "linux")
    monkeypatch.setattr(clipboard.shutil, "which", lambda tool: tool if tool in tools else None)
    found = clipboard.native_command(environment)
    assert (found and found[0]) == command


def test_a_clipboard_tool_that_fails_is_no_error(monkeypatch):
    monkeypatch.setattr(clipboard, "native_command", lambda environment: ["/nonexistent/tool"])
    assert clipboard.copy_natively("x") is False


def test_the_clipboard_tool_gets_the_text(monkeypatch, tmp_path):
    target = tmp_path / "clip"
    monkeypatch.setattr(clipboard, "native_command", lambda environment: ["sh", "-c", f"cat > {target}"])
    assert clipboard.copy_natively("量化 ok")
    assert target.read_text(encoding="utf-8") == "量化 ok"
