"""Keys in archives: an id as a format can hold it, and back. No two ids have one key."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

# A "%" before two hex digits is written as %25, so that it is not taken for an escape.
_LIKE_AN_ESCAPE = r"%(?=[0-9A-Fa-f]{2})"


def escaping(unsafe: str) -> re.Pattern[str]:
    """A pattern for `key_of`: what no key may hold, given as a regular expression."""
    return re.compile(f"{_LIKE_AN_ESCAPE}|{unsafe}")


def key_of(id: str, escaping: re.Pattern[str]) -> str:  # noqa: A002 - the ledger's own word
    """An id with its unsafe characters as in a URL: `a b` is `a%20b`. Most ids stay as they are."""
    return escaping.sub(lambda found: _escaped(found[0]), id)


def id_of(key: str) -> str:
    """The id that `key_of` made a key of."""
    return unquote(key)


def _escaped(text: str) -> str:
    quoted = quote(text, safe="")
    return quoted if quoted != text else "".join(f"%{byte:02X}" for byte in text.encode())
