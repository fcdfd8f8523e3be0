"""Where a list's recordings are: paths as people and tools write them, cleaned and looked for."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from extract.manifest.ids import MAX_PATH_BYTES
from extract.manifest.paths import StrPath, canonical, existing_list
from extract.systems import slashed
from extract.urls import file_name, is_url

_BLANKS_AND_QUOTES = " '\"\n\r\t\u202a"  # U+202A: what Windows copies in front of a path
_ENDS = _BLANKS_AND_QUOTES + "/"
_DRIVE = re.compile(r"[A-Za-z]:/")


class Places(NamedTuple):
    """Where recordings are looked for."""

    folders: list[str]  # where relative paths start; the first that has the recording wins
    names_only: bool = False  # only the recordings' file names are looked for there

    @classmethod
    def of_list(cls, path: StrPath) -> Places:
        """The working folder, then that of the list at `path`: of the link, if it is one."""
        beside_the_list = canonical(str(Path(existing_list(path)).parent))
        return cls([canonical(Path.cwd()), beside_the_list])

    def find(self, written: str, ending: str = "") -> str:
        """Where a recording is: by its path as `written` if that exists, else by the cleaned one.

        Args:
            written: its path in the list.
            ending: what the list leaves out behind it: `.wav`.

        Returns:
            An absolute path, which need not exist; "" if nothing is left of `written`.
        """
        if not self.names_only and _is_clean(written):
            return written + ending
        cleaned = clean_path(written)
        written = slashed(written)  # on Windows a backslash is no part of a name
        if self.names_only:
            written, cleaned = file_name(written), file_name(cleaned)
        elif _DRIVE.match(cleaned) or is_url(cleaned):
            return cleaned + ending  # a drive's path stays recognisable where there are no drives
        if not cleaned or (cleaned == written and cleaned[0] == "/"):
            return cleaned and cleaned + ending  # nothing to choose from, so no need to look
        nothing_else = cleaned == written or written[-1:] in ("", "/")
        texts = (cleaned,) if nothing_else else (written, cleaned)
        places = [
            text + ending if text[0] == "/" else f"{folder}/{text}{ending}"
            for text in texts
            for folder in self.folders
        ]
        if len(places) == 1:
            return places[0]
        expected = places[-len(self.folders)]
        return next(filter(os.path.lexists, places), expected)


def _is_clean(text: str) -> bool:
    """Whether `text` is an absolute path that `clean_path` leaves as it is."""
    return text[:1] == "/" and text[-1] not in _ENDS and "\\" not in text


def clean_path(text: str) -> str:
    """`text` without quotes and blanks around it and slashes behind it; backslashes as slashes.

    As GPT-SoVITS's `tools/my_utils.py:clean_path`, in whatever order these come.
    """
    slashes = text.replace("\\", "/")
    return slashes.lstrip(_BLANKS_AND_QUOTES).rstrip(_ENDS)


def check_path(path: str) -> str | None:
    """Why no file can have `path`; None if one can."""
    if "\0" in path:
        return "a null character in the path"
    try:
        num_bytes = len(path) if path.isascii() else len(path.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError as error:
        return f"the character {path[error.start]!a} in the path"
    if num_bytes > MAX_PATH_BYTES:
        return f"a path of {num_bytes:,} bytes; at most {MAX_PATH_BYTES:,} are possible"
    return None
