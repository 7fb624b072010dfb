"""Which language: set, else BQ_LANG, else the locale as POSIX orders it; decided when a text is asked for."""

import pytest

from bq.runtime.language import get_language, say, set_language


@pytest.fixture
def locale(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("BQ_LANG", "LC_ALL", "LC_MESSAGES", "LANG", "LANGUAGE"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("variables", "language"),
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_TW.UTF-8"}, "zh"),
        ({"LANG": "C.UTF-8"}, "en"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "en_US.UTF-8"}, "en"),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": ""}, "zh"),
        ({"LANGUAGE": "zh_CN:en"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "BQ_LANG": "en"}, "en"),
        ({"LANG": "en_US.UTF-8", "LC_ALL": "C", "BQ_LANG": "zh"}, "zh"),
        ({"BQ_LANG": "ZH"}, "zh"),
    ],
)
def test_the_environment_chooses(locale: pytest.MonkeyPatch, variables: dict[str, str], language: str) -> None:
    for name, value in variables.items():
        locale.setenv(name, value)
    assert get_language() == language


def test_what_is_set_wins(locale: pytest.MonkeyPatch) -> None:
    locale.setenv("BQ_LANG", "zh")
    set_language("en")
    assert get_language() == "en"


def test_say_chooses_when_it_is_called() -> None:
    def greet() -> str:
        return say("hello", "你好")

    set_language("zh")
    assert greet() == "你好"
    set_language("en")
    assert greet() == "hello"


@pytest.mark.parametrize("language", ["fr", "", "EN"])
def test_no_other_language_can_be_set(language: str) -> None:
    with pytest.raises(ValueError, match="no such language"):
        set_language(language)
