"""Functions that make HTML and SVG; they escape every text, except markup that they made themselves."""

import html
import re
from collections.abc import Iterable, Sequence


class Html(str):
    """Markup. A plain `str` is text, and is escaped when it is put into markup."""

    __slots__ = ()


Cell = (
    str | tuple[str, float | None]
)  # text (Html: markup), or a number as (what is shown, what is sorted by; None: last)


def element(tag: str, *content: str, **attributes: str | float | None) -> Html:
    """Return `<tag ...>content</tag>`: text is escaped, numbers are rounded, attributes that are None are left out.

    `_` in an attribute's name becomes `-`, and a trailing one is dropped: `class_`, `aria_label`, `stroke_width`.
    """
    present = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items() if value is not None}
    words = "".join(f' {name}="{html.escape(_shown(value))}"' for name, value in present.items())
    return Html(f"<{tag}{words}>{join(content)}</{tag}>")


def join(parts: Iterable[str], separator: str = "") -> Html:
    """Join the parts to markup; text is escaped."""
    return Html(separator.join(part if isinstance(part, Html) else html.escape(part) for part in parts))


def prose(sentence: str) -> Html:
    """Return a sentence as markup; words between backticks become code."""
    pieces = sentence.split("`")
    if len(pieces) % 2 == 0:  # an odd number of backticks: they are not quotes
        return join([sentence])
    return join(element("code", piece) if place % 2 else piece for place, piece in enumerate(pieces))


def paragraphs(sentences: Iterable[str]) -> Html:
    """Return one paragraph per sentence."""
    return join(element("p", prose(sentence)) for sentence in sentences)


def bullets(items: Iterable[str]) -> Html:
    """Return a list of the items; text may have code between backticks."""
    return element("ul", *(element("li", item if isinstance(item, Html) else prose(item)) for item in items))


def scrolling(content: str, *, label: str) -> Html:
    """Return a box that scrolls sideways, also by keyboard, without the rest of the page."""
    return element("div", content, class_="scroll", tabindex="0", role="region", aria_label=label)


def folded(title: str, *content: str) -> Html:
    """Return content that is hidden until its title is opened."""
    return element("details", element("summary", title), *content)


def data_table(header: Sequence[str], rows: Sequence[Sequence[Cell]], *, caption: str) -> Html:
    """Return a table that the reader can sort by any column.

    The first cell of a row is its heading. Columns of numbers are aligned to the right.
    """
    numeric = [any(isinstance(row[column], tuple) for row in rows) for column in range(len(header))]
    head = element(
        "tr",
        *(
            element("th", name, scope="col", class_="n" if number else None)
            for name, number in zip(header, numeric, strict=True)
        ),
    )
    body = [
        element(
            "tr",
            _cell(row[0], "th", numeric[0]),
            *(_cell(cell, "td", n) for cell, n in zip(row[1:], numeric[1:], strict=True)),
        )
        for row in rows
    ]
    table = element("table", element("thead", head), element("tbody", *body), class_="sortable", aria_label=caption)
    return _captioned(table, caption)


def facts_table(facts: dict[str, str], *, caption: str) -> Html:
    """Return a table of names and their values."""
    body = [element("tr", element("th", name, scope="row"), element("td", value)) for name, value in facts.items()]
    return _captioned(element("table", element("tbody", *body), class_="facts", aria_label=caption), caption)


def number(value: float | None, shown: str = ".4f") -> Cell:
    """Return the cell of a number, in the format `shown`; `-` for None."""
    return ("-", None) if value is None else (f"{value:{shown}}", value)


def parse_number(text: str) -> Cell:
    """Return the cell for a text that may begin with a number; it sorts by that number.

    An empty text, `-`, `?` and `? %` sort last. Any other text stays text.
    """
    if text in ("", "-", "?", "? %"):
        return (text, None)
    match = re.match(r"[+-]?\d[\d,]*(\.\d+)?(e[+-]?\d+)?(?=$| )", text)
    return (text, float(match[0].replace(",", ""))) if match else text


def _captioned(table: Html, caption: str) -> Html:
    """Return the table in a scrolling box below its caption, which does not scroll."""
    return join([element("p", caption, class_="quiet"), scrolling(table, label=caption)])


def _cell(cell: Cell, tag: str, numeric: bool) -> Html:
    text, value = cell if isinstance(cell, tuple) else (cell, None)
    sort = None if value is None or value != value else repr(float(value))
    return element(tag, text, scope="row" if tag == "th" else None, class_="n" if numeric else None, data_sort=sort)


def _shown(value: str | float) -> str:
    return value if isinstance(value, str) else f"{round(value, 2) + 0.0:g}"
