"""Makes units of a store's features, without the recordings and without the model."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from extract import choices
from extract.encoder.quantizer import Quantizer, QuantizerOptions
from extract.encoder.unit_format import UnitFiles, unit_files
from extract.fields import MISSING
from extract.files import replace_whole
from extract.manifest.source import Output, listed_ids
from extract.run.units import ShardUnits, as_bytes
from extract.shard import Shard
from extract.store import ledger, metadata, units
from extract.store.existing import existing_store
from extract.store.kind import layer_of, require_kind
from extract.store.lock import StoreBusy, locked
from extract.store.store import Store
from extract.text import printable
from extract.values import SAVED

_PART = re.compile(r"ledger\.\d+-of-(\d+)\.jsonl")


def quantizer_options(kind: str, **given: Any) -> QuantizerOptions:
    """The options of a quantizer; those that are None have their defaults.

    Raises:
        ValueError: there is no such quantizer, it has no such option, or it needs its file.
    """
    module: Any = choices.find("quantizers", kind)
    named = {name: value for name, value in given.items() if value is not None}
    for name in named.keys() - {field.name for field in fields(module.Options)}:
        raise ValueError(f"--{name}: the quantizer {kind} has no such option")
    options: QuantizerOptions = module.Options(kind=kind, **named)
    if MISSING in vars(options).values():
        raise ValueError(f"--quantizer {kind}: needed --path FILE beside it")
    return options


def quantize(
    directory: Path,
    options: QuantizerOptions,
    *,
    device: str = "auto",
    layer: int | None = None,
    order: str | None = None,
    output: Path | None = None,
    overwrite: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> int:
    """Gives every saved utterance of a store its units; returns how many have none after that.

    Args:
        directory: the store.
        options: of the quantizer.
        device: where it computes.
        layer: whose units are made, of a store of several layers.
        order: a list, whose recordings the file of units has in its order: fairseq's, `.tsv`, or
            GPT-SoVITS's; None for all of the store's, in the order of a folder.
        output: one file of the units of all shards, in the place of those in the store.
        overwrite: replace the units of another quantizer.
        stop: once it returns True, the work ends; the next call goes on there.

    Raises:
        ValueError: it is no store of features, the quantizer is not one for them, the store has
            units of another one, another process works there, or a format's lines follow a list
            and there is none.
        StoreUnusable: the disk takes no more.
        OSError: `output` cannot be written.
    """
    store, files = _store(directory), unit_files(options)
    listed = _ids_of_list(order, files)
    quantizer, (place, num_layers) = _quantizer(options, store, layer)
    on, num_without = _device(device), 0
    shards = _shards(directory)
    for shard in shards:
        part = ShardUnits(store, shard, quantizer, files, on, place, num_layers)
        settle = partial(_take_over, part, overwrite, output is not None)
        with locked(directory, shard.index, shard.count, settle, guard=store.guard_with):
            filled = part.fill(stop)
            if filled.stopped:
                return num_without
            if output is None:
                part.write(_ids(listed, [shard], directory))
        num_without += filled.unreadable
    if output is not None:
        rows = units.joined_rows(_ids(listed, shards, directory), directory, shards)
        output.parent.mkdir(parents=True, exist_ok=True)
        replace_whole(output, as_bytes(files.text(rows)))
    return num_without


def _device(name: str) -> torch.device:
    there = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(there if name == "auto" else name)


def _store(directory: Path) -> Store:
    store = existing_store(directory)
    if not store.features:
        found = "this store keeps units alone (features=false)"
        raise ValueError(f"{printable(str(directory))}: {found}; needed one with features")
    return store


def _quantizer(
    options: QuantizerOptions, store: Store, asked: int | None
) -> tuple[Quantizer, tuple[int, int]]:
    """The quantizer of the options, if it is one for the store's features.

    Returns:
        Also the place of the layer among the store's, and how many these are. The fingerprint of a
        quantizer of one of several layers names the layer: units of two layers never mix.
    """
    module: Any = choices.find("quantizers", options.kind)
    num_layers, width = _shape(store)
    found: Quantizer = module.load(options, width)
    known = metadata.read(store.directory)
    assert known is not None
    identity, where = known["identity"], str(store.directory)
    if num_layers > 1 and asked is None:
        asked = found.made_for.get("model.layer")
    layer, place = layer_of(identity, asked, where)
    require_kind(found.made_for, identity, where, layer)
    if num_layers > 1:
        found = replace(found, fingerprint=f"{found.fingerprint}:layer{layer}")
    return found, (place, num_layers)


def _shape(store: Store) -> tuple[int, int]:
    """Layers, and numbers of a frame, of the first features that can be read."""
    for record in ledger.read(store.directory):
        if record["status"] == SAVED and store.intact(record, checksum=True):
            kept = store.layout.kept(record)
            assert kept is not None
            values = store.layout.read(kept)
            return values.shape[0], values.shape[2]
    raise ValueError(f"{printable(str(store.directory))}: no features here that can be read")


def _shards(directory: Path) -> list[Shard]:
    """All shards of the sharding that the store's ledgers have."""
    names = [path.name for path in ledger.ledger_paths(directory)]
    counts = [int(found[1]) for found in map(_PART.fullmatch, names) if found]
    return Shard(0, max(counts, default=1)).all()


def _take_over(part: ShardUnits, overwrite: bool, stays: bool, alone: bool) -> None:
    """Makes the quantizer that of the store, before any unit of it is there.

    Args:
        part: of the store.
        overwrite: replace another quantizer's units.
        stays: leave the shard's file of units, if no units are added to those in it.
        alone: whether no other process works there.

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
    if not stays or part.is_lacking:
        part.begin(alone=alone)


def _ids_of_list(path: str | None, files: UnitFiles) -> Sequence[str | None] | None:
    """The ids of a list's lines, in its order; None for a line that names no recording.

    Raises:
        ValueError: there is no list, and the files' lines follow one.
    """
    if path is None and files.follows_list:
        found = f"--format {files.format}: its lines have no ids"
        raise ValueError(f"{found}; needed --list FILE, whose lines they follow")
    if path is None:
        return None
    kind = "tsv" if Path(path).suffix == ".tsv" else "gpt_sovits"
    module: Any = choices.find("sources", kind)
    return listed_ids(module.Options(kind=kind, path=path), Output())


def _ids(
    listed: Sequence[str | None] | None, shards: Sequence[Shard], directory: Path
) -> Sequence[str | None]:
    """The ids of one shard, or of all, in the list's order or else in that of a folder."""
    if listed is None:
        return _ids_in_folders(shards, directory)
    return listed if len(shards) > 1 else shards[0].part_of_ids(listed)


def _ids_in_folders(shards: Sequence[Shard], directory: Path) -> Sequence[str]:
    """The saved ids of shards in the order of a folder: its files, then its sub-folders."""
    paths = [directory / shard.ledger_name for shard in shards]
    saved = {id_ for path in paths for id_, is_saved in ledger.heads(path) if is_saved}
    return sorted(saved, key=_as_in_a_folder)


def _as_in_a_folder(id: str) -> list[tuple[bool, str]]:  # noqa: A002 - the ledger's own word
    *folders, name = id.split("/")
    return [*((True, folder) for folder in folders), (False, name)]
