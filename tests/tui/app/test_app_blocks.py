"""Streamed Markdown is cut only where no later text can change what came before."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bq.tui import blocks
from bq.tui.blocks import OpenBlock, closed_length, parser, same_rendering

BLOCKS = [
    "# 标题 heading",
    "A paragraph with **bold** and `code`\nand a second line",
    "量化之后\n换一行",
    "- one\n- two\n  - nested\n\n  more of two",
    "1. first\n\n2. second\n\n   text of second",
    "| a | b |\n|---|---|\n| 1 | [/x] |",
    "```python\nx = 1\n\n\n# not a heading\n```",
    "~~~\nunfinished ``` inside\n~~~",
    "> quoted\n> text\nlazy",
    "<think>\n\nhidden?\n\n</think>",
    "<div>a</div>",
    "---",
    "Setext\n===",
    "    indented code\n\n    more",
    "* * *",
    "\\*escaped\\* &amp; &#27;[31m",
    "- [ ] task",
]

documents = st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=8).flatmap(
    lambda found: st.lists(st.sampled_from(["\n\n", "\n", "\n\n\n"]), min_size=len(found), max_size=len(found)).map(
        lambda gaps: "".join(block + gap for block, gap in zip(found, gaps, strict=True))
    )
)


def stream(text, seed):
    """The text cut at random: the closed blocks as they came, and the rest."""
    dice, open_block, parts = random.Random(seed), OpenBlock(), []
    while text:
        size = dice.randint(1, 12)
        parts.append(open_block.add(text[:size]))
        text = text[size:]
    return [*filter(None, parts), open_block.take()]


@settings(max_examples=150, deadline=None)
@given(documents, st.integers(0, 1000))
def test_closed_blocks_rendered_apart_are_the_document(document, seed):
    parts = stream(document, seed)
    assert "".join(parts) == document
    assert same_rendering(parts, document)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="ab \n\r#*-_`~>|1.[]()<>:\\&;好\t", max_size=80), st.integers(0, 1000))
def test_any_text_comes_out_whole(text, seed):
    assert "".join(stream(text, seed)) == text


def test_blocks_are_given_out_before_the_end():
    parts = stream("\n\n".join(BLOCKS[:6]), 1)
    assert len(parts) > 4


def test_a_half_written_line_closes_nothing():
    assert closed_length("1. one\n\n2") == 0
    assert closed_length("1. one\n\n2. two\n") == 0
    assert closed_length("para\n\nnext\n") == len("para\n\n")


def test_a_link_defined_later_is_seen():
    parts = ["See [it].\n\n", "[it]: http://x\n"]
    assert not same_rendering(parts, "".join(parts))


def test_parsing_a_long_block_stays_linear(monkeypatch):
    parsed = []
    monkeypatch.setattr(blocks, "closed_length", lambda text: parsed.append(len(text)) or 0)
    open_block = OpenBlock()
    for _ in range(4000):
        open_block.add("one line of a long fence\n")
    assert sum(parsed) < 12 * len(open_block.text)


@pytest.mark.parametrize("html", ["<b>x</b>", "List<String> a", "<div>\nx\n</div>", "<!-- c -->"])
def test_html_is_text(html):
    tokens = parser().parse(html)
    assert not [t for t in tokens if "html" in t.type]
    drawn = "\n".join(c.content if c.type == "text" else "" for t in tokens for c in t.children or ())
    assert drawn.replace("\n\n", "\n").replace("\n", "") == html.replace("\n", "")


def test_a_line_break_stays_one_and_adds_no_space_between_han():
    children = next(t for t in parser().parse("床前明月光\n疑是地上霜") if t.children).children
    assert [c.type for c in children] == ["text", "hardbreak", "text"]
