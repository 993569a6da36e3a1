"""An HTML page taken apart: its tags, scripts, texts and tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser


@dataclass
class ShownCell:
    """A cell of a table: its text, and ``value``: its data-value, None where it has none."""

    text: str
    value: str | None

    @property
    def number(self) -> float | None:
        """The number in full; None where there is none."""
        return float(self.value) if self.value else None


@dataclass
class ShownTable:
    """A table: heads of its last row of heads, and its body."""

    id: str
    heads: list[str] = field(default_factory=list)
    rows: list[list[ShownCell]] = field(default_factory=list)


class Tags(HTMLParser):
    """Every tag with its attributes, every script with its text, and all other text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self.tables: dict[str, ShownTable] = {}
        self._inside = ""
        self._table: ShownTable | None = None
        self._cell: ShownCell | None = None
        self._in_head = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")
        self._start_of_table(tag, dict(attrs))

    def _start_of_table(self, tag: str, attributes: dict[str, str | None]) -> None:
        if tag == "table":
            self._table = ShownTable(attributes.get("id") or "")
            self.tables[self._table.id] = self._table
        if self._table is None:
            return
        if tag in ("thead", "tbody"):
            self._in_head = tag == "thead"
        elif tag == "tr" and self._in_head:
            self._table.heads = []
        elif tag == "tr":
            self._table.rows.append([])
        elif tag in ("th", "td"):
            self._cell = ShownCell("", attributes.get("data-value"))
            if not self._in_head:
                self._table.rows[-1].append(self._cell)

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""
        if tag == "table":
            self._table = None
        elif tag in ("th", "td") and self._cell is not None:
            self._cell.text = self._cell.text.strip()
            if self._in_head and self._table is not None:
                self._table.heads.append(self._cell.text)
            self._cell = None

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.text += data
            if self._cell is not None:
                self._cell.text += data
