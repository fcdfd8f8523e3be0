"""Folders of network file systems, of which this machine may remember what was there seconds ago.

NFS keeps a folder's listing, and which names are not there, for up to a minute. It asks the server
again once this machine itself has changed the folder. File systems of FUSE may keep names that are
not there longer than that, but no listings.
"""

from __future__ import annotations

import errno
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from extract.files import NEW_FILE, TEMPORARY_PREFIX

LONGEST_S = 120.0  # that a machine may take a file for missing which the server lists
POLL_S = 0.1


def look_again(folder: Path, matters: Callable[[str], object] = bool) -> None:
    """Makes what this process sees of a folder at least as new as this call.

    Changes the folder, and waits until the names that it lists can be opened.

    Args:
        folder: what may be remembered as it was.
        matters: which names to wait for.

    Raises:
        OSError: it takes no file, or lists names that cannot be found.
    """
    path = folder / f"{TEMPORARY_PREFIX}look-{os.getpid()}-{secrets.token_hex(4)}"
    os.close(os.open(path, NEW_FILE, 0o666))
    path.unlink()
    ends = time.monotonic() + LONGEST_S
    while missing := _missing(folder, matters):
        if time.monotonic() >= ends:
            raise OSError(errno.ESTALE, "listed, and not to be found", str(folder / missing[0]))
        time.sleep(POLL_S)


def _missing(folder: Path, matters: Callable[[str], object]) -> list[str]:
    """Names that the folder lists and that are not to be found: removed, or not yet seen here."""
    names = filter(matters, os.listdir(folder))  # noqa: PTH208 - names alone
    return [name for name in names if not os.path.lexists(folder / name)]
