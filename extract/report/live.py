"""A page that is written anew every minute while a run is at work: `report.page=live`.

A thread waits for the minute and for the process that makes the page. The run's own loop has
nothing to do with it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from extract.files import read_whole, replace_whole
from extract.report.child import make
from extract.report.place import REFRESH, is_live, page_of

FIRST_S = 10.0  # after the run began
EVERY_S = 60.0  # from one beginning to the next


@contextmanager
def kept_live(store: Path) -> Iterator[None]:
    """Writes the store's page anew every minute while the block runs.

    At the end of the block the process that makes a page is killed, and browsers are no longer told
    to load the page anew.
    """
    ended = threading.Event()
    thread = threading.Thread(target=_rewrite, args=(store, ended), name="live page", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with suppress(OSError):
            settle(page_of(store))


def _rewrite(store: Path, ended: threading.Event) -> None:
    """Makes one page after the other, with a pause between that is as long as making one took."""
    pause_s = FIRST_S
    while not ended.wait(pause_s):
        began = time.monotonic()
        make([store], ended.is_set, live=True)  # a problem with the last page is said at the end
        took_s = time.monotonic() - began
        pause_s = max(took_s, EVERY_S - took_s)


def settle(page: Path) -> None:
    """Takes out of a live page what makes browsers load it anew.

    Raises:
        OSError: it cannot be read or written.
    """
    if is_live(page):
        replace_whole(page, read_whole(page).replace(REFRESH.encode(), b"", 1), fsync=False)
