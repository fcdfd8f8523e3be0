"""Sorts the lines of a store's ledgers into those of another number of shards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from extract.shard import Shard, index_of
from extract.store import ledger
from extract.store.store import Store
from extract.systems import unlink
from extract.values import SAVED


def reshard(store: Store, shard: Shard) -> set[str]:
    """Sorts the lines of all ledgers into the ledgers of this sharding, one line an utterance.

    Writes nothing if they are sorted already. Call it only while no other process works there.

    Returns:
        The ids of all utterances that a line says are saved, or said before it was damaged.
    """
    directory = store.directory
    index_named = {some.ledger_name: some.index for some in shard.all()}
    saved, others, are_sorted = set[str](), set[str](), True
    for path in ledger.ledger_paths(directory):
        index = index_named.get(path.name)
        are_sorted = are_sorted and index is not None
        for id_, is_saved in ledger.heads(path):
            if are_sorted:
                here = shard.count == 1 or index == index_of(id_, shard.count)
                are_sorted = here and id_ not in saved and id_ not in others
            (saved if is_saved else others).add(id_)
    if not are_sorted:
        _sort(store, index_named)
    return saved


def _sort(store: Store, index_named: Mapping[str, int]) -> None:
    paths = ledger.ledger_paths(store.directory)
    strangers = [path for path in paths if path.name not in index_named]
    lines: dict[int, dict[str, bytes]] = {index: {} for index in index_named.values()}
    for path in [*(path for path in paths if path.name in index_named), *strangers]:
        for line, record in store.read_lines(path):
            mine = lines[index_of(record["id"], len(index_named))]
            if _is_better(record, mine.get(record["id"]), store):
                mine[record["id"]] = line
    store.fence()
    for name, index in index_named.items():
        path = store.directory / name
        if lines[index] or path.exists():
            ledger.rewrite(path, lines[index].values())
    for path in strangers:
        unlink(path)


def _is_better(record: Mapping[str, Any], other: bytes | None, store: Store) -> bool:
    """Whether an utterance's line is to replace another line of it that was read before."""
    earlier = other and ledger.parse(other)
    if not earlier or record == earlier:
        return True
    return _is_kept(record, store) or not _is_kept(earlier, store)


def _is_kept(record: Mapping[str, Any], store: Store) -> bool:
    return record["status"] == SAVED and store.intact(record)
