"""Makes a store forget utterances, so that the next run does them again."""

from __future__ import annotations

from collections.abc import Set
from functools import partial
from pathlib import Path

from extract.store import ledger
from extract.store.existing import existing_store
from extract.store.lock import StoreBusy, locked
from extract.text import printable
from extract.write_errors import explained


def forget(directory: Path, ids: Set[str]) -> int:
    """Removes utterances and their lines, and lines that no run can have written.

    Returns:
        The number of lines removed.

    Raises:
        ValueError: what the files are is not known, or another process works in the store
            (`StoreBusy`).
        StoreUnusable: the disk takes no change.
    """
    store, removed = existing_store(directory), 0
    settle = partial(_need_to_be_alone, directory)
    with explained(directory), locked(directory, settle=settle, guard=store.guard_with):
        for path in ledger.ledger_paths(directory):
            store.fence()
            before = sum(1 for _line in ledger.lines(path))
            mine = (record for _line, record in store.read_lines(path) if record["id"] in ids)
            store.layout.discard_all(mine)
            kept = [line for line, record in store.read_lines(path) if record["id"] not in ids]
            if len(kept) < before:
                ledger.rewrite(path, kept)
                removed += before - len(kept)
    return removed


def _need_to_be_alone(directory: Path, alone: bool) -> None:
    if not alone:
        where = printable(str(directory))
        raise StoreBusy(f"{where}: a run is at work here; wait for it, or stop it")
