"""An answer of `bq run`: what is said on stdout, what is thought before it on stderr, dimmed, if someone looks there.

So a pipe and a file get the answer alone.
"""

import os
import sys
from collections.abc import Iterable

import click

from bq.runtime.language import say
from bq.tui.harmless import clean
from bq.tui.thinking import ThinkingStream


class Aloud:
    """Takes the pieces of an answer as they come; `said` is the answer without the thoughts.

    `is_held` keeps the answer back, for who wants to look at it as a whole.
    """

    def __init__(self, is_held: bool = False) -> None:
        self._stream = ThinkingStream()
        self._is_held = is_held
        self._shows_thoughts = sys.stderr.isatty()
        self._has_thought = False
        self._said: list[str] = []

    def follow(self, texts: Iterable[str]) -> str:
        """Show an answer to its end and return what was said."""
        for text in texts:
            self._show(*self._stream.add(text))
        self._show(*self._stream.take())
        if self._has_thought and not self._said:
            self._note("\n" if self._shows_thoughts else "")
            self._note(say("The model was still thinking when its answer ended.\n", "回答结束时模型仍在思考。\n"))
        return self.said

    @property
    def said(self) -> str:
        return "".join(self._said)

    def _show(self, thought: str, said: str) -> None:
        thought = thought if self._has_thought else thought.lstrip("\n")
        if thought:
            self._has_thought = True
            if self._shows_thoughts:
                click.secho(clean(thought), dim=not os.environ.get("NO_COLOR"), nl=False, err=True)
        if not said:
            return
        if self._has_thought and self._shows_thoughts and not self._said:
            self._note("\n\n")
        self._said.append(said)
        if not self._is_held:
            sys.stdout.write(said)
            sys.stdout.flush()

    @staticmethod
    def _note(text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()
