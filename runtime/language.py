"""Every text that a person reads, in English and 简体中文, side by side where it is used.

The language is chosen by `--lang`, else `BQ_LANG`, else the locale's environment variables. A pair of texts next to
each other is easier to keep in step than a catalogue, and there is nothing to load at start-up.
"""

import os
import sys

LANGUAGES = ("en", "zh")
_LOCALE_VARIABLES = ("BQ_LANG", "LC_ALL", "LC_MESSAGES", "LANG", "LANGUAGE")
_WINDOWS_CHINESE = 0x04  # LANG_CHINESE in winnt.h
_current: str | None = None


def set_language(language: str | None) -> None:
    """Use `language` ("en" or "zh") from now on, None for the environment's. Raises ValueError for any other."""
    global _current
    if language is not None and language not in LANGUAGES:
        raise ValueError(f"no such language: {language}")
    _current = language


def is_chosen() -> bool:
    """Whether the user chose it for this call, by `--lang` or BQ_LANG."""
    return _current is not None or bool(os.environ.get("BQ_LANG"))


def get_language() -> str:
    """The language in use: the one set, else the one of the environment, else English."""
    return _current or _from_environment()


def _from_environment() -> str:
    for variable in _LOCALE_VARIABLES:
        value = os.environ.get(variable, "").lower()
        if value:
            return "zh" if value.startswith("zh") else "en"
    return "zh" if _windows_language() == _WINDOWS_CHINESE else "en"


def _windows_language() -> int | None:
    """The primary language of Windows' own texts, which sets none of these variables; None elsewhere."""
    if sys.platform != "win32":
        return None
    import ctypes

    return int(ctypes.windll.kernel32.GetUserDefaultUILanguage()) & 0x3FF


class Both(str):
    """An English text, as files record it, that knows its Chinese form, as the screen may show it."""

    zh: str

    def __new__(cls, en: str, zh: str) -> "Both":
        text = super().__new__(cls, en)
        text.zh = zh
        return text

    @property
    def here(self) -> str:
        """The text in the language in use."""
        return say(str(self), self.zh)


def say(en: str, zh: str) -> str:
    """The one of two texts that the reader understands."""
    return zh if get_language() == "zh" else en
