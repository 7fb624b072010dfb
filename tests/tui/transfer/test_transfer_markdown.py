"""A conversation leaves as Markdown and comes back as it was; Markdown from elsewhere is taken, or refused in a line."""

import re
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bq.runtime.errors import UsageError
from bq.runtime.language import set_language
from bq.runtime.prompt import Message
from bq.tui.conversation import Conversation
from bq.tui.transfer import from_json, from_markdown, to_markdown

from .common import HARD_PIECES, said, talk, trees

# Markdown of ours


@settings(max_examples=150, deadline=None)
@given(trees())
def test_markdown_brings_the_path_back_whatever_the_texts_are(made: Conversation) -> None:
    text = to_markdown(made)
    back = from_markdown(text)
    assert said(back) == said(made)
    assert back.id != made.id
    assert not back.nodes.keys() & made.nodes.keys()
    assert to_markdown(made) == text, "the same conversation is the same file"


def test_markdown_is_for_people() -> None:
    made = Conversation.of(
        [Message("system", "Be brief."), Message("user", "How?"), Message("assistant", "So:\n\n1. this")]
    )
    made.title, made.created = "A title", 1_700_000_000
    made.nodes[made.head or ""].model = "bq_demo"
    lines = to_markdown(made).split("\n")
    shown = [line for line in lines if line and not re.fullmatch(r"<!-- .* -->", line)]
    about = shown.pop(1)
    assert shown == ["# A title", "## System prompt", "Be brief.", "## You", "How?", "## Assistant", "So:", "1. this"]
    assert re.fullmatch(r"\*2023-11-1\d \d\d:\d\d · bq\\_demo\*", about)
    set_language("zh")
    assert "## 你\n\nHow?\n" in to_markdown(made)
    assert said(from_markdown(to_markdown(made))) == said(made)


@pytest.mark.parametrize(
    ("answer", "closing"),
    [
        ("```python\nprint(1)", "```"),
        ("~~~~\n```\n~~~", "~~~~"),
        ("```\na\n    ```", "```"),
        ("```\na\n```", ""),
        ("````\na\n`````  ", ""),
        ("``` not `a` fence", ""),
        ("- item\n  ```\n  code", ""),
        ("no\u2028```", ""),
    ],
)
def test_a_code_block_that_is_left_open_does_not_swallow_the_rest(answer: str, closing: str) -> None:
    made = talk("question", answer, "another")
    text = to_markdown(made)
    below = text[text.index(answer) + len(answer) : text.index("<!-- bq user", text.index(answer))]
    assert below.strip() == closing
    assert said(from_markdown(text)) == said(made)


def test_an_editor_that_changes_line_ends_or_headings_does_no_harm() -> None:
    made = talk("a\nb", "c\n\nd")
    made.title = "title"
    text = to_markdown(made)
    assert said(from_markdown(text.replace("\n", "\r\n"))) == said(made)
    assert said(from_markdown(text.replace("## You\n", "### Myself, of course\n").rstrip())) == said(made)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda text: text.replace("conversation 1 chat", "conversation 2 chat"),
            "Line 1: it was written by a newer bq",
        ),
        (lambda text: text.replace("conversation 1 chat", "conversation 1 sing"), "Line 1: there is no mode sing"),
        (lambda text: text.replace("<!-- bq assistant", "<!-- bq tool"), "Line 18: there is no part tool"),
        (lambda text: text[: text.index("<!-- bq assistant")], "Line 13: what follows was cut off"),
        (lambda text: text[: text.index("\n") + 1], "Line 1: what follows was cut off"),
        (lambda text: text + "more\n", "Line 23: there is text after the end"),
        (lambda text: text.replace("<!-- bq end", "<!-- bq system"), "Line 23: system does not belong here"),
        (lambda text: text.replace("<!-- bq about", "<!-- bq title"), "Line 5: title does not belong here"),
        (lambda text: text + "<!-- bq end -->", "Line 24: end does not belong here"),
    ],
)
def test_a_file_of_ours_that_was_broken_is_a_line_that_names_the_line(
    change: Callable[[str], str], message: str
) -> None:
    made = Conversation.of([Message("system", "s"), Message("user", "q"), Message("assistant", "a")])
    made.title = "title"
    with pytest.raises(UsageError) as caught:
        from_markdown(change(to_markdown(made)))
    assert str(caught.value).startswith(message)
    assert str(caught.value).endswith("Nothing was imported.")


# Markdown from elsewhere


def test_a_file_from_elsewhere_is_read_by_its_headings() -> None:
    text = """# My chat

Exported on Monday.

## System
Be brief.
## **You:**

What is `## Assistant`?

```
## Assistant
```

## Assistant (7B)

### User

is a heading.

## 用户
继续

## 助手

好。

## Assistant

And more.

## You

"""
    made = from_markdown(text.replace("\n", "\r\n"))
    assert (made.title, made.system) == ("My chat", "Be brief.")
    assert [(node.role, node.content) for node in made.path()] == [
        ("user", "What is `## Assistant`?\n\n```\n## Assistant\n```"),
        ("assistant", "### User\n\nis a heading."),
        ("user", "继续"),
        ("assistant", "好。\n\nAnd more."),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Line 1: from here on, no heading such as `## You`"),
        ("# Title\n\nprose\n", "Line 1: from here on, no heading"),
        ("\n## Assistant\nhello", "Line 2: an answer before the first question"),
        ("## You\nq\n## System\ns", "Line 3: a system prompt stands only at the beginning"),
        ("## System\ns", "Line 1: from here on"),
    ],
)
def test_a_file_that_is_no_conversation_is_a_line_that_names_the_line(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        from_markdown(text)
    assert str(caught.value).startswith(message)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.sampled_from([*HARD_PIECES, "\n## You\n", "\n## AI\n", "<!-- bq conversation 1 chat -->\n"]), max_size=12
    )
)
def test_any_text_is_a_conversation_or_a_usage_error(pieces: list[str]) -> None:
    with suppress(UsageError):
        from_markdown("".join(pieces)).path()
    with suppress(UsageError):
        from_json("".join(pieces)).path()
