"""Stores at URLs: the folder in which one is worked on, and that in which any store is read."""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from extract.manifest.folders import PRIVATE
from extract.remote.objects import Objects, require_folder
from extract.shard import LEDGER_NAME
from extract.store import metadata
from extract.urls import folder_name, is_url, redacted


def working_folder(url: str, scratch: str | None) -> str:
    """The folder in which a store at a URL is worked on: `scratch`, or one in the user's cache.

    Its name holds no secret of the URL, and stays the same when these change.
    """
    if scratch:
        return scratch
    shown = redacted(url.rstrip("/"))
    name = f"{folder_name(shown)}-{hashlib.sha256(shown.encode()).hexdigest()[:12]}"
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
    return f"{cache}/extract/stores/{name}"


def folder_with_ledgers(store: str) -> Path:
    """A store's folder; of one at a URL a copy of its metadata and ledgers: see `_folder`."""
    return _folder(store, lambda name: name == metadata.NAME or bool(LEDGER_NAME.fullmatch(name)))


def folder_with_all(store: str) -> Path:
    """A store's folder; of one at a URL a copy of all but its locks: see `_folder`."""
    of_runs = f"{PRIVATE}/", f"{PRIVATE}/listed-"
    return _folder(
        store, lambda name: name.startswith(of_runs[1]) or not name.startswith(of_runs[0])
    )


def _folder(store: str, is_wanted: Callable[[str], bool]) -> Path:
    """The folder in which a store can be read: its own, or a temporary copy of one at a URL.

    Args:
        store: its folder or URL.
        is_wanted: whether a file, by its name below a store at a URL, is in the copy, which is
            removed when this process ends.

    Raises:
        ValueError: no store can be there, or a package is missing.
        OSError: the object store cannot be reached, or the disk is full.
    """
    if not is_url(store):
        return Path(store).expanduser()
    require_folder(store)
    objects = Objects(store)
    folder = Path(tempfile.mkdtemp(prefix="extract-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name in filter(is_wanted, objects.list()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        objects.download(name, folder / name)
    return folder
