"""A plot shows each file where its size and divergence put it, within 80 cells and in both languages."""

import itertools
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bq.runtime import language
from bq.tui.plot import Point, svg_plot, terminal_plot
from bq.tui.table import width

POINTS = [
    Point("Q2_K", 2.8, 0.31),
    Point("Q4_K_M", 4.2, 0.021),
    Point("Q4_K_S", 4.1, 0.027),
    Point("Q8_0", 7.4, 0.0009),
    Point("混合", 5.0, 0.009),
]
SVG = "{http://www.w3.org/2000/svg}"
SOME = st.lists(
    st.builds(Point, st.sampled_from(["Q2_K", "IQ4_XS", "我的混合"]), st.floats(1e-3, 1e3), st.floats(-1e-9, 50)),
    min_size=1,
    max_size=12,
)


def dots(text: str) -> list[tuple[int, int]]:
    """(line, cell) of each point of a terminal plot."""
    lines = text.splitlines()[1:-2]
    return [
        (number, width(line[: match.start()]))
        for number, line in enumerate(lines)
        for match in re.finditer(r"\bo\b", line)
    ]


def test_points_stand_in_the_order_of_size_and_of_divergence() -> None:
    found = dots(terminal_plot([one for one in POINTS if one.label != "Q4_K_S"]))
    assert len(found) == 4
    assert found == sorted(found)  # the greatest divergence first, on the highest line
    assert [cell for _, cell in found] == sorted(cell for _, cell in found)


def test_a_point_has_its_label_beside_it() -> None:
    text = terminal_plot(POINTS)
    for one in POINTS:
        assert text.count(one.label) == 1
    assert "o Q2_K" in text
    assert "Q8_0 o" in text  # at the right edge


def test_powers_of_ten_are_written_at_equal_distances() -> None:
    lines = terminal_plot(POINTS).splitlines()
    marks = {
        line.split()[0]: number for number, line in enumerate(lines) if "+" in line and not line.strip().startswith("+")
    }
    assert list(marks) == ["1", "0.1", "0.01", "0.001", "0.0001"]
    gaps = [after - before for before, after in itertools.pairwise(marks.values())]
    assert max(gaps) - min(gaps) <= 1


@given(SOME)
def test_any_files_fit_into_80_cells(points: Sequence[Point]) -> None:
    text = terminal_plot(points)
    assert max(map(width, text.splitlines())) <= 80
    assert 1 <= len(dots(text)) <= len(points)


def test_texts_are_in_both_languages() -> None:
    assert terminal_plot(POINTS).startswith("KL divergence\n")
    assert "size in GiB" in svg_plot(POINTS, "x")
    language.set_language("zh")
    assert terminal_plot(POINTS).startswith("KL 散度\n")
    assert "大小（GiB）" in svg_plot(POINTS, "x")


def test_the_svg_has_a_dot_and_a_label_for_each_file() -> None:
    root = ElementTree.fromstring(svg_plot(POINTS, "大小 <&>"))
    circles = root.findall(SVG + "circle")
    texts = [element.text for element in root.findall(SVG + "text")]
    assert len(circles) == len(POINTS)
    assert {one.label for one in POINTS} <= set(texts)
    assert root.findtext(SVG + "title") == "大小 <&>"
    style = root.findtext(SVG + "style") or ""
    assert "prefers-color-scheme:dark" in style
    places = {one.label: (float(c.get("cx", 0)), float(c.get("cy", 0))) for one, c in zip(POINTS, circles, strict=True)}
    assert places["Q2_K"][0] < places["Q4_K_S"][0] < places["Q4_K_M"][0] < places["混合"][0] < places["Q8_0"][0]
    assert places["Q2_K"][1] < places["Q4_K_S"][1] < places["Q4_K_M"][1] < places["混合"][1] < places["Q8_0"][1]


def test_a_tenth_of_the_divergence_is_always_the_same_way_down() -> None:
    points = [Point(str(i), 1.0 + i, 10.0**-i) for i in range(4)]
    heights = [float(one.get("cy", 0)) for one in ElementTree.fromstring(svg_plot(points, "")).findall(SVG + "circle")]
    steps = [after - before for before, after in itertools.pairwise(heights)]
    assert steps == pytest.approx([steps[0]] * 3, abs=0.2)


def label_boxes(text: str) -> Iterator[tuple[float, float, float, float]]:
    for element in ElementTree.fromstring(text).findall(SVG + "text"):
        if element.get("text-anchor") == "start" and element.get("class") is None:
            x, y = float(element.get("x", 0)), float(element.get("y", 0))
            yield x, y - 12, x + 8 * width(element.text or ""), y + 4


def test_labels_of_near_dots_do_not_cover_each_other() -> None:
    near = [Point(f"Q4_K_{i}", 4.0 + i / 100, 0.02 + i / 5000) for i in range(5)]
    boxes = list(label_boxes(svg_plot([*near, Point("Q8_0", 7.0, 0.001)], "")))
    assert len(boxes) == 6
    for one, two in itertools.combinations(boxes, 2):
        assert one[2] <= two[0] or two[2] <= one[0] or one[3] <= two[1] or two[3] <= one[1]


@given(SOME)
def test_any_files_make_a_sound_document(points: Sequence[Point]) -> None:
    root = ElementTree.fromstring(svg_plot(points, "x"))
    for circle in root.findall(SVG + "circle"):
        assert 0 < float(circle.get("cx", -1)) < 720
        assert 0 < float(circle.get("cy", -1)) < 440
