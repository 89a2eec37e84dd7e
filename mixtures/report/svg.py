"""Charts as inline SVG in the colours of the page: lines over steps or tokens, and dots with whiskers."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator

from mixtures.plots.looks import PALETTE, Look
from mixtures.plots.style import spread
from mixtures.report.html import Html, element, scrolling
from mixtures.text import shorten

LETTER = 6.7  # mean width of a letter (pixels)
ROW = 20  # height of a line of dots (pixels)
MOST_POINTS = 250  # most points of a line

Format = Callable[[float], str]


@dataclass(frozen=True)
class Line:
    """A line with coordinates x and y of the same length (NaN: no value); `points` (n, 2) are drawn as circles."""

    name: str
    x: np.ndarray
    y: np.ndarray
    look: Look
    points: np.ndarray | None = None


@dataclass(frozen=True)
class Whisker:
    """A value with its interval (NaN: none), drawn in its own row.

    `mark` is a tick to compare the value with, `inner` a range that is drawn thick, `text` stands beside the name.
    """

    name: str
    value: float
    low: float = np.nan
    high: float = np.nan
    text: str = ""
    mark: float | None = None
    inner: tuple[float, float] | None = None
    kind: str | None = None  # good, bad, unclear


def figure(chart: Html, caption: str, *, label: str) -> Html:
    """Return a chart with its caption, in a box that scrolls sideways if the page is too narrow."""
    return element("figure", scrolling(chart, label=label), element("figcaption", caption))


def line_chart(
    lines: Sequence[Line],
    *,
    label: str,
    x_format: Format,
    y_format: Format,
    x_label: str,
    reference: tuple[float, str] | None = None,
    limits: tuple[float, float] | None = None,
) -> Html:
    """Draw lines with their names at the right end, without overlap.

    reference:  (level, name) of a horizontal line.
    limits:     limits of the y axis; None: those of the values.
    """
    right, top, bottom = 640.0, 12.0, 300.0
    levels = [] if reference is None else [reference[0]]
    down = Axis(*(limits or _limits([*(line.y for line in lines), np.array(levels)])), bottom, top)
    left = 16 + LETTER * max((len(y_format(tick)) for tick in down.ticks), default=0)
    xs = np.concatenate([np.append(line.x, [] if line.points is None else line.points[:, 0]) for line in lines])
    across = Axis(float(xs.min()), float(xs.max()), left, right)
    drawn = [*_x_axis(across, x_format, bottom, top=None), *_y_axis(down, y_format, left, right)]
    drawn.append(element("text", x_label, x=right, y=bottom + 34, text_anchor="end", class_="tick"))
    drawn += [_rule(left, down.at(level), right, down.at(level), "reference") for level in levels]
    for line in sorted(lines, key=lambda line: line.look.named):
        drawn += _line(line, across, down)
    named = [line for line in lines if line.look.named and np.isfinite(line.y).any()]
    ends: list[tuple[float, str, Look | None]] = [(down.at(_last(line.y)), line.name, line.look) for line in named]
    if reference is not None:
        ends.append((down.at(reference[0]), reference[1], None))
    return svg(860, bottom + 44, [*drawn, *_names(ends, right=right, top=top, bottom=bottom)], label)


def whisker_chart(
    rows: Sequence[Whisker],
    *,
    label: str,
    x_label: str,
    x_format: Format,
    line: float | None = None,
    logarithmic: bool = False,
) -> Html:
    """Draw one line per row: name, text, whisker and dot.

    line:         level of a vertical line through all rows.
    logarithmic:  use a logarithmic axis; values must be above 0.
    """
    named = 8 + LETTER * max(len(shorten(row.name)) for row in rows)
    left = named + 26 + LETTER * max(len(row.text) for row in rows)
    right, top = left + 440, 8.0
    bottom = top + ROW * len(rows) + 4
    shown = [
        v for row in rows for v in (row.value, row.low, row.high, row.mark, line, *(row.inner or ())) if v is not None
    ]
    across = Axis(*_limits([np.array(shown)], logarithmic=logarithmic), left, right, logarithmic)
    drawn = _x_axis(across, x_format, bottom, top=top)
    drawn.append(element("text", x_label, x=right, y=bottom + 34, text_anchor="end", class_="tick"))
    if line is not None:
        drawn.append(_rule(across.at(line), top, across.at(line), bottom, "axis"))
    for place, row in enumerate(rows):
        y = top + ROW * (place + 0.5)
        drawn.append(element("text", shorten(row.name), x=named, y=y + 4, text_anchor="end"))
        drawn.append(element("text", row.text, x=named + 12, y=y + 4))
        drawn += _whisker(row, across, y)
    return svg(right + 24, bottom + 44, drawn, label)


def thin(values: np.ndarray) -> np.ndarray:
    """Return the indices (at most MOST_POINTS) of the points of a long line that are drawn, with the first and last."""
    return np.unique(np.linspace(0, len(values) - 1, min(len(values), MOST_POINTS)).round().astype(int))


@dataclass(frozen=True)
class Axis:
    """An axis that maps values (`low` to `high`) to pixels (`start` to `end`)."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """Return the pixel of a value; on a logarithmic axis, values below `low` are at its start."""
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = np.log([low, high, max(value, low)])
        return float(self.start + (self.end - self.start) * (value - low) / ((high - low) or 1.0))

    @property
    def ticks(self) -> list[float]:
        """Round values between `low` and `high`."""
        locator = LogLocator(subs=(1, 2, 5)) if self.logarithmic else MaxNLocator(6, steps=[1, 2, 2.5, 5, 10])
        return [float(tick) for tick in locator.tick_values(self.low, self.high) if self.low <= tick <= self.high]


def _limits(values: Iterable[np.ndarray], *, logarithmic: bool = False) -> tuple[float, float]:
    shown = np.concatenate([np.asarray(part, dtype=np.float64) for part in values])
    shown = shown[np.isfinite(shown) & ((shown > 0) | (not logarithmic))]
    if not len(shown):
        return (1.0, 10.0) if logarithmic else (0.0, 1.0)
    low, high = float(shown.min()), float(shown.max())
    if logarithmic:
        return low / 1.2, high * 1.2
    room = 0.04 * (high - low) or 0.1 * abs(high) or 1.0
    return (0.0 if low == 0 else low - room), high + room


def svg(width: float, height: float, drawn: Sequence[Html], label: str) -> Html:
    """Return a drawing of this size (pixels); `label` is the text for readers who cannot see it."""
    size = {"width": round(width), "height": round(height)}
    return element("svg", *drawn, viewBox=f"0 0 {round(width)} {round(height)}", role="img", aria_label=label, **size)


def _rule(x1: float, y1: float, x2: float, y2: float, class_: str) -> Html:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def _x_axis(across: Axis, shown: Format, bottom: float, *, top: float | None) -> list[Html]:
    """Draw the ticks of the x axis and their texts; with `top`, lines through the chart instead of ticks."""
    drawn = []
    for tick in across.ticks:
        x = across.at(tick)
        drawn.append(_rule(x, bottom + 4 if top is None else top, x, bottom, "axis" if top is None else "grid"))
        drawn.append(element("text", shown(tick), x=x, y=bottom + 17, text_anchor="middle", class_="tick"))
    return drawn


def _y_axis(down: Axis, shown: Format, left: float, right: float) -> list[Html]:
    drawn = []
    for tick in down.ticks:
        drawn.append(_rule(left, down.at(tick), right, down.at(tick), "grid"))
        drawn.append(element("text", shown(tick), x=left - 6, y=down.at(tick) + 4, text_anchor="end", class_="tick"))
    return drawn


def _colour(look: Look) -> str:
    return f"c{PALETTE.index(look.color)}" + ("" if look.style == "-" else " dashed")


def _line(line: Line, across: Axis, down: Axis) -> list[Html]:
    keep = thin(line.x)
    runs: list[list[str]] = [[]]
    for x, y in zip(line.x[keep], line.y[keep], strict=True):
        if np.isfinite(y):
            runs[-1].append(f"{across.at(x):.1f},{np.clip(down.at(y), -9e3, 9e3):.1f}")
        elif runs[-1]:
            runs.append([])
    look = f"line {_colour(line.look)}" if line.look.named else "faint"
    drawn = [element("polyline", element("title", line.name), points=" ".join(run), class_=look) for run in runs if run]
    if line.points is not None and line.look.named:
        points = [(across.at(x), down.at(y)) for x, y in line.points if np.isfinite(y)]
        drawn += [
            element("circle", cx=x, cy=y, r=3, class_=f"point {_colour(line.look).split()[0]}") for x, y in points
        ]
    return drawn


def _last(values: np.ndarray) -> float:
    return float(values[np.isfinite(values)][-1])


def _names(ends: Sequence[tuple[float, str, Look | None]], *, right: float, top: float, bottom: float) -> list[Html]:
    """Draw the names beside the ends of their lines; they overlap only if there are more than fit."""
    if not ends:
        return []
    height = bottom - top
    heights = np.clip([y for y, _, _ in ends], top, bottom)
    placed = spread((heights - top) / height, gap=14.5 / height) * height + top
    drawn = []
    for y, to, (_, name, look) in zip(heights, placed, ends, strict=True):
        class_ = f"leader {_colour(look)}" if look else "reference"
        drawn.append(
            element(
                "polyline",
                points=f"{right + 2:.0f},{y:.1f} {right + 12:.0f},{to:.1f} {right + 22:.0f},{to:.1f}",
                class_=class_,
                fill="none",
            )
        )
        drawn.append(element("text", shorten(name), x=right + 26, y=to + 4))
    return drawn


def _whisker(row: Whisker, across: Axis, y: float) -> list[Html]:
    kind = f" {row.kind}" if row.kind else ""
    drawn = []
    if row.inner is not None and np.isfinite(row.inner).all():
        drawn.append(_rule(across.at(row.inner[0]), y, across.at(row.inner[1]), y, "range"))
    if np.isfinite([row.low, row.high]).all():
        ends = across.at(row.low), across.at(row.high)
        drawn += [
            _rule(ends[0], y, ends[1], y, f"whisker{kind}"),
            *(_rule(x, y - 4, x, y + 4, f"whisker{kind}") for x in ends),
        ]
    if row.mark is not None:
        drawn.append(_rule(across.at(row.mark), y - 7, across.at(row.mark), y + 7, "prior"))
    if np.isfinite(row.value):
        drawn.append(element("circle", cx=across.at(row.value), cy=y, r=4, class_=f"dot{kind}"))
    return drawn
