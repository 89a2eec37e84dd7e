"""HTML and SVG by construction: every text is escaped, unless it is markup that was made here."""

import html
import re
from collections.abc import Iterable, Sequence


class Html(str):
    """Markup; a plain `str` is text, and is escaped where it is put into markup."""

    __slots__ = ()


Cell = (
    str | tuple[str, float | None]
)  # text (Html: markup), or a number as (what is shown, what is sorted by; None: last)


def element(tag: str, *content: str, **attributes: str | float | None) -> Html:
    """`<tag ...>content</tag>`: text escaped, numbers short, an attribute of None left out.

    `_` in an attribute's name is `-`, a trailing one is dropped: `class_`, `aria_label`, `stroke_width`.
    """
    given = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items() if value is not None}
    words = "".join(f' {name}="{html.escape(_shown(value))}"' for name, value in given.items())
    return Html(f"<{tag}{words}>{join(content)}</{tag}>")


def join(parts: Iterable[str], separator: str = "") -> Html:
    """The parts one after the other, text escaped."""
    return Html(separator.join(part if isinstance(part, Html) else html.escape(part) for part in parts))


def prose(sentence: str) -> Html:
    """A sentence; what stands between backticks is code."""
    pieces = sentence.split("`")
    if len(pieces) % 2 == 0:  # one is alone: nothing is quoted
        return join([sentence])
    return join(element("code", piece) if place % 2 else piece for place, piece in enumerate(pieces))


def paragraphs(sentences: Iterable[str]) -> Html:
    """A paragraph each."""
    return join(element("p", prose(sentence)) for sentence in sentences)


def bullets(items: Iterable[str]) -> Html:
    """A list; text is prose."""
    return element("ul", *(element("li", item if isinstance(item, Html) else prose(item)) for item in items))


def scrolling(content: str, *, label: str) -> Html:
    """A box that scrolls sideways by itself, also by keyboard; the page does not."""
    return element("div", content, class_="scroll", tabindex="0", role="region", aria_label=label)


def folded(title: str, *content: str) -> Html:
    """What is shown when its title is opened."""
    return element("details", element("summary", title), *content)


def data_table(header: Sequence[str], rows: Sequence[Sequence[Cell]], *, caption: str) -> Html:
    """A table whose columns the reader may sort by; the first cell of a row is its heading, numbers stand to the
    right.
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
    """Names and what they are."""
    body = [element("tr", element("th", name, scope="row"), element("td", value)) for name, value in facts.items()]
    return _captioned(element("table", element("tbody", *body), class_="facts", aria_label=caption), caption)


def number(value: float | None, shown: str = ".4f") -> Cell:
    """A cell of a number; None: `-`."""
    return ("-", None) if value is None else (f"{value:{shown}}", value)


def parse_number(text: str) -> Cell:
    """A cell of a text table, sorted by the number that it begins with; `-` and the like are last, other text is
    text.
    """
    if text in ("", "-", "?", "? %"):
        return (text, None)
    found = re.match(r"[+-]?\d[\d,]*(\.\d+)?(e[+-]?\d+)?(?=$| )", text)
    return (text, float(found[0].replace(",", ""))) if found else text


def _captioned(table: Html, caption: str) -> Html:
    """The caption stands outside of the box, so that it does not scroll with the table."""
    return join([element("p", caption, class_="quiet"), scrolling(table, label=caption)])


def _cell(cell: Cell, tag: str, numeric: bool) -> Html:
    text, value = cell if isinstance(cell, tuple) else (cell, None)
    sort = None if value is None or value != value else repr(float(value))
    return element(tag, text, scope="row" if tag == "th" else None, class_="n" if numeric else None, data_sort=sort)


def _shown(value: str | float) -> str:
    return value if isinstance(value, str) else f"{round(value, 2) + 0.0:g}"
