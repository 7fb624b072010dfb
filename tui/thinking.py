"""What some models think before they speak: `<think>…</think>` at the beginning of an answer, folded on the screen.

It is told from the answer in a whole text by `split_thinking`, and in one that is still coming by `ThinkingStream`.
"""

from typing import Literal

_THINK, _THOUGHT = "<think>", "</think>"


def split_thinking(answer: str) -> tuple[str, str]:
    """What was thought, and what was said after it. Who is not through with thinking has said nothing."""
    text = answer.lstrip()
    if not text.startswith(_THINK):
        return "", answer
    thought, _, said = text[len(_THINK) :].partition(_THOUGHT)
    return thought.strip("\n"), said.lstrip("\n")


def spoken(answer: str) -> str:
    """An answer as later rounds read it: without what was thought before it, unless there is nothing else yet."""
    thought, said = split_thinking(answer)
    return said if thought and said else answer


class ThinkingStream:
    """Takes the pieces of an answer as they come and tells them apart; what could yet be half a mark is held back."""

    def __init__(self) -> None:
        self._state: Literal["begin", "thinking", "after", "said"] = "begin"
        self._held = ""

    def add(self, text: str) -> tuple[str, str]:
        """What of the thoughts and what of the answer is certain by now and was not given before."""
        self._held += text
        thought = ""
        if self._state == "begin":
            self._begin()
        if self._state == "thinking":
            thought = self._think()
        if self._state == "after":
            self._held = self._held.lstrip("\n")
            self._state = "said" if self._held else "after"
        if self._state != "said":
            return thought, ""
        said, self._held = self._held, ""
        return thought, said

    def take(self) -> tuple[str, str]:
        """What is left, when nothing more will come."""
        rest, self._held = self._held, ""
        return (rest, "") if self._state == "thinking" else ("", rest)

    def _begin(self) -> None:
        text = self._held.lstrip()
        if text.startswith(_THINK):
            self._state, self._held = "thinking", text[len(_THINK) :]
        elif not _THINK.startswith(text):
            self._state = "said"

    def _think(self) -> str:
        thought, mark, rest = self._held.partition(_THOUGHT)
        if mark:
            self._state, self._held = "after", rest
            return thought
        kept = next((n for n in range(len(_THOUGHT) - 1, 0, -1) if thought.endswith(_THOUGHT[:n])), 0)
        self._held = thought[len(thought) - kept :]
        return thought[: len(thought) - kept]
