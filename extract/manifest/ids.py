"""What may be an id.

An id names an utterance's files: the store writes `<id>` and `<id>.pt` below its folders, with "/"
between folders. So an id must stay below the folder it is put in. (`extract.manifest.clashes`: no
two may meet there.)
"""

from __future__ import annotations

import re

from extract.files import TEMPORARY_PREFIX

SUFFIXES = ("", ".pt")  # what the store adds to an id
MAX_NAME_BYTES = 255  # ext4, xfs, NTFS and APFS allow that much for one part of a path
MAX_PART_BYTES = MAX_NAME_BYTES - max(map(len, SUFFIXES))
MAX_SHOWN = 10
MAX_PATH_BYTES = 4095  # Linux opens no longer one
MAX_ID_BYTES = 4000  # Linux allows 4096 for a path; the store's own folder needs some

_UNUSUAL = re.compile(r"[\x00-\x1f\x7f-\x9f\\\ud800-\udfff]|(?:\A|/)(?:[./]|\Z)")
_UNSAFE_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f\\\ud800-\udfff]")


def check_id(text: str) -> str | None:
    """What is wrong with `text` as an id; None if it can name files below any folder."""
    most_bytes = len(text) if text.isascii() else 4 * len(text)
    if most_bytes <= MAX_PART_BYTES and not _UNUSUAL.search(text):
        return None  # nearly every id, at a third of the time
    if unsafe := _UNSAFE_CHARACTER.search(text):
        return f"the character {unsafe[0]!a} is not safe in a file's name"
    if text.startswith("/"):
        return "an absolute path"
    if (num_bytes := len(text.encode())) > MAX_ID_BYTES:
        return f"{num_bytes} bytes; at most {MAX_ID_BYTES} are possible"
    return next(filter(None, map(_check_name, text.split("/"))), None)


def _check_name(name: str) -> str | None:
    if name in ("", ".", ".."):
        return f"the part '{name}' names no file"
    if name.startswith(TEMPORARY_PREFIX):
        return f"names that start with {TEMPORARY_PREFIX!r} are kept for unfinished files"
    if (num_bytes := len(name.encode())) > MAX_PART_BYTES:
        return f"a part of {num_bytes} bytes; at most {MAX_PART_BYTES} are possible"
    return None
