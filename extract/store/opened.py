"""Opens a store for whoever writes features into it: a run, or a loop of the user's in Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from extract import __version__
from extract.data.stamps import Stamps
from extract.encoder.encoder import Encoder
from extract.manifest.manifest import Manifest
from extract.manifest.strings import PackedStrings
from extract.shard import Shard
from extract.store import metadata, subfolders
from extract.store.ledger import dtype_name
from extract.store.lock import locked
from extract.store.metadata import Identity
from extract.store.opening import Opening, open_store
from extract.store.resume import Remaining, ResumePolicy, remaining
from extract.store.settling import settle_again
from extract.store.store import Store
from extract.text import count
from extract.values import AudioSettings
from extract.write_errors import explained


def settled(
    store: Store, ids: PackedStrings, say: Callable[[str], None] = lambda line: None
) -> Store:
    """The store with what `store.subfolders=auto` means: what it has, or what the list needs.

    All shards of a new store have one list, and so choose the same without a word between them.

    Args:
        store: not open yet.
        ids: of the whole list, of all shards.
        say: told the choice.
    """
    if store.options.subfolders != subfolders.AUTO:
        return store
    num = subfolders.fullest(ids)
    levels = subfolders.levels_for(num)
    why = f"{count(num, 'recording')} would lie in one folder"
    if (there := _levels_of(store)) is not None:
        levels, why = there, f"as this store has it; {why}"
    say(f"store.subfolders=auto: {levels}, {why}")
    return store.with_options(subfolders=levels)


def _levels_of(store: Store) -> int | None:
    """The levels of sub-folders that a store has; None of a new one, and of one to be replaced."""
    with suppress(metadata.Unreadable):
        known = metadata.read(store.directory)
        if known and known["identity"].get("layout") == store.layout_name:
            levels = known["identity"].get(subfolders.KEY, 0)
            return levels if levels in subfolders.LEVELS else None
    return None


@contextmanager
def opened(
    store: Store, opening: Opening, settle: Callable[[bool], None] = lambda alone: None
) -> Iterator[frozenset[str]]:
    """Creates the store, opens it, and holds the shard's lock on it during the block.

    Args:
        store: the store.
        opening: what is to be written.
        settle: called once the store is open, while no other process can begin there; told whether
            none is at work.

    Yields:
        Those of the manifest's ids whose files in the store another program made.

    Raises:
        ValueError: the store holds features of another identity, or another process works there.
        StoreUnusable: it cannot be made or written to.
    """
    foreign = list[frozenset[str]]()

    def begin(alone: bool) -> None:
        with store.place.opening(opening.shard, alone) as alone:
            foreign.append(open_store(store, opening, alone))
            settle(alone)

    store.create()
    shard, lock = opening.shard, store.options.lock
    with locked(store.directory, shard.index, shard.count, begin, lock, store.guard_with):
        try:
            yield foreign[0]
        finally:
            store.place.close()


def identity_of(
    store: Store,
    encoder: Encoder,
    manifest: Manifest,
    audio: AudioSettings,
    *,
    input_norm: str,
    training_audio: bool = True,
    quantizer: str | None = None,
) -> Identity:
    """The identity of what an encoder makes of a manifest's recordings, in a store.

    Args:
        store: where they are saved.
        encoder: makes the features.
        manifest: the recordings; its source is part of the identity unless the layout adds.
        audio: how waveforms are prepared.
        input_norm: what becomes of them before the encoder.
        training_audio: whether it is given to the store.
        quantizer: its fingerprint, where units are made too.
    """
    return metadata.identity(
        audio,
        weights=encoder.fingerprint,
        model=encoder.wanted,
        precision=dtype_name(encoder.dtype),
        source=None if store.layout.adds else manifest.source,
        layout=store.layout_name,
        input_norm=input_norm,
        dtype=store.dtype_of(dtype_name(encoder.dtype)),
        training_audio=store.keeps_audio and training_audio,
        settings=store.layout.settings,
        quantizer=quantizer,
        features=store.features,
    )


def made_with(**said: str) -> Mapping[str, str]:
    """What `metadata.json` says beside the identity: `said`, and the versions of packages."""
    packages = ("torch", "transformers", "soxr", "av")
    return {**said, "extract": __version__, **{name: version(name) for name in packages}}


def find_rest(
    store: Store,
    manifest: Manifest,
    shard: Shard,
    policy: ResumePolicy,
    kept_one: Callable[[Mapping[str, Any]], None] = lambda record: None,
    stamps: Stamps | None = None,
) -> Remaining:
    """Which recordings the store lacks; drops lines of the ledger that no longer hold.

    Args:
        store: open for this process.
        manifest: the shard's recordings.
        shard: this process's.
        policy: which lines hold.
        kept_one: called with each record that holds of a recording in the manifest.
        stamps: of the recordings, to be used again.
    """
    path = store.directory / shard.ledger_name
    with explained(store.directory):
        before = _inode(path)
        rest = remaining(manifest, store, path, policy, kept_one, stamps)
        if _inode(path) != before:
            settle_again(store, shard)
    return rest


def _inode(path: Path) -> int | None:
    """Tells whether a file was replaced; None where there is none."""
    return path.stat().st_ino if path.exists() else None
