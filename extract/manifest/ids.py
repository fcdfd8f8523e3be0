"""Checks ids, so that every id can name files.

An id names an utterance's files: the store writes it with each of its layout's suffixes, `<id>`
and `<id>.pt`, below its folders, with "/" between folders. So an id must stay below the folder it
is put in. `extract.manifest.clashes` finds two ids that would name the same file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from extract.files import TEMPORARY_PREFIX

SUFFIXES = ("", ".pt")  # what GPT-SoVITS's layout adds to an id
MAX_NAME_BYTES = 255  # ext4, xfs, NTFS and APFS allow that much for one part of a path
MAX_SHOWN = 10
MAX_PATH_BYTES = 4095  # Linux opens no longer path
MAX_ID_BYTES = 4000  # Linux allows 4096 for a path; the store's own folder needs some

_UNUSUAL = re.compile(r"[\x00-\x1f\x7f-\x9f\\\ud800-\udfff]|(?:\A|/)(?:[./]|\Z)")
_NO_START = ("", ".", "/")  # an id's first character
_UNSAFE_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f\\\ud800-\udfff]")

# What no file can be called on Windows: `a:b` would be written into a hidden stream of `a`.
_NOT_ON_WINDOWS = re.compile(
    r"""[<>:"|?*] | [ .](?=/|\Z)
    | (?:\A|(?<=/)) (?:CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(?:COM|LPT)[1-9\u00b9\u00b2\u00b3])
      (?=[ ./]|\Z)""",
    re.VERBOSE | re.IGNORECASE,
)


def max_part_bytes(suffixes: Iterable[str]) -> int:
    """Bytes that a part of an id may have, so that a file's name holds it with any suffix."""
    return MAX_NAME_BYTES - max(len(suffix.encode()) for suffix in suffixes)


MAX_PART_BYTES = max_part_bytes(SUFFIXES)


def check_id(text: str, part_bytes: int = MAX_PART_BYTES) -> str | None:
    """What is wrong with `text` as an id; None if it can name files below any folder.

    Args:
        text: the id.
        part_bytes: that one part may have: `max_part_bytes` of the layout's suffixes.
    """
    if text.isascii():  # nearly every id is usual; without the pattern it shows in half of the time
        usual = text.isprintable() and "\\" not in text and "/." not in text and "//" not in text
        usual = usual and len(text) <= part_bytes and text[:1] not in _NO_START and text[-1] != "/"
    else:
        usual = 4 * len(text) <= part_bytes and not _UNUSUAL.search(text)
    problem = None if usual else _check_anywhere(text, part_bytes)
    if problem is None and os.name == "nt" and (found := _NOT_ON_WINDOWS.search(text)):
        return f"Windows calls no file so: {found[0]!r} is not possible there"
    return problem


def _check_anywhere(text: str, part_bytes: int) -> str | None:
    if unsafe := _UNSAFE_CHARACTER.search(text):
        return f"the character {unsafe[0]!a} is not safe in a file's name"
    if text.startswith("/"):
        return "an absolute path"
    if (num_bytes := len(text.encode())) > MAX_ID_BYTES:
        return f"{num_bytes} bytes; at most {MAX_ID_BYTES} are possible"
    problems = (_check_name(name, part_bytes) for name in text.split("/"))
    return next(filter(None, problems), None)


def _check_name(name: str, max_bytes: int) -> str | None:
    if name in ("", ".", ".."):
        return f"the part '{name}' names no file"
    if name.startswith(TEMPORARY_PREFIX):
        return f"names that start with {TEMPORARY_PREFIX!r} are kept for unfinished files"
    if (num_bytes := len(name.encode())) > max_bytes:
        return f"a part of {num_bytes} bytes; at most {max_bytes} are possible"
    return None
