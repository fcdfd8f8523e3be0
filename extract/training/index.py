"""Which items a `FeatureDataset` has, and where the store has each: in flat arrays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from extract.data.dataset import AudioDataset
from extract.manifest.strings import PackedStrings
from extract.store.resume import ResumePolicy, would_remain
from extract.store.saved import Saved, SavedCollector, Table, read_saved
from extract.store.store import Store
from extract.text import count, printable
from extract.values import SAVED, Failure, Recording

NOWHERE: Final = -1  # the row of an item that the store lacks
MAX_SHOWN = 5  # ids that a message names


@dataclass(frozen=True)
class Index:
    """The items of a dataset by their position."""

    saved: Saved
    rows: Table  # (num_items,) int64: the row of `saved`, or NOWHERE
    failures: dict[int, Failure]  # of items that gave no features
    ids: PackedStrings | None  # of the items; None: those of their rows
    failed: Counter[str]  # how many recordings gave no features, by their reason

    def __len__(self) -> int:
        return len(self.rows.rows)

    def row(self, position: int) -> int:
        """The row of an item, or NOWHERE."""
        return int(self.rows.rows[position])

    def id(self, position: int) -> str:
        """The id of an item."""
        return self.saved.ids[self.row(position)] if self.ids is None else self.ids[position]

    def share(self) -> Index:
        """The same in shared memory, for workers that are not forked."""
        ids = None if self.ids is None else self.ids.share()
        return replace(self, saved=self.saved.share(), rows=self.rows.share(), ids=ids)


def index_of_store(store: Store, wanted: Iterable[str] | None = None) -> Index:
    """All utterances that a store has, in its ledgers' order, or those that are wanted, in theirs.

    Raises:
        ValueError: no ledger of the store has a line of one that is wanted.
    """
    found = read_saved(store)
    order = list(found.row_of) if wanted is None else list(wanted)
    unknown = [id_ for id_ in order if id_ not in found.row_of and id_ not in found.failed]
    if unknown:
        raise ValueError(_unknown(store, unknown))
    rows = [found.row_of[id_] for id_ in order if id_ in found.row_of]
    failed = found.failed if wanted is None else set(order) & found.failed.keys()
    reasons = Counter(str(found.failed[id_]["reason"]) for id_ in failed)
    return Index(found.saved, _table(rows), {}, None, reasons)


def _unknown(store: Store, ids: Sequence[str]) -> str:
    more = f" and {len(ids) - MAX_SHOWN:,} more" if len(ids) > MAX_SHOWN else ""
    named = ", ".join(printable(id_)[:100] for id_ in ids[:MAX_SHOWN]) + more
    return (
        f"{store.shown}: no line of {count(len(ids), 'recording')}: {named}. "
        "Ways out: run the command to its end, or fallback=Encoder(...), which computes them"
    )


def index_of_recordings(store: Store, recordings: AudioDataset) -> Index:
    """All recordings of a dataset, with what the store holds that is true of them now.

    A run of the command would find the same, but that it tries again what failed.
    """
    manifest = recordings.manifest
    collector = SavedCollector(store.layout)
    rows, failures = np.full(len(manifest), NOWHERE), dict[int, Failure]()
    index_of = {id_: index for index, id_ in enumerate(manifest.ids)}

    def keep(record: Mapping[str, Any]) -> None:
        index = index_of[record["id"]]
        if record["status"] != SAVED:
            failures[index] = failure_of(record, index)
        elif collector.add(record):
            rows[index] = len(collector) - 1

    would_remain(manifest, store, ResumePolicy(retry_failed=False), kept_one=keep)
    reasons = Counter(str(failure.reason) for failure in failures.values())
    return Index(collector.finish(), _table(rows), failures, manifest.ids, reasons)


def failure_of(record: Mapping[str, Any], index: int) -> Failure:
    """The failure that a line of the ledger is of."""
    recording = Recording(
        index,
        record["id"],
        str(record.get("path") or ""),
        peak=record.get("peak"),
        duration_s=record.get("duration_s"),
    )
    return Failure(recording, record["reason"], str(record.get("detail") or ""))


def _table(rows: Any) -> Table:
    return Table(np.asarray(rows, np.int64))
