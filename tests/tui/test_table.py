"""Tables line up in the terminal, where a Chinese character takes two cells."""

import pytest

from bq.tui.table import gib, table, width


@pytest.mark.parametrize(
    ("text", "cells"), [("", 0), ("abc", 3), ("模型", 4), ("，", 2), ("Ａ", 2), ("é", 1), ("e\u0301", 1)]
)
def test_width_counts_cells(text: str, cells: int) -> None:
    assert width(text) == cells


def test_columns_begin_at_the_same_cell() -> None:
    text = table(("名称", "b", "c"), [("a", "模型模型", "1"), ("abcdef", "x", "22")], right=(2,))
    assert text.splitlines() == [
        "名称    b          c",
        "a       模型模型   1",
        "abcdef  x         22",
    ]
    assert len({width(line) for line in text.splitlines()}) == 1


def test_no_line_ends_in_spaces_and_no_rows_are_no_failure() -> None:
    assert table(("a", "b"), [("x", "")]) == "a  b\nx"
    assert table(("a", "b"), []) == "a  b"


def test_gib_has_two_decimals() -> None:
    assert (gib(0), gib(1 << 30), gib(3 << 29), gib(4610957312)) == ("0.00", "1.00", "1.50", "4.29")
