"""Reads a page as a browser would: its elements, their attributes and their text."""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

VOID = {"img", "meta", "br", "link", "input"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str | None]
    inside: list["Element | str"] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(one if isinstance(one, str) else one.text for one in self.inside)

    def all(self, tag: str = "", **attributes: str) -> list["Element"]:
        """Every element below of that tag and those attributes (`class_`), in order."""
        found = []
        for one in self.inside:
            if isinstance(one, Element):
                wanted = {key.rstrip("_"): value for key, value in attributes.items()}
                if tag in ("", one.tag) and wanted.items() <= one.attributes.items():
                    found.append(one)
                found += one.all(tag, **attributes)
        return found

    def rows(self, caption: str) -> list[list[str]]:
        """The body of the table with that caption, as text."""
        [table] = [one for one in self.all("table") if one.all("caption")[0].text == caption]
        [body] = table.all("tbody")
        return [[cell.text for cell in row.all() if cell.tag in "th td"] for row in body.all("tr")]


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.root = Element("", {})
        self.open = [self.root]

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), (tag, attrs)
        element = Element(tag, dict(attrs))
        self.open[-1].inside.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open.pop().tag == tag

    def handle_data(self, data):
        self.open[-1].inside.append(data)


def page(path: Path) -> Element:
    parser = _Parser()
    parser.feed(path.read_text("utf8"))
    parser.close()
    assert parser.open == [parser.root]  # all is closed
    return parser.root
