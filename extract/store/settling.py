"""The ledgers' side of archives: lines follow their utterances, and what lists these is whole.

No effect, and no ledger is read, where a layout has no archives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from extract.shard import Shard
from extract.store import ledger
from extract.store.layout import Kept, Moved
from extract.store.lock import starting
from extract.store.store import Store
from extract.values import SAVED
from extract.write_errors import explained


def settle(store: Store, shard: Shard, *, alone: bool) -> None:
    """Brings archives and lines into agreement: `Layout.settle`.

    The caller holds the start-up lock.

    Args:
        store: the store.
        shard: the one whose lock this process holds.
        alone: whether no other process works there: then the lines of all ledgers may follow.

    Raises:
        StoreUnusable: an archive, a list or a ledger cannot be written.
    """
    if not store.layout.holds_many:
        return
    paths = ledger.ledger_paths(store.directory)
    store.fence()
    mine = [path for path in paths if alone or path.name == shard.ledger_name]
    others = [path for path in paths if path not in mine]
    with explained(store.directory):
        for moved in store.layout.settle(
            partial(_saved, mine), partial(_saved, others), alone=alone
        ):
            for path in mine:
                ledger.rewrite(path, _followed(path, moved))


def settle_again(store: Store, shard: Shard) -> None:
    """Settles archives once lines of this shard were dropped; waits for the start-up lock."""
    if store.layout.holds_many:
        with explained(store.directory), store.place.starting():
            settle(store, shard, alone=False)


def finish(store: Store) -> None:
    """Writes what lists the store's utterances, after a run's last line: `Layout.finish`.

    Then publishes what is not published yet.
    """
    if store.layout.holds_many:
        paths = partial(ledger.ledger_paths, store.directory)
        with explained(store.directory), starting(store.directory):
            store.fence()
            store.layout.finish(lambda: _saved(paths()))
    store.place.publish(last=True)


def _saved(paths: Sequence[Path]) -> Iterator[Mapping[str, Any]]:
    for path in paths:
        for _line, record in ledger.read_lines(path):
            if record["status"] == SAVED:
                yield record


def _followed(path: Path, moved: Moved) -> Iterator[bytes]:
    """A ledger's lines with the places where utterances are now, but for those that are gone."""
    for line, record in ledger.read_lines(path):
        kept = Kept.of(record) if record["status"] == SAVED else None
        files = [moved(file) for file in kept.files] if kept else []
        if None in files:
            continue
        same = kept is None or tuple(files) == kept.files
        yield line if same else ledger.line_of({**record, "files": files})
