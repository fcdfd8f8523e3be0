"""Finds what is left to do: compares the manifest with the ledger, the ledger with the files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.data.stamps import Stamps
from extract.manifest.manifest import Manifest
from extract.opener import MISSING
from extract.store import ledger, units
from extract.store.brief import brief
from extract.store.store import Store
from extract.systems import real_path
from extract.text import printable
from extract.urls import redacted
from extract.values import FAILED, OF_A_SOURCE, REJECTED, SAVED, AudioSettings


@dataclass(frozen=True)
class ResumePolicy:
    """Which lines of earlier runs are accepted, so that their recordings are not done again."""

    retry_failed: bool = True  # a failed recording is tried again
    checksum: bool = False  # a saved one's files are read and compared, not only their sizes
    units: bool = False  # a saved one has to have units


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
    # For every entry: it stays as it is, with features that another store of a sweep had
    shared: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        self.shared = np.zeros_like(self.todo)

    def keep(self, index: int, record: Mapping[str, Any]) -> None:
        """Counts an entry as done, by its record."""
        self.todo[index] = False
        if record.get("shared"):
            self.shared[index] = True
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
    stamps: Stamps | None = None,
) -> Remaining:
    """Reads a ledger, keeps the lines that hold and drops the others from the file.

    A line holds if its recording still has the size and time in it and, if it was saved, its files
    are whole. A saved line also holds if its recording is gone, so that no features are lost. A
    torn last line does not hold. A line that is kept gets the `extra` that its list has now.
    Memory: the ids of the manifest, for the time of the call.

    In a store to which another list adds, lines of recordings that this one does not name stay, and
    a line of a name that is another recording's now does not hold.

    Args:
        manifest: this process's recordings.
        store: where the files are.
        path: this process's ledger.
        policy: which lines are accepted.
        kept_one: called with each record that holds of a recording in the manifest.
        stamps: of the recordings, to be used again.
    """
    lines = _Lines(manifest, store, policy, kept_one, stamps)
    extras = _Extras(manifest)
    holding = bytearray()  # for every whole line, 1 or 0
    num_bytes = 0
    for line in ledger.lines(path):
        if lines.is_as_before(line):
            holding.append(True)
            num_bytes += len(line)
            continue
        record, index = lines.record_of(line)
        if record is None:
            continue
        holding.append(lines.stays(record, index))
        if holding[-1] and (index is None or extras.is_in(record, index)):
            num_bytes += len(line)  # else the file is written again
    store.fence()
    if (store.rewrites_ledger and path.exists()) or not _is_as_it_should_be(path, num_bytes):
        kept_lines = compress(ledger.read_lines(path), holding)
        changed = (extras.put(*one, lines.index_of.get(one[1]["id"])) for one in kept_lines)
        ledger.rewrite(path, changed)
    return lines.rest


def _is_as_it_should_be(path: Path, num_bytes: int) -> bool:
    """Whether a ledger holds its true lines, of `num_bytes`, and no others, under one name.

    A ledger with a second name is a copy made of hard links: appending would change both.
    """
    status = path.stat() if path.exists() else None
    return status is None or (status.st_size == num_bytes and status.st_nlink == 1)


def would_remain(
    manifest: Manifest,
    store: Store,
    policy: ResumePolicy,
    gates: AudioSettings | None = None,
    kept_one: Callable[[Mapping[str, Any]], None] = lambda record: None,
) -> Remaining:
    """What a run would have to do, by all ledgers of the store; changes nothing.

    Args:
        manifest: the recordings, of all shards.
        store: where the files are; it need not exist.
        policy: which lines are accepted.
        gates: new ones, if only these differ from the store's: see `judge_again`.
        kept_one: called with each record that holds of a recording in the manifest.
    """
    lines = _Lines(manifest, store, policy, kept_one)
    for path in ledger.ledger_paths(store.directory):
        for _line, record in store.read_lines(path):
            if gates is None or (record["status"] != REJECTED and _passes(record, gates)):
                lines.stays(record, lines.index_of.get(record["id"]))
    return lines.rest


class _Lines:
    """Compares a ledger's lines with a manifest and the files; counts those that hold."""

    def __init__(
        self,
        manifest: Manifest,
        store: Store,
        policy: ResumePolicy,
        kept_one: Callable[[Mapping[str, Any]], None] = lambda record: None,
        stamps: Stamps | None = None,
    ) -> None:
        todo = np.ones(len(manifest), dtype=bool)
        self.rest = Remaining(todo, todo.copy())
        self._manifest, self._store, self._policy = manifest, store, policy
        self._kept_one, self._stamps = kept_one, stamps or Stamps(manifest)
        self._adds = store.layout.adds
        self._may_be_brief = not policy.units and manifest.extras is None
        self._failing = {failure.recording.id for failure in manifest.failures}

    @cached_property
    def index_of(self) -> dict[str, int]:
        """The index of each id; not made before there is a line."""
        return {id_: index for index, id_ in enumerate(self._manifest.ids)}

    def __contains__(self, named: object) -> bool:
        """Whether an id is the manifest's: then it was checked."""
        return named in self.index_of

    def is_as_before(self, line: bytes) -> bool:
        """Whether a line is in brief, its recording, unless gone, and files as it says; counts it.

        So it is with nearly every line of a finished store. `record_of` and `stays`, which are for
        all others, would find the same.
        """
        record = brief(line) if self._may_be_brief else None
        if record is None or (index := self.index_of.get(record["id"])) is None:
            return False
        rest, path = self.rest, self._manifest.paths[index]
        if not rest.todo[index] or (self._adds and record["path"] != path):
            return False
        now = self._stamps.of_entry(index, path)
        if now not in ((record["source_size"], record["source_mtime_ns"]), MISSING):
            return False
        if not self._store.intact(record, checksum=self._policy.checksum):
            return False
        rest.unseen[index] = False
        rest.keep(index, record)
        self._kept_one(record)
        return True

    def record_of(self, line: bytes) -> tuple[Mapping[str, Any] | None, int | None]:
        """The record of a line and the index of its id; None for none."""
        record = ledger.parse(line, known=self)
        return record, None if record is None else self.index_of.get(record["id"])

    def stays(self, record: Mapping[str, Any], index: int | None) -> bool:
        """Whether a line stays in the ledger; counts it if it is a recording's of the manifest.

        Args:
            record: of the line.
            index: of its id, in `index_of`.
        """
        if index is None:  # else this run records it again, or its id is damaged
            own = record["id"] in self._failing
            return not own and _stays(record, self._manifest.source, self._store)
        rest = self.rest
        rest.unseen[index] = False
        if not rest.todo[index]:
            return False
        path = self._manifest.paths[index]
        another = self._adds and record.get("path") != path and _is_another(record, redacted(path))
        if not self._holds(index, path, record, another):
            rest.renamed += another
            return False
        rest.lent += another
        rest.keep(index, record)
        self._kept_one(record)
        return True

    def _holds(self, index: int, path: str, record: Mapping[str, Any], another: bool) -> bool:
        policy, status = self._policy, record.get("status")
        if status == FAILED and policy.retry_failed:
            return False
        now = self._stamps.of_entry(index, path)
        then = record.get("source_size"), record.get("source_mtime_ns")
        is_same = now == then and not another
        if status != SAVED:
            return is_same
        if not is_same and now != MISSING:
            return False
        if policy.units and units.of_record(record) is None:
            return False
        return self._store.intact(record, checksum=policy.checksum)


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


class _Extras:
    """What a manifest's list says of its entries now, for lines that say what it said before."""

    def __init__(self, manifest: Manifest) -> None:
        self._texts = manifest.extras

    def is_in(self, record: Mapping[str, Any], index: int) -> bool:
        """Whether a line has the entry's `extra`."""
        return bool(record.get("extra") == self._of(index))

    def put(self, line: bytes, record: Mapping[str, Any], index: int | None) -> bytes:
        """The line with its entry's `extra`."""
        if index is None or self.is_in(record, index):
            return line
        return ledger.line_of({**record, "extra": self._of(index)})

    def _of(self, index: int) -> Any:
        text = "" if self._texts is None else self._texts[index]
        return json.loads(text) if text else None


def judge_again(store: Store, gates: AudioSettings) -> None:
    """Drops lines that are not true of new gates: all rejected ones, and saved ones that fail them.

    The files of the latter are removed. This is done in every ledger of the store before the new
    gates go into its metadata, so that gates in the metadata are true of every line. Call it only
    while no other process works there.
    """
    for path in ledger.ledger_paths(store.directory):
        records = (record for _line, record in store.read_lines(path))
        store.fence()
        store.layout.discard_all(record for record in records if not _passes(record, gates))
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
