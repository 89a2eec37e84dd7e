"""A matrix as coloured cells in inline SVG."""

from collections.abc import Callable, Sequence

import numpy as np

from mixtures.report.html import Html, element
from mixtures.report.svg import LETTER, svg
from mixtures.text import shorten

ABOVE_BELOW = ("more", "less")


def heat_map(
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    label: str,
    hints: Callable[[int, int], str],
    colours: tuple[str, str] = ABOVE_BELOW,
) -> Html:
    """Draw one cell per value (R, C), with a stronger colour for a larger one; NaN is an empty frame.

    label:    text for readers who cannot see the drawing.
    hints:    function from (row, column) to the text shown when a cell is pointed at; an empty text leaves it out.
    colours:  classes of the colours above and below 0.
    """
    size = float(np.clip(620 / max(values.shape), 14, 36))
    numbers = size >= 30
    left = 14 + LETTER * max(len(shorten(name)) for name in rows)
    top = 14 + LETTER * max(len(shorten(name)) for name in columns)
    shown = [(r, c) for r in range(len(rows)) for c in range(len(columns)) if hints(r, c)]
    strongest = max((abs(values[cell]) for cell in shown if np.isfinite(values[cell])), default=0.0) or 1.0
    drawn = [
        element("text", shorten(name), x=left - 6, y=top + size * (r + 0.5) + 4, text_anchor="end")
        for r, name in enumerate(rows)
    ]
    for c, name in enumerate(columns):
        x = left + size * (c + 0.5) + 4
        drawn.append(element("text", shorten(name), transform=f"translate({x:g} {top - 6:g}) rotate(-90)"))
    for r, c in shown:
        drawn.append(
            _cell(
                values[r, c],
                strongest,
                x=left + size * c,
                y=top + size * r,
                size=size,
                hint=hints(r, c),
                colours=colours,
            )
        )
        if numbers and np.isfinite(values[r, c]):
            text = f"{round(values[r, c], 2) + 0.0:.2f}"
            drawn.append(element("text", text, x=left + size * (c + 0.5), y=top + size * (r + 0.5) + 4, class_="cell"))
    bottom = top + size * len(rows)
    drawn += _colour_key(strongest, left, bottom + 14, colours)
    return svg(max(left + size * len(columns), left + 260) + 10, bottom + 52, drawn, label)


def _cell(
    value: float, strongest: float, *, x: float, y: float, size: float, hint: str, colours: tuple[str, str]
) -> Html:
    box = {"x": x + 0.5, "y": y + 0.5, "width": size - 1, "height": size - 1}
    if not np.isfinite(value):
        return element("rect", element("title", hint), class_="unknown", **box)
    opacity = 0.8 * min(abs(float(value)) / strongest, 1.0)
    return element("rect", element("title", hint), class_=colours[int(value < 0)], fill_opacity=opacity, **box)


def _colour_key(strongest: float, x: float, y: float, colours: tuple[str, str]) -> list[Html]:
    steps = np.linspace(-1, 1, 11)
    drawn = [
        _cell(
            step * strongest, strongest, x=x + 18 * place, y=y, size=18, hint=f"{step * strongest:.2f}", colours=colours
        )
        for place, step in enumerate(steps)
    ]
    words = [(0, f"{-strongest:.2f}"), (5, "0"), (10, f"{strongest:.2f}")]
    return [
        *drawn,
        *(
            element("text", text, x=x + 18 * (place + 0.5), y=y + 32, class_="tick", text_anchor="middle")
            for place, text in words
        ),
    ]
