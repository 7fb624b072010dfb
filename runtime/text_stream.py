"""Token bytes to text that a terminal may show: whole characters only, and nothing that controls the terminal."""

import codecs
import re
from collections.abc import Sequence

# C0 but tab and line feed, DEL and C1 (ESC and CSI among them), and the marks that reorder text (Unicode UAX 9).
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def harmless(text: str) -> str:
    """`text` with control characters made visible: C0 as its picture (U+2400…), the rest as U+FFFD. CR is dropped."""
    return text if text.isprintable() else _CONTROL.sub(_picture, text)


def escaped(json_text: str) -> str:
    """JSON with the same value and no character in it that controls the terminal."""
    return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", json_text)


def _picture(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code == 0x0D:
        return ""
    return chr(0x2400 + code) if code < 0x20 else "\u2421" if code == 0x7F else "\ufffd"


class TextStream:
    """Collects the bytes of tokens and gives out whole characters."""

    def __init__(self, strip_space: bool = False) -> None:
        """`strip_space` drops one leading space, the mirror of the space that Baichuan 1 encodes in front."""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._strip_space = strip_space

    def add(self, piece: bytes) -> str:
        """The characters that these bytes complete, "" while one is still open. Broken bytes become U+FFFD."""
        return self._give(self._decoder.decode(piece))

    def finish(self) -> str:
        """What is left at the end: U+FFFD for a character that never became whole."""
        return self._give(self._decoder.decode(b"", final=True))

    def _give(self, text: str) -> str:
        if self._strip_space and text:
            self._strip_space = False
            text = text.removeprefix(" ")
        return harmless(text)


class StopStrings:
    """Ends a text at the first of some strings. What may be the beginning of one is held back until it is decided."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in map(harmless, stops) if stop]
        self._held = ""
        self.found = False

    def add(self, text: str) -> str:
        """The text that may be shown, up to the stop if one is found; after that nothing more."""
        if not self._stops or self.found:
            return "" if self.found else text
        held = self._held + text
        at = min((i for i in map(held.find, self._stops) if i >= 0), default=-1)
        self.found = at >= 0
        keep = at if self.found else len(held) - self._open(held)
        self._held = "" if self.found else held[keep:]
        return held[:keep]

    def finish(self, text: str = "") -> str:
        """The last text and what was held back, if no stop came."""
        shown = self.add(text)
        held, self._held = self._held, ""
        return shown + held

    def _open(self, text: str) -> int:
        """How many characters at the end of `text` may be the beginning of a stop."""
        longest = max(map(len, self._stops)) - 1
        ends = range(min(longest, len(text)), 0, -1)
        return next((n for n in ends if any(stop.startswith(text[-n:]) for stop in self._stops)), 0)
