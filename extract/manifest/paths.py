"""Canonical paths: one name for a file or folder, however a path spells it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from extract.systems import StrPath as StrPath
from extract.systems import real_path
from extract.text import printable


def canonical(path: StrPath) -> str:
    """The one name of a folder or file, however `path` spells it: absolute, no links, no `..`.

    On Windows too with "/" between folders, so that an id can follow.
    """
    return real_path(os.path.expanduser(path))  # noqa: PTH111 (pathlib's may raise)


def same_place(stored: Any, source: Any) -> bool:
    """Whether a path of a store's metadata is that of `source`, which is canonical and printable.

    Stores made by earlier versions hold the path as the user spelled it, only made absolute.
    """
    try:
        return bool(stored == source or printable(real_path(stored)) == source)
    except (TypeError, ValueError, OSError):  # no text, or one that is no path
        return False


def existing_folder(path: StrPath) -> str:
    """The absolute form of `path`, links in it; ValueError if it is no folder."""
    return _existing(path, "folder", os.path.isdir)


def existing_list(path: StrPath) -> str:
    """The absolute form of `path`, links in it; ValueError if it is no file that can be read."""
    return _existing(path, "list", os.path.isfile)


def _existing(path: StrPath, kind: str, is_kind: Callable[[str], bool]) -> str:
    found = str(Path(os.path.expanduser(path)).absolute())  # noqa: PTH111 (pathlib's may raise)
    if not os.fspath(path) or not is_kind(found):
        shown = printable(os.fspath(path)) or "(nothing)"
        raise ValueError(f"{shown}: no such {kind}; looked for {printable(found)}")
    return found
