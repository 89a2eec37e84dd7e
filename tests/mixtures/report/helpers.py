"""A page of `mixtures report`, taken apart."""

from html.parser import HTMLParser

VOID = {"meta", "link"}


class Page(HTMLParser):
    """What a page holds; fails where a tag is not closed by its own kind."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.words: list[str] = []
        self._open: list[str] = []
        self._table: list[list[str]] = []
        self.feed(text)
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        facts = dict(attrs)
        self.elements.append((tag, facts))
        if tag == "table":
            self._table = self.tables[str(facts["aria-label"])] = []
        if tag == "tr":
            self._table.append([])
        if tag in ("td", "th"):
            self._table[-1].append("")
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("style", "script"):
            self.words.append(data)
        if set(self._open[-2:]) & {"td", "th"}:
            self._table[-1][-1] += data

    @property
    def text(self) -> str:
        """Everything that is to be read."""
        return "".join(self.words)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """Attributes of every element of a kind."""
        return [facts for name, facts in self.elements if name == tag]

    def column(self, table: str, name: str) -> dict[str, str]:
        """{first cell: the cell under a heading} of a table whose caption begins so."""
        header, *rows = next(cells for caption, cells in self.tables.items() if caption.startswith(table))
        return {row[0]: row[header.index(name)] for row in rows}
