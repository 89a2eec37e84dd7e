"""The page around a report's sections: one file, no network; styles and script are the package's report.css and
report.js.
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mixtures.report.html import Html, element, join
from mixtures.version import VERSION


@dataclass(frozen=True)
class Section:
    """A part of the page. `id` is its anchor; `text`: what stands under the title."""

    id: str
    title: str
    text: Html


def page(
    title: str, subtitle: str, sections: Sequence[Section], *, folds: Sequence[tuple[str, Sequence[Section]]] = ()
) -> str:
    """The whole HTML file: the first section is the verdict; `folds`: (title, sections) that open on demand, at the
    end.

    The policy in its head lets a browser load nothing and run nothing but the script that is written here.
    """
    style, script = (Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    hashed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{hashed}'; img-src data:"
    links = element(
        "nav", element("ul", *(_link(section.id, section.title) for section in sections)), aria_label="Sections"
    )
    more = [element("details", element("summary", name), *map(_section, parts)) for name, parts in folds]
    body = [
        element("header", element("h1", title), element("p", subtitle, class_="quiet"), links),
        element(
            "main",
            _section(sections[0], class_="verdict"),
            *map(_section, sections[1:]),
            element("article", *more) if more else "",
        ),
        element("footer", element("p", f"Made by `mixtures report`, version {VERSION}.", class_="quiet")),
        element("script", Html(script)),
    ]
    head = [
        Html('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{policy}"><link rel="icon" href="data:,">'),
        element("title", title),
        element("style", Html(style)),
    ]
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>{join(head)}</head>\n<body>{join(body)}</body>\n</html>\n'


def _link(anchor: str, text: str) -> Html:
    return element("li", element("a", text, href=f"#{anchor}"))


def _section(section: Section, class_: str | None = None) -> Html:
    heading = element("h2", section.title, id=f"{section.id}-title")
    return element(
        "section", heading, section.text, id=section.id, class_=class_, aria_labelledby=f"{section.id}-title"
    )
