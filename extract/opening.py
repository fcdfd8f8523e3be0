"""A store opened by a run: it holds numbers of the run's kind alone, or the run does not start."""

from __future__ import annotations

from collections.abc import Mapping

from extract import ledger, metadata
from extract.audio import AudioSettings
from extract.lock import door
from extract.metadata import Comparison, Identity
from extract.resume import judge_again, reshard
from extract.store import Store


def open_store(
    store: Store,
    run: Identity,
    made_with: Mapping[str, str],
    *,
    gates: AudioSettings,
    shard_count: int,
    overwrite: bool,
) -> None:
    """Goes on in a store of the same identity, or makes it one if told to; tidies it if alone.

    Raises:
        ValueError: the store holds other numbers.
    """
    with door(store.directory) as alone:
        known = metadata.read(store.directory)
        comparison = metadata.compare(known and known["identity"], run)
        if comparison.differing:
            if not overwrite or not alone:
                raise ValueError(comparison.message(store.directory))
            _replace(store, comparison, gates)
        if alone:
            reshard(store.directory, shard_count)
            store.sweep()
        metadata.write(store.directory, run, made_with)


def _replace(store: Store, comparison: Comparison, gates: AudioSettings) -> None:
    """Drops what is there; where only the gates changed, nothing that passes them."""
    if comparison.only_gates:
        judge_again(store.directory, gates)
        return
    for record in ledger.read(store.directory):
        store.discard(record["id"])
    for path in ledger.ledger_paths(store.directory):
        path.unlink()
