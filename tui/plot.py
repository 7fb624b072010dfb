"""Size against KL divergence, which is what one chooses a file by: as characters for the terminal, and as an SVG file.

The divergence is on a logarithmic scale, for half of it matters as much at the bottom as at the top.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from bq.runtime.language import say
from bq.tui.table import width

_COLUMNS, _LINES = 78, 14  # of the terminal plot, its axes included: fits 80 columns
_LEAST = 1e-6  # a logarithmic scale has no zero
_TICKS = 5
_WIDE, _HIGH = 720, 440  # of the SVG
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 90, 48, 56  # its margins
_DOT = 5
_CELL, _LINE = 8, 16  # about what a character and a line of 13 px take
_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#1f2328}.title{font-size:15px;font-weight:600}"
    ".grid{stroke:#d0d7de;stroke-width:1}.dot{fill:#0969da}.back{fill:#ffffff}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.grid{stroke:#3d444d}.dot{fill:#58a6ff}.back{fill:#0d1117}}"
)


@dataclass(frozen=True)
class Point:
    """A file: what it is called in the plot, GiB, and KL divergence."""

    label: str
    size: float
    divergence: float


@dataclass(frozen=True)
class _Axes:
    """What the plot reaches from and to: sizes, and powers of ten."""

    left: float
    right: float
    low: int
    high: int

    def across(self, size: float) -> float:
        """The part of the way from left to right."""
        return (size - self.left) / (self.right - self.left)

    def up(self, divergence: float) -> float:
        """The part of the way from bottom to top."""
        return (math.log10(max(divergence, _LEAST)) - self.low) / (self.high - self.low)

    @property
    def sizes(self) -> list[float]:
        """Where the size is written."""
        return [self.left + (self.right - self.left) * i / (_TICKS - 1) for i in range(_TICKS)]

    @property
    def powers(self) -> range:
        """Where the divergence is written, as powers of ten."""
        return range(self.low, self.high + 1)


def _axes(points: Sequence[Point]) -> _Axes:
    sizes = [one.size for one in points]
    logs = [math.log10(max(one.divergence, _LEAST)) for one in points]
    room = (max(sizes) - min(sizes) or max(sizes)) * 0.06
    low, high = math.floor(min(logs)), math.ceil(max(logs))
    return _Axes(min(sizes) - room, max(sizes) + room, low, max(high, low + 1))


def terminal_plot(points: Sequence[Point]) -> str:
    """The plot in lines of plain characters, each point an `o` with its label beside it where there is room."""
    axes = _axes(points)
    grid = _Grid(_COLUMNS - 10, _LINES)
    places = [
        (_cell(axes.across(one.size), grid.wide), _cell(1 - axes.up(one.divergence), grid.high)) for one in points
    ]
    for across, down in places:
        grid.put(across, down, "o")
    for one, (across, down) in zip(points, places, strict=True):
        grid.label(across, down, one.label)
    marks = {_cell(1 - axes.up(10.0**power), grid.high): f"{10.0**power:g}" for power in axes.powers}
    body = [f"{marks.get(i, ''):>8} {'+' if i in marks else '|'}{line}" for i, line in enumerate(grid.lines())]
    return "\n".join(
        [say("KL divergence", "KL 散度"), *body, " " * 9 + "+" + "-" * grid.wide, _size_line(axes, grid.wide)]
    )


def _cell(part: float, count: int) -> int:
    return min(count - 1, max(0, round(part * (count - 1))))


def _size_line(axes: _Axes, wide: int) -> str:
    line = [" "] * (wide + 10)
    for size in axes.sizes[1:-1]:
        text = f"{size:.3g}"
        start = 10 + _cell(axes.across(size), wide) - len(text) // 2
        line[start : start + len(text)] = text
    return "".join(line).rstrip() + "  GiB"


class _Grid:
    """Cells of the terminal; a Chinese character takes two, the second of which stays empty."""

    def __init__(self, wide: int, high: int) -> None:
        self.wide, self.high = wide, high
        self._cells = [[" "] * wide for _ in range(high)]

    def put(self, across: int, down: int, text: str) -> None:
        """Write a text from a cell on."""
        row = self._cells[down]
        for character in text:
            row[across] = character
            for i in range(1, width(character)):
                row[across + i] = ""
            across += width(character)

    def label(self, across: int, down: int, text: str) -> None:
        """Write a label right or left of a point, else above or below it; nowhere if all that is taken."""
        cells = width(text)
        starts = [(across + 2, down), (across - 1 - cells, down), *((across - cells // 2, down + i) for i in (-1, 1))]
        for start, line in starts:
            if self._is_free(start, line, cells):
                self.put(start, line, text)
                return

    def _is_free(self, start: int, line: int, cells: int) -> bool:
        if not (start >= 0 and start + cells <= self.wide and 0 <= line < self.high):
            return False
        return all(cell == " " for cell in self._cells[line][max(0, start - 1) : start + cells + 1])

    def lines(self) -> Iterator[str]:
        """The lines as they are printed."""
        return ("".join(row).rstrip() for row in self._cells)


def svg_plot(points: Sequence[Point], title: str) -> str:
    """The plot as an SVG document, legible on light and on dark."""
    axes = _axes(points)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDE} {_HIGH}" width="{_WIDE}" height="{_HIGH}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>{_STYLE}</style>",
            f'<rect class="back" width="{_WIDE}" height="{_HIGH}"/>',
            _text(_LEFT, 28, title, "title"),
            *_svg_grid(axes),
            *_svg_points(axes, points),
            "</svg>",
            "",
        ]
    )


def _svg_grid(axes: _Axes) -> Iterator[str]:
    bottom, right = _HIGH - _BOTTOM, _WIDE - _RIGHT
    for power in axes.powers:
        y = _y(axes, 10.0**power)
        yield f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>'
        yield _text(_LEFT - 8, y + 4, f"{10.0**power:g}", anchor="end")
    for size in axes.sizes:
        x = _x(axes, size)
        yield f'<line class="grid" x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{bottom}"/>'
        yield _text(x, bottom + 18, f"{size:.3g}", anchor="middle")
    middle = (_TOP + bottom) / 2
    yield _text((_LEFT + right) / 2, _HIGH - 14, say("size in GiB", "大小（GiB）"), anchor="middle")
    turned = f'transform="rotate(-90 20 {middle:.1f})"'
    yield _text(20, middle, say("KL divergence", "KL 散度"), anchor="middle", more=turned)


def _svg_points(axes: _Axes, points: Sequence[Point]) -> Iterator[str]:
    places = [(_x(axes, one.size), _y(axes, one.divergence)) for one in points]
    taken = [_Box(x - _DOT, y - _DOT, x + _DOT, y + _DOT) for x, y in places]
    for one, (x, y) in zip(points, places, strict=True):
        yield f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="{_DOT}"/>'
        box = _label_box(x, y, _CELL * width(one.label), taken)
        taken.append(box)
        yield _text(box.left, box.bottom - 4, one.label)


@dataclass(frozen=True)
class _Box:
    """A part of the SVG that is taken."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: "_Box") -> bool:
        """Whether two share some place."""
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom


def _label_box(x: float, y: float, wide: float, taken: Sequence[_Box]) -> _Box:
    """Where the label of a dot goes: right, left, or above and below it, ever further, where nothing else is."""
    near = _DOT + 3
    tries = [(x + near, y - _LINE / 2), (x - near - wide, y - _LINE / 2)]
    tries += [(x - wide / 2, y + shift) for i in range(4) for shift in (-near - _LINE * (i + 1), near + _LINE * i)]
    boxes = [_Box(left, top, left + wide, top + _LINE) for left, top in tries]
    return next((box for box in boxes if not any(box.meets(other) for other in taken)), boxes[0])


def _x(axes: _Axes, size: float) -> float:
    return _LEFT + axes.across(size) * (_WIDE - _LEFT - _RIGHT)


def _y(axes: _Axes, divergence: float) -> float:
    return _HIGH - _BOTTOM - axes.up(divergence) * (_HIGH - _TOP - _BOTTOM)


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start", more: str = "") -> str:
    name = f'class="{kind}" ' if kind else ""
    return f'<text {name}x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{escape(text)}</text>'.replace(" >", ">")
