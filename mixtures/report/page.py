"""The page around a report's sections: one file without network access, with the styles and script of this folder."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mixtures.report.html import Html, element, join
from mixtures.version import VERSION


@dataclass(frozen=True)
class Section:
    """A section of the page: its anchor `id`, its title, and the content below the title."""

    id: str
    title: str
    text: Html


def page(
    title: str, subtitle: str, sections: Sequence[Section], *, folds: Sequence[tuple[str, Sequence[Section]]] = ()
) -> str:
    """Return the whole HTML file; its first section is the verdict.

    `folds`: (title, sections) at the end, hidden until they are opened. The content security policy in the head lets a
    browser load nothing, and run only the script in this file.
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
