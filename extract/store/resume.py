"""Finds what is left to do: compares the manifest with the ledger, the ledger with the files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
from extract.systems import real_path, unlink
from extract.text import printable
from extract.values import FAILED, OF_A_SOURCE, REJECTED, SAVED, AudioSettings


@dataclass(frozen=True)
class ResumePolicy:
    """Which lines of earlier runs are accepted, so that their recordings are not done again."""

    retry_failed: bool = True  # a failed recording is tried again
    checksum: bool = False  # a saved one's files are read and compared, not only their sizes


@dataclass
class Remaining:
    """Which recordings a run has to do, and counts of those that it keeps."""

    todo: NDArray[np.bool_]  # for every entry of the manifest: to be saved by this run
    unseen: NDArray[np.bool_]  # this process's ledger has no record of it
    # (status, reason) of what stays as it is
    kept: Counter[tuple[str, str]] = field(default_factory=Counter)
    kept_s: float = 0.0  # seconds of audio saved earlier
    kept_clipped: int = 0  # of them, utterances with samples held at full scale
    # In a store to which another list adds, names that an earlier one gave to other recordings:
    renamed: int = 0  # to be done again
    lent: int = 0  # not to be done, since the recording is missing: the earlier files stay

    def keep(self, index: int, record: Mapping[str, Any]) -> None:
        """Counts an entry as done, by its record."""
        self.todo[index] = False
        self.kept[record["status"], record.get("reason") or ""] += 1
        if record["status"] == SAVED:
            self.kept_s += record.get("duration_s") or 0.0
        self.kept_clipped += bool(record.get("clipped_samples"))


def remaining(
    manifest: Manifest,
    store: Store,
    path: Path,
    policy: ResumePolicy,
    kept_one: Callable[[Mapping[str, Any]], None] = lambda record: None,
) -> Remaining:
    """Reads a ledger, keeps the lines that hold and drops the others from the file.

    A line holds if its recording still has the size and time in it and, if it was saved, its files
    are whole. A saved line also holds if its recording is gone, so that no features are lost. A
    torn last line does not hold. Memory: the ids of the manifest, for the time of the call.

    In a store to which another list adds, lines of recordings that this one does not name stay, and
    a line of a name that is another recording's now does not hold.

    Args:
        manifest: this process's recordings.
        store: where the files are.
        path: this process's ledger.
        policy: which lines are accepted.
        kept_one: called with each record that holds of a recording in the manifest.
    """
    index_of = {id_: index for index, id_ in enumerate(manifest.ids)}
    failing = {failure.recording.id for failure in manifest.failures}
    todo = np.ones(len(manifest), dtype=bool)
    rest = Remaining(todo, todo.copy())
    holding = bytearray()  # for every whole line, 1 or 0
    num_bytes = 0
    for line, record in ledger.read_lines(path):
        holding.append(0)
        index = index_of.get(record["id"])
        if index is not None:
            rest.unseen[index] = False
            if not todo[index]:
                continue
            another = store.layout.adds and _is_another(record, manifest[index].path)
            if not _holds(index, record, another, manifest, store, policy):
                rest.renamed += another
                continue
            rest.lent += another
            rest.keep(index, record)
            kept_one(record)
        elif record["id"] in failing or not _stays(record, manifest.source, store):
            continue  # this run records it again, or its id is damaged
        holding[-1] = 1
        num_bytes += len(line)
    _keep_lines(path, holding, num_bytes)
    return rest


def _keep_lines(path: Path, holding: bytearray, num_bytes: int) -> None:
    """Drops lines from a ledger: keeps those whose place in `holding` is 1, `num_bytes` in all."""
    status = path.stat() if path.exists() else None
    # A ledger with a second name is a copy made of hard links: appending would change both.
    if status and (num_bytes != status.st_size or status.st_nlink > 1):
        lines = (line for line, _record in ledger.read_lines(path))
        ledger.rewrite(path, compress(lines, holding))


def _is_another(record: Mapping[str, Any], path: str) -> bool:
    """Whether a line is about another recording than the one at `path`, links and all."""
    then: Any = record.get("path")
    try:
        return then != path and real_path(then) != real_path(path)
    except (TypeError, ValueError, OSError):  # a damaged line: no text, or one that is no path
        return True


def _stays(record: Mapping[str, Any], source: str, store: Store) -> bool:
    """Whether the line of a recording that is not in the manifest stays in the ledger.

    One of a source's own failures stays only if it is another source's, in a store that has room
    for several: this run records those of its own anew.
    """
    if record.get("reason") in OF_A_SOURCE:
        return store.layout.adds and record.get("source") not in (None, printable(source))
    return store.is_possible(record)


def _holds(
    index: int,
    record: Mapping[str, Any],
    another: bool,
    manifest: Manifest,
    store: Store,
    policy: ResumePolicy,
) -> bool:
    status = record.get("status")
    if status == FAILED and policy.retry_failed:
        return False
    now = stamp(manifest[index], manifest.opener)
    then = record.get("source_size"), record.get("source_mtime_ns")
    if (another or now != then) and not (status == SAVED and now == MISSING):
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
