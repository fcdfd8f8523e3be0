"""HTML and SVG whose text is escaped unless it was made here."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable

from extract.text import shown

MAX_TEXT = 300  # characters of a text that a store holds: names, details, settings

VOID = frozenset({"audio", "br", "img", "meta"})  # `audio` may have content, but has none here


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Content = str | Iterable["Content"] | None


def tag(name: str, /, *content: Content, **attributes: str | float | bool | None) -> Markup:
    """An element. Text in it is escaped; `Markup` is taken as it is.

    An attribute's `_` stands for `-`, and one at its end for nothing (`class_`). True is an
    attribute without a value; None and False leave it out.
    """
    said = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{_safe(value)}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    ending = "" if name in VOID - {"audio"} else f"</{name}>"
    return Markup(f"<{name}{said}>{joined(content)}{ending}")


def joined(content: Content) -> Markup:
    """Contents one after the other."""
    if content is None:
        return Markup("")
    if isinstance(content, str):
        return Markup(content if isinstance(content, Markup) else _safe(content))
    return Markup("".join(map(joined, content)))


def _safe(value: object) -> str:
    return html.escape(str(value).encode("utf8", "backslashreplace").decode())


def name_of(text: object) -> str:
    """A text of the store's as the page shows it: printable, of bounded length, not yet escaped."""
    return shown(str(text), MAX_TEXT)


def data_uri(kind: str, data: bytes) -> str:
    """`data` as the address of a picture or a sound that is in the page itself."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def table(caption: str, heads: Iterable[str], rows: Iterable[Iterable[Content]]) -> Markup:
    """A table with a caption; the first cell of a row is its head. It scrolls in its own box."""
    top = tag("tr", (tag("th", head, scope="col") for head in heads))
    body = []
    for first, *rest in rows:
        cells = (tag("td", cell) for cell in rest)
        body.append(tag("tr", tag("th", first, scope="row"), cells))
    inside = tag("table", tag("caption", caption), tag("thead", top), tag("tbody", body))
    return tag("div", inside, class_="scrolls", tabindex="0", role="region", aria_label=caption)
