"""Where a store's page lies, and whether what lies there is a page and still true."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from extract.files import open_regular
from extract.manifest.folders import REPORT
from extract.store.ledger import ledger_paths

TITLE = "Extraction report: "  # begins the title of every page
HEAD = 4096  # bytes of a page in which its title stands


def page_of(store: Path) -> Path:
    """The page's file."""
    return store / REPORT


def is_foreign(path: Path) -> bool:
    """Whether a file that no run made has the page's name: a store may lie beside recordings."""
    try:
        with open_regular(path) as file:
            return f"<title>{TITLE}".encode() not in file.read(HEAD)
    except OSError:
        return False  # nothing there, or nothing that holds data


def is_current(store: Path) -> bool:
    """Whether a store has a page that is newer than its ledgers: every run writes the metadata."""
    page = page_of(store)
    with suppress(OSError):
        made = page.stat().st_mtime_ns
        newer = all(made >= path.stat().st_mtime_ns for path in ledger_paths(store))
        return newer and not is_foreign(page)
    return False
