"""Opens a store for a run; one that holds features of another identity is refused or replaced."""

from __future__ import annotations

import logging
import re
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from extract.frames import ConvStack
from extract.manifest.folders import Beside
from extract.shard import Shard
from extract.store import differences, foreign, ledger, metadata, replacing
from extract.store.differences import Comparison
from extract.store.layout import endings_beside
from extract.store.lock import PRIVATE, StoreBusy
from extract.store.metadata import Identity
from extract.store.resharding import reshard
from extract.store.settling import settle
from extract.store.store import Store
from extract.text import printable
from extract.values import AudioSettings

log = logging.getLogger(__name__)

WAYS_OUT_UNREADABLE = (
    "What the features here are made of is not known. Ways out: put the store's own metadata.json "
    "back, another store.dir=DIR, or overwrite=true to replace what is there"
)
MAX_SHOWN = 5  # ids that a message names

_OWN_TEMPORARY = re.compile(  # of `replace_whole`; without the eight digits, of 0.1.0
    r"\.tmp-(?:metadata\.json|report\.html|sweep\.(?:html|csv)|ledger(?:\.\d+-of-\d+)?\.jsonl"
    r"|look|units(?:\.\d+-of-\d+)?\.(?:km|txt|jsonl)|6-name2semantic-\d+\.tsv|units-\d+-of-\d+"
    r"|(?:plan|durations|lengths|owner|unfinished|archives|listed(?:-[0-9a-f]{8})?)-\d+-of-\d+(?:\.json)?|timings(?:\.\d+-of-\d+)?\.jsonl)-\d+(?:-[0-9a-f]{8})?"
)


@dataclass(frozen=True)
class Opening:
    """A run as its store has to know it: identity, gates, ids, shard."""

    identity: Identity
    made_with: Mapping[str, str]
    stack: ConvStack  # of the encoder
    gates: AudioSettings
    ids: Sequence[str]  # of this process's recordings
    shard: Shard
    overwrite: bool = False  # replace what was made with other settings, or by another program


def open_store(store: Store, run: Opening, alone: bool) -> frozenset[str]:
    """Continues in a store of the run's identity; with `overwrite` drops what has another one.

    If no other process works there (`alone`), also removes what killed runs left and reshards.

    Returns:
        Those of the run's ids whose files another program made: they may be replaced by features
        of the recording with that name, and are never deleted.

    Raises:
        ValueError: the store holds other numbers, or files that the run would replace.
    """
    directory = store.directory
    _refuse_what_is_no_file(directory)
    before = _quantizer_of(directory)
    is_new = _compare(store, run, alone)
    run, has_new_units = _with_units(run, before, bool(ledger.ledger_paths(directory)))
    strange = foreign.foreign_ids(store, _tidy(store, run, alone, is_new), is_new=is_new)
    named = frozenset(filter(strange.__contains__, run.ids)) if strange else frozenset[str]()
    if named and not (run.overwrite or store.layout.replaces_foreign):
        raise ValueError(_foreign_message(store.shown, sorted(named)))
    if strange:
        log.info("%s", _foreign_line(store.shown, len(strange), len(named)))
    foreign.begin(directory, run.shard, strange, alone=alone)
    if alone or is_new or has_new_units:
        layout = store.layout
        beside = Beside(layout.folders, endings_beside(layout)) if layout.lies_beside else None
        metadata.write(
            directory, run.identity, run.made_with, run.stack, beside=beside, fsync=store.fsync
        )
    return named


def _quantizer_of(directory: Path) -> str | None:
    """The quantizer of a store's units; None where it has none, or its metadata are unreadable."""
    with suppress(metadata.Unreadable):
        known = metadata.read(directory)
        return known["identity"].get(metadata.QUANTIZER) if known else None
    return None


def _with_units(run: Opening, before: str | None, holds_lines: bool) -> tuple[Opening, bool]:
    """The run with the store's quantizer if it has none of its own; whether it brings a new one."""
    own = run.identity.get(metadata.QUANTIZER)
    if own is None and before is not None and holds_lines:
        return replace(run, identity={**run.identity, metadata.QUANTIZER: before}), False
    return run, own != before


def _tidy(store: Store, run: Opening, alone: bool, is_new: bool) -> set[str]:
    """Puts in order what all shards share; returns the ids whose files a ledger names."""
    if not alone:
        settle(store, run.shard, alone=False)
        return _named_by_ledgers(store.directory)
    if not is_new:
        store.layout.sweep()
        settle(store, run.shard, alone=True)
    _sweep_own(store.directory)
    return reshard(store, run.shard)


def _compare(store: Store, run: Opening, alone: bool) -> bool:
    """Compares the store's identity with the run's; with `overwrite` drops what differs.

    Returns:
        Whether no run ever began here.
    """
    try:
        known = _known(store)
    except metadata.Unreadable as error:
        if not run.overwrite:
            raise ValueError(f"{error}. {WAYS_OUT_UNREADABLE}") from None
        _need_to_be_alone(store, alone)
        replacing.drop_all(store)
        return False
    if known is None:
        return True
    comparison = differences.compare(known["identity"], run.identity)
    if comparison.differing:
        if not run.overwrite:
            raise ValueError(comparison.message(store.shown))
        _need_to_be_alone(store, alone)
        replacing.replace(store, known["identity"], comparison, run.gates, run.ids)
    return False


def _known(store: Store) -> dict[str, Any] | None:
    """The store's metadata; None where no run ever began."""
    known = metadata.read(store.directory, store.url)
    if known is None and ledger.ledger_paths(store.directory):
        where = f"{store.shown}/{metadata.NAME}"
        raise metadata.Unreadable(f"{where}: missing, though there is a ledger beside it")
    return known


def examine(store: Store, run: Opening) -> Comparison | None:
    """What `open_store` would find, without a lock and without changing anything.

    Returns:
        How the store's identity differs from the run's, which `overwrite` then replaces; None where
        it cannot be read, and all is replaced.

    Raises:
        ValueError: as `open_store`, but for other processes at work.
    """
    _refuse_what_is_no_file(store.directory)
    try:
        known = _known(store)
    except metadata.Unreadable as error:
        if not run.overwrite:
            raise ValueError(f"{error}. {WAYS_OUT_UNREADABLE}") from None
        return None
    comparison = differences.compare(known and known["identity"], run.identity)
    if comparison.differing and not run.overwrite:
        raise ValueError(comparison.message(store.shown))
    saved = _named_by_ledgers(store.directory)
    strange = foreign.foreign_ids(store, saved, is_new=known is None)
    named = sorted(filter(strange.__contains__, run.ids)) if strange else []
    if named and not (run.overwrite or store.layout.replaces_foreign):
        raise ValueError(_foreign_message(store.shown, named))
    return comparison


def _named_by_ledgers(directory: Path) -> set[str]:
    """The ids whose files a ledger names."""
    paths = ledger.ledger_paths(directory)
    return {id_ for path in paths for id_, is_saved in ledger.heads(path) if is_saved}


def _need_to_be_alone(store: Store, alone: bool) -> None:
    if not alone:
        raise StoreBusy(
            f"{store.shown}: another process is at work here, with other "
            "settings than this run's. Wait for it, stop it, or choose another store.dir"
        )


def _refuse_what_is_no_file(directory: Path) -> None:
    """Refuses a ledger that is a link, a folder or a device: appending would write elsewhere.

    Also refuses a folder in place of the metadata. The new metadata could not replace it, so this
    is checked before anything is dropped.
    """
    paths = [path for path in ledger.ledger_paths(directory) if not _is_file(path)]
    data = directory / metadata.NAME
    for path in [*paths, data] if data.is_dir() and not data.is_symlink() else paths:
        raise ValueError(
            f"{printable(str(path))}: no regular file, though the store keeps one there. Ways out: "
            "put it back, move this away, or choose another store.dir"
        )


def _is_file(path: Path) -> bool:
    return stat.S_ISREG(path.lstat().st_mode)


def _sweep_own(directory: Path) -> None:
    """Removes temporary files of metadata, ledgers, notes and caches that killed runs left."""
    for path in [*directory.iterdir(), *(directory / PRIVATE).iterdir()]:
        if _OWN_TEMPORARY.fullmatch(path.name) and not path.is_dir():
            path.unlink(missing_ok=True)
    for path in (directory / PRIVATE).glob("lengths-*-of-*"):  # the durations' cache, as of 0.1.0
        with suppress(OSError):
            path.replace(path.with_name(path.name.replace("lengths", "durations")))


def _foreign_message(where: str, named: Sequence[str]) -> str:
    recordings = "1 recording" if len(named) == 1 else f"{len(named):,} recordings"
    return (
        f"{where}: files that no ledger names have the names of {recordings} "
        f"of this run: {_some(named)}. Ways out: another store.dir=DIR, move these files away, or "
        "overwrite=true to replace them"
    )


def _foreign_line(where: str, strange: int, named: int) -> str:
    return (
        f"{where}: files that no ledger names, of {strange:,} utterance(s): "
        f"{strange - named:,} stay as they are, {named:,} are replaced by recordings of this run"
    )


def _some(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - MAX_SHOWN:,} more" if len(ids) > MAX_SHOWN else ""
    return ", ".join(printable(id_)[:100] for id_ in ids[:MAX_SHOWN]) + more
