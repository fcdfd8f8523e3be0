"""Finds what is left to do: compares the manifest with the ledger, the ledger with the files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.data.dataset import stamp
from extract.manifest.manifest import Manifest
from extract.opener import MISSING
from extract.shard import Shard, index_of
from extract.store import ledger
from extract.store.store import Store
from extract.systems import unlink
from extract.values import FAILED, OF_A_SOURCE, REJECTED, SAVED, AudioSettings


@dataclass(frozen=True)
class ResumePolicy:
    """Which lines of earlier runs are accepted, so that their recordings are not done again."""

    retry_failed: bool = True  # a failed recording is tried again
    checksum: bool = False  # a saved one's files are read and compared, not only their sizes


@dataclass(frozen=True)
class Remaining:
    """Which recordings a run has to do, and counts of those that it keeps."""

    todo: NDArray[np.bool_]  # for every entry of the manifest: to be saved by this run
    unseen: NDArray[np.bool_]  # this process's ledger has no record of it
    kept: Counter[tuple[str, str]]  # (status, reason) of what stays as it is
    kept_s: float  # seconds of audio saved earlier
    kept_clipped: int = 0  # of them, utterances with samples held at full scale


def remaining(manifest: Manifest, store: Store, path: Path, policy: ResumePolicy) -> Remaining:
    """Reads a ledger, keeps the lines that hold and drops the others from the file.

    A line holds if its recording still has the size and time in it and, if it was saved, its files
    are whole. A saved line also holds if its recording is gone, so that no features are lost. A
    torn last line does not hold. Memory: the ids of the manifest, for the time of the call.

    Args:
        manifest: this process's recordings.
        store: where the files are.
        path: this process's ledger.
        policy: which lines are accepted.
    """
    counted = _Counted(manifest, store, policy)
    holding = bytearray()  # for every whole line, 1 or 0
    num_bytes = 0
    for line, record in ledger.read_lines(path):
        holding.append(counted.stays(record))
        num_bytes += len(line) * holding[-1]
    status = path.stat() if path.exists() else None
    # A ledger with a second name is a copy made of hard links: appending would change both.
    if status and (num_bytes != status.st_size or status.st_nlink > 1):
        lines = (line for line, _record in ledger.read_lines(path))
        ledger.rewrite(path, compress(lines, holding))
    return counted.remaining()


def would_remain(
    manifest: Manifest, store: Store, policy: ResumePolicy, gates: AudioSettings | None = None
) -> Remaining:
    """What a run would have to do, by all ledgers of the store; changes nothing.

    Args:
        manifest: the recordings, of all shards.
        store: where the files are; it need not exist.
        policy: which lines are accepted.
        gates: new ones, if only these differ from the store's: see `judge_again`.
    """
    counted = _Counted(manifest, store, policy)
    for path in ledger.ledger_paths(store.directory):
        for _line, record in store.read_lines(path):
            if gates is None or (record["status"] != REJECTED and _passes(record, gates)):
                counted.stays(record)
    return counted.remaining()


class _Counted:
    """Compares a ledger's lines with a manifest and the files; counts those that hold."""

    def __init__(self, manifest: Manifest, store: Store, policy: ResumePolicy) -> None:
        self._manifest, self._store, self._policy = manifest, store, policy
        self._index_of = {id_: index for index, id_ in enumerate(manifest.ids)}
        self._todo = np.ones(len(manifest), dtype=bool)
        self._unseen = self._todo.copy()
        self._kept: Counter[tuple[str, str]] = Counter()
        self._kept_s, self._kept_clipped = 0.0, 0

    def stays(self, record: Mapping[str, Any]) -> bool:
        """Whether a line stays in the ledger; counts it if it is a recording's of the manifest."""
        index = self._index_of.get(record["id"])
        if index is None:  # else this run records it again, or its id is damaged
            return record.get("reason") not in OF_A_SOURCE and self._store.is_possible(record)
        self._unseen[index] = False
        todo = self._todo[index]
        if not todo or not _holds(index, record, self._manifest, self._store, self._policy):
            return False
        self._todo[index] = False
        self._kept[record["status"], record.get("reason") or ""] += 1
        is_saved = record["status"] == SAVED
        self._kept_s += (record.get("duration_s") or 0.0) if is_saved else 0.0
        self._kept_clipped += bool(record.get("clipped_samples"))
        return True

    def remaining(self) -> Remaining:
        """What is left to do by the lines that came."""
        counts = self._kept, self._kept_s, self._kept_clipped
        return Remaining(self._todo, self._unseen, *counts)


def _holds(
    index: int, record: Mapping[str, Any], manifest: Manifest, store: Store, policy: ResumePolicy
) -> bool:
    status = record.get("status")
    if status == FAILED and policy.retry_failed:
        return False
    now = stamp(manifest[index], manifest.opener)
    then = record.get("source_size"), record.get("source_mtime_ns")
    if now != then and not (status == SAVED and now == MISSING):
        return False
    return status != SAVED or store.intact(record, checksum=policy.checksum)


def judge_again(store: Store, gates: AudioSettings) -> None:
    """Drops lines that are not true of new gates: all rejected ones, and saved ones that fail them.

    The files of the latter are removed. This is done in every ledger of the store before the new
    gates go into its metadata, so that gates in the metadata are true of every line. Call it only
    while no other process works there.
    """
    for path in ledger.ledger_paths(store.directory):
        for _line, record in store.read_lines(path):
            if not _passes(record, gates):
                store.layout.discard(record["id"])
        lines = (
            line
            for line, record in store.read_lines(path)
            if record.get("status") != REJECTED and _passes(record, gates)
        )
        ledger.rewrite(path, lines)


def _passes(record: Mapping[str, Any], gates: AudioSettings) -> bool:
    if record.get("status") != SAVED:
        return True
    peak, duration_s = record.get("peak"), record.get("duration_s")
    if peak is None or duration_s is None:
        return False
    in_time = gates.min_duration_s <= duration_s <= gates.max_duration_s
    return bool(in_time and (gates.max_peak is None or peak <= gates.max_peak))


def reshard(store: Store, shard: Shard) -> set[str]:
    """Sorts the lines of all ledgers into the ledgers of this sharding, one line an utterance.

    Writes nothing if they are sorted already. Call it only while no other process works there.

    Returns:
        The ids of all utterances that a line says are saved, or said before it was damaged.
    """
    directory = store.directory
    index_named = {some.ledger_name: some.index for some in shard.all()}
    saved, seen, are_sorted = set[str](), set[str](), True
    for path in ledger.ledger_paths(directory):
        for id_, is_saved in ledger.heads(path):
            here = index_named.get(path.name) == index_of(id_, shard.count)
            are_sorted = are_sorted and here and id_ not in seen
            seen.add(id_)
            if is_saved:
                saved.add(id_)
        are_sorted = are_sorted and path.name in index_named
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
