"""What a list says of a recording beside its place: kept as JSON, up to the ledger's line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from extract.text import shortened

MAX_EXTRA = 8192  # characters for one entry: a manifest holds those of all its entries
MAX_DEPTH = 32  # objects and lists within one another: readers of JSON allow only so many

# Text for what JSON has no form for, such as a date; NaN raises, since no other reader takes it.
_ENCODER = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, default=str, separators=(",", ":"), check_circular=False
)


def extra_of(values: Mapping[str, Any]) -> str | None:
    """`values` as the JSON text of an object, for `Entry.extra`; None if there are none.

    A value that JSON cannot hold, NaN for one, becomes null, and so does one of more than
    `MAX_DEPTH` levels. Of a text of more than `MAX_EXTRA` characters the longest values become
    null, one by one, until it is short enough.
    """
    if not values:
        return None
    try:
        text = _ENCODER.encode(values)
    except (ValueError, RecursionError):
        text = ""
    may_be_deep = text.count("[") + text.count("{") > MAX_DEPTH
    if not text or len(text) > MAX_EXTRA or (may_be_deep and not _is_flat(values)):
        text = _bounded(values)
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def check_extra(text: str) -> str | None:
    """What is wrong with `text` as an `Entry.extra`; None if a line of the ledger can hold it."""
    try:
        is_object = isinstance(json.loads(text), dict) and "\n" not in text
    except (ValueError, RecursionError):
        is_object = False
    return None if is_object else f"extra: {shortened(text)}; needed what `extra_of` returns"


def _bounded(values: Mapping[str, Any]) -> str:
    texts = {key: _text(value) for key, value in values.items()}
    sizes = {key: len(_text(key)) + len(text) + 2 for key, text in texts.items()}  # with : and ,
    total = sum(sizes.values())
    for key in sorted(sizes, key=sizes.__getitem__, reverse=True):
        if total < MAX_EXTRA:
            break
        total -= len(texts[key]) - len("null")
        texts[key] = "null"
    members = ",".join(f"{_text(key)}:{text}" for key, text in texts.items())
    return f"{{{members if total < MAX_EXTRA else ''}}}"


def _text(value: Any) -> str:
    if not _is_flat(value, MAX_DEPTH - 1):
        return "null"
    try:
        return _ENCODER.encode(value)
    except ValueError:
        return "null"


def _is_flat(value: Any, levels: int = MAX_DEPTH) -> bool:
    """Whether objects and lists lie within one another in at most so many `levels`."""
    inner = value.values() if isinstance(value, dict) else value
    if not isinstance(value, dict | list | tuple):
        return True
    return levels > 0 and all(_is_flat(one, levels - 1) for one in inner)
