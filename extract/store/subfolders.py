"""Sub-folders by a hash of the id: a million files of one list in no folder of more than thousands.

With one level, `a.wav` is in `bc/`, with two in `bc/30/`: the first hexadecimal digits of the
SHA-256 of the id in UTF-8 (`printf %s a.wav | sha256sum`). So where a file is follows from the id
and the number of levels alone, in any run, shard and program.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from extract.manifest.strings import PackedStrings

KEY = "store.subfolders"  # of the identity
AUTO = "auto"
LEVELS = (0, 1, 2)
NEEDED = "0, 1, 2 or auto"
MOST_WITHOUT = 50_000  # utterances in one folder of the list, up to which `auto` makes none
MOST_OF_ONE_LEVEL = 1_000_000  # 256 folders of 3,900 each

_DIGITS = 2  # of each level: 256 folders


def is_subfolders(value: Any) -> bool:
    """Whether a value is one of `NEEDED`."""
    return value == AUTO or (type(value) is int and value in LEVELS)


def folder_of(id: str, levels: int) -> str:  # noqa: A002 - the ledger's own word
    """The sub-folder of an utterance's files, with a slash at its end: `bc/`; "" without levels."""
    if not levels:
        return ""
    digits = hashlib.sha256(id.encode("utf8", "backslashreplace")).hexdigest()
    return "".join(f"{digits[_DIGITS * at : _DIGITS * (at + 1)]}/" for at in range(levels))


def id_below(name: str, levels: int) -> str | None:
    """The id whose sub-folder and self make `name`: `a.wav` of `bc/a.wav`; None of other names."""
    if not levels:
        return name or None
    id_ = name[(_DIGITS + 1) * levels :]
    return id_ if id_ and name == f"{folder_of(id_, levels)}{id_}" else None


def fullest(ids: PackedStrings) -> int:
    """How many utterances of a list would lie in one folder, where most of them do."""
    if len(ids) <= MOST_WITHOUT:
        return len(ids)
    return max(Counter(raw.rpartition(b"/")[0] for raw in ids.iter_bytes()).values())


def levels_for(num: int) -> int:
    """The number of levels that `auto` means where so many utterances would lie in one folder."""
    return (num > MOST_WITHOUT) + (num > MOST_OF_ONE_LEVEL)
