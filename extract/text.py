"""Counts, names, values and foreign text as a message or a table's cell holds them."""

from __future__ import annotations

from enum import Enum
from typing import Any

MAX_SHOWN_CHARACTERS = 200


def count(number: int, noun: str) -> str:
    """A number with its noun: `1 batch`, `2,000 batches`, `2 entries`."""
    if number == 1:
        return f"1 {noun}"
    plural = noun[:-1] + "ie" if noun.endswith("ry") else noun + "e" * noun.endswith("ch")
    return f"{number:,} {plural}s"


def shown(text: str, most: int) -> str:
    """`text` with the unprintable escaped, in at most `most` characters.

    A longer one keeps its start and its end, which tell paths apart, around an ellipsis. What is
    escaped already stays as it is.
    """
    if len(text) <= most and text.isprintable():
        return text  # nearly every text
    head, tail = _escaped(text[:most]), _escaped(text[-most:])  # never all of a text of megabytes
    if len(text) <= most and len(head) <= most:
        return head
    half = most // 2
    return f"{head[: most - half - 1]}…{tail[-half:]}"


def printable(text: str) -> str:
    """`text`, its unprintable characters escaped so that different texts stay different."""
    if text.isprintable() and "\\" not in text:
        return text
    return _escaped(text, also="\\")


def escaped(text: str) -> str:
    """`text` with the unprintable escaped. What is escaped already stays as it is."""
    return text if text.isprintable() else _escaped(text)


def _escaped(text: str, also: str = "") -> str:
    return "".join(c if c.isprintable() and c not in also else ascii(c)[1:-1] for c in text)


def shortened(text: str) -> str:
    """`text` printable and of a length that a message can hold; says how much is left out."""
    more = len(text) - MAX_SHOWN_CHARACTERS
    shown = printable(text[:MAX_SHOWN_CHARACTERS])
    return f"{shown}... and {more:,} characters more" if more > 0 else shown


def typed(value: Any) -> str:
    """A value as the command line takes it: `null`, `true`, `[6,9]`."""
    if value is None:
        return "null"
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(map(typed, value))}]"
    return str(value)
