"""An answer in the line mode: on stdout as it comes, what the model thinks before it kept off."""

import sys

from bq.runtime.language import say
from bq.tui.harmless import clean
from bq.tui.plain_input import tell
from bq.tui.thinking import ThinkingStream


class Voice:
    """An answer on stdout as it comes. What a model thinks before it is not shown, its length is told.

    `before` is what there is of an answer that is continued.
    """

    def __init__(self, before: str = "") -> None:
        self._stream = ThinkingStream()
        self._stream.add(before)
        self._thought = 0
        self._has_said = False

    def add(self, text: str) -> None:
        self._show(*self._stream.add(text))

    def end(self) -> None:
        self._show(*self._stream.take())
        self._tell_thought()
        if self._has_said:
            self._write("\n")

    @property
    def is_silent(self) -> bool:
        """Whether nothing was said."""
        return not self._has_said

    def _show(self, thought: str, said: str) -> None:
        self._thought += len(thought)
        if said:
            self._tell_thought()
            self._has_said = True
            self._write(said)

    def _tell_thought(self) -> None:
        if self._thought:
            tell(say(f"(thought for {self._thought} characters)", f"（思考了 {self._thought} 个字符）"))
            self._thought = 0

    def _write(self, text: str) -> None:
        sys.stdout.write(clean(text))
        sys.stdout.flush()
