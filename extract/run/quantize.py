"""Makes units of a store's features, without the recordings and without the model."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from extract import choices
from extract.encoder.quantizer import Quantizer
from extract.fields import MISSING
from extract.manifest.sources.gpt_sovits import read_gpt_sovits_list
from extract.run.units import ShardUnits
from extract.shard import Shard
from extract.store import ledger, metadata, units
from extract.store.existing import existing_store
from extract.store.lock import StoreBusy, locked
from extract.store.store import Store
from extract.text import printable
from extract.values import SAVED

_PART = re.compile(r"ledger\.\d+-of-(\d+)\.jsonl")


def quantize(
    directory: Path,
    kind: str,
    path: str | None = None,
    *,
    device: str = "auto",
    order: str | None = None,
    overwrite: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> int:
    """Gives every saved utterance of a store its units; returns how many have none after that.

    Args:
        directory: the store.
        kind: the quantizer.
        path: its file; None if it needs none.
        device: where it computes.
        order: a GPT-SoVITS list, whose recordings the file of units has in its order; None for all
            of the store's, in the order of a folder.
        overwrite: replace the units of another quantizer.
        stop: once it returns True, the work ends; the next call goes on there.

    Raises:
        ValueError: it is no store of features, the quantizer is not one for them, the store has
            units of another one, or another process works there.
        StoreUnusable: the disk takes no more.
    """
    store = _store(directory)
    quantizer = _quantizer(kind, path, _width(store))
    there = "cuda" if torch.cuda.is_available() else "cpu"
    num_without = 0
    for shard in _shards(directory):
        part = ShardUnits(
            store, shard, quantizer, torch.device(there if device == "auto" else device)
        )

        def settle(alone: bool, part: ShardUnits = part) -> None:
            _take_over(part, alone=alone, overwrite=overwrite)

        with locked(directory, shard.index, shard.count, settle):
            filled = part.fill(stop)
            if filled.stopped:
                break
            part.write(_ids(part, order))
        num_without += filled.unreadable
    return num_without


def _store(directory: Path) -> Store:
    store = existing_store(directory)
    if not store.features:
        found = "this store keeps units alone (features=false)"
        raise ValueError(f"{printable(str(directory))}: {found}; needed one with features")
    return store


def _quantizer(kind: str, path: str | None, width: int) -> Quantizer:
    module: Any = choices.find("quantizers", kind)
    options = module.Options(kind=kind, **({} if path is None else {"path": path}))
    if MISSING in vars(options).values():
        raise ValueError(f"--quantizer {kind}: needed --path FILE beside it")
    found: Quantizer = module.load(options, width)
    return found


def _width(store: Store) -> int:
    """Numbers of a frame, from the first features that can be read."""
    for record in ledger.read(store.directory):
        if record["status"] == SAVED and store.intact(record, checksum=True):
            kept = store.layout.kept(record)
            assert kept is not None
            values = store.layout.read(kept)
            if len(values) != 1:
                raise ValueError(f"{store.directory}: features of {len(values)} layers; needed one")
            return values.shape[2]
    raise ValueError(f"{printable(str(store.directory))}: no features here that can be read")


def _shards(directory: Path) -> list[Shard]:
    """All shards of the sharding that the store's ledgers have."""
    names = [path.name for path in ledger.ledger_paths(directory)]
    counts = [int(found[1]) for found in map(_PART.fullmatch, names) if found]
    return Shard(0, max(counts, default=1)).all()


def _take_over(part: ShardUnits, *, alone: bool, overwrite: bool) -> None:
    """Makes the quantizer that of the store, before any unit of it is there.

    Raises:
        ValueError: the store has another one's units.
    """
    directory, name = part.store.directory, part.quantizer.fingerprint
    known = metadata.read(directory)
    assert known is not None
    before = known["identity"].get(metadata.QUANTIZER)
    if before not in (None, name):
        where = printable(str(directory))
        if not overwrite:
            raise ValueError(
                f"{where}: the units here are of {printable(str(before))}, not of {name}; "
                "--overwrite replaces them"
            )
        if not alone:
            raise StoreBusy(f"{where}: another process is at work here. Wait for it, or stop it")
        units.drop(directory)
    if before != name:
        metadata.change(directory, {metadata.QUANTIZER: name}, fsync=part.store.fsync)
    part.begin(alone=alone)


def _ids(part: ShardUnits, order: str | None) -> Sequence[str]:
    """The shard's ids in the order of a list, or of a folder: its files, then its sub-folders."""
    if order is not None:
        return part.shard.part_of(read_gpt_sovits_list(order)).ids
    saved = {id_ for id_, is_saved in ledger.heads(part.ledger) if is_saved}
    return sorted(saved, key=_as_in_a_folder)


def _as_in_a_folder(id: str) -> list[tuple[bool, str]]:  # noqa: A002 - the ledger's own word
    *folders, name = id.split("/")
    return [*((True, folder) for folder in folders), (False, name)]
