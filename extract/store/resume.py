"""What is left to do: the manifest against the ledger, and the ledger against the files."""

from __future__ import annotations

import os
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
from extract.values import FAILED, OF_A_SOURCE, REJECTED, SAVED, AudioSettings


@dataclass(frozen=True)
class Trust:
    """What of an earlier run's word is taken."""

    retry_failed: bool = True
    checksum: bool = False  # read the files whole instead of looking at their sizes


@dataclass(frozen=True)
class Remaining:
    """What a run has to do."""

    todo: NDArray[np.bool_]  # for every entry of the manifest: to be saved by this run
    unseen: NDArray[np.bool_]  # no run got as far as a record of it
    kept: Counter[tuple[str, str]]  # (status, reason) of what stays as it is
    kept_s: float  # seconds of audio saved earlier
    kept_clipped: int = 0  # of them, utterances with samples held at full scale


def remaining(manifest: Manifest, store: Store, path: Path, trust: Trust) -> Remaining:
    """Reads a ledger, keeps the lines that hold and drops the others from the file.

    A line holds when the recording has neither another size nor another time than it had, and the
    files of a saved one are whole. A saved one whose recording is gone stays: nothing good is lost.
    A torn last line is dropped with the rest. Memory: the ids of the manifest, for the time of the
    call.

    Args:
        manifest: what this process is to have done in the end.
        store: where the files are.
        path: this process's ledger.
        trust: what is taken from it.
    """
    index_of = {id_: index for index, id_ in enumerate(manifest.ids)}
    todo = np.ones(len(manifest), dtype=bool)
    unseen = todo.copy()
    kept: Counter[tuple[str, str]] = Counter()
    kept_s, kept_clipped = 0.0, 0
    holding = bytearray()  # for every whole line, 1 or 0
    num_bytes = 0
    for line, record in ledger.read_lines(path):
        holding.append(0)
        index = index_of.get(record["id"])
        if index is not None:
            unseen[index] = False
            if not todo[index] or not _holds(index, record, manifest, store, trust):
                continue
            todo[index] = False
            kept[record["status"], record.get("reason") or ""] += 1
            kept_s += (record.get("duration_s") or 0.0) if record["status"] == SAVED else 0.0
            kept_clipped += bool(record.get("clipped_samples"))
        elif record.get("reason") in OF_A_SOURCE or not store.is_possible(record):
            continue  # this run says it again; or a line whose id is damaged
        holding[-1] = 1
        num_bytes += len(line)
    status = path.stat() if path.exists() else None
    # A ledger with a second name is a copy made of hard links: appending would change both.
    if status and (num_bytes != status.st_size or status.st_nlink > 1):
        lines = (line for line, _record in ledger.read_lines(path))
        ledger.rewrite(path, compress(lines, holding))
    return Remaining(todo, unseen, kept, kept_s, kept_clipped)


def _holds(
    index: int, record: Mapping[str, Any], manifest: Manifest, store: Store, trust: Trust
) -> bool:
    status = record.get("status")
    if status == FAILED and trust.retry_failed:
        return False
    now = stamp(manifest[index], manifest.opener)
    then = record.get("source_size"), record.get("source_mtime_ns")
    if now != then and not (status == SAVED and now == MISSING):
        return False
    return status != SAVED or store.intact(record, checksum=trust.checksum)


def judge_again(store: Store, gates: AudioSettings) -> None:
    """Drops the lines that other gates might change: what was rejected, and what no longer passes.

    With the files of the latter. In every ledger of the store, before its metadata says that these
    are its gates: every line that is read after that is true of these gates. Only
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
    """Sorts the lines of all ledgers into those of this sharding, each utterance's once.

    Nothing is written where they are so already. Only while no other process works in the store.

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
        os.unlink(path)  # noqa: PTH108


def _is_better(record: Mapping[str, Any], other: bytes | None, store: Store) -> bool:
    """Whether an utterance's line holds rather than another one, read before it."""
    earlier = other and ledger.parse(other)
    if not earlier or record == earlier:
        return True
    return _is_kept(record, store) or not _is_kept(earlier, store)


def _is_kept(record: Mapping[str, Any], store: Store) -> bool:
    return record["status"] == SAVED and store.intact(record)
