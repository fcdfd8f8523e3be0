"""What `overwrite=true` takes out of a store, under the names that its files have there."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from itertools import chain
from pathlib import Path

from extract.store import foreign, ledger, subfolders, units
from extract.store.differences import Comparison
from extract.store.existing import store_of
from extract.store.listed import noted_ids
from extract.store.metadata import Identity
from extract.store.resume import judge_again
from extract.store.store import Store
from extract.values import SAVED, AudioSettings


def replace(
    store: Store,
    identity: Identity,
    comparison: Comparison,
    gates: AudioSettings,
    ids: Iterable[str],
) -> None:
    """Drops all utterances; if only the gates differ, those that may not pass the new ones.

    If only the quantizer differs, drops the units and keeps the features.

    Args:
        store: as the run has it.
        identity: that the store has.
        comparison: of the two.
        gates: the run's.
        ids: of the run's recordings. What killed runs left of the recordings that other shards, or
            runs before, were given goes too.
    """
    if comparison.only_gates:
        judge_again(store, gates)
    elif comparison.only_units and store.features:
        units.drop(store.directory)
    else:
        was = _as_it_was(store, identity)
        _drop(store.directory, [was])
        if was is not store:  # the run's files may have other names, and replace none of these
            given = chain(ids, noted_ids(store.directory))
            for id_ in foreign.left_without_lines(was, given):
                was.layout.discard(id_)


def _as_it_was(store: Store, identity: Identity) -> Store:
    """The store with the layout and options of an identity, by which its files have their names.

    The run's own where it is one of archives, which names no file after an utterance, or where the
    layout cannot be had here.
    """
    with suppress(ValueError, TypeError, KeyError):  # or the metadata say what none can be
        was = store_of(store.directory, identity)
        return store if was.layout.holds_many else was
    return store


def drop_all(store: Store) -> None:
    """Drops all utterances of a store whose metadata do not say how its files have their names."""
    levels = subfolders.LEVELS if store.layout.takes_subfolders else ()
    each_way = [store.with_options(subfolders=number) for number in levels]
    _drop(store.directory, each_way or [store])


def _drop(directory: Path, stores: Iterable[Store]) -> None:
    """Removes every utterance that a ledger names as one of `stores` does, and the ledgers."""
    paths = ledger.ledger_paths(directory)
    for store in stores:
        lines = chain.from_iterable(map(store.read_lines, paths))
        store.layout.discard_all(record for _line, record in lines if record["status"] == SAVED)
    for path in paths:
        path.unlink()
