"""Token bytes to text that a terminal may show: whole characters only, and nothing that controls the terminal."""

import codecs
import re

# C0 but tab and line feed, DEL and C1 (ESC and CSI among them), and the marks that reorder text (Unicode UAX 9).
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def harmless(text: str) -> str:
    """`text` with control characters made visible: C0 as its picture (U+2400…), the rest as U+FFFD. CR is dropped."""
    return _CONTROL.sub(_picture, text)


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
