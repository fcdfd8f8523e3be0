"""Reads utterances of a store: features, memory-mapped or not, and training audio."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from extract.store import metadata
from extract.store.existing import existing_store, store_of
from extract.store.layout import Kept
from extract.store.store import Store
from extract.text import printable
from extract.values import Recording

if TYPE_CHECKING:
    from torch import Tensor

MAPPED_FROM = 1 << 20  # bytes of a file

Mapped = bool | Literal["auto"]


@dataclass(frozen=True)
class StoredUtterance:
    """One recording with its features, read from a store or computed as it would hold them."""

    recording: Recording
    # (num_frames, hidden_size), or (layers, num_frames, hidden_size) of a store of several layers;
    # in the dtype that is saved
    features: Tensor
    wav32k: Tensor | None = None  # (num_samples,) int16, 32 kHz; None unless it was asked for


def store_to_read(directory: Path, url: str = "") -> tuple[Store, Mapping[str, Any]]:
    """A store of features that runs have left, and its identity.

    Args:
        directory: of the store, or of a copy of its ledgers.
        url: of the store, if it is at one.

    Raises:
        ValueError: there is none, or it keeps units alone.
    """
    store, known = existing_store(directory, url), metadata.read(directory, url)
    assert known is not None
    if not store.features:
        raise ValueError(f"{store.shown}: keeps units alone (features=false); needed features")
    return store, known["identity"]


class Reader:
    """Reads a store's utterances by their lines. Picklable; another process opens the store anew.

    Args:
        store: the store.
        identity: of the store, by which it is opened again.
        audio: whether the training audio is read too.
        mapped: whether files are mapped into memory; "auto": where that pays for all that is read.
        checksum: whether files are compared with their checksums first.
    """

    def __init__(
        self,
        store: Store,
        identity: Mapping[str, Any],
        *,
        audio: bool = False,
        mapped: Mapped = "auto",
        checksum: bool = False,
    ) -> None:
        self.directory, self.identity = store.directory, dict(identity)
        self._url, self._shown = store.url, store.shown
        self.audio, self.mapped, self.checksum = audio, mapped, checksum
        self._store: Store | None = store

    def __call__(self, recording: Recording, kept: Kept) -> StoredUtterance:
        """Reads one utterance.

        Raises:
            OSError: a file is not there; names it.
            ValueError: a file was cut, or is damaged; names it and says what was found.
        """
        layout = self.opened().layout
        try:
            if self.checksum and not layout.intact(kept, checksum=True):
                raise ValueError(f"{self._path(kept)}: other bytes than its line's checksum is of")
            mapped = self._maps(kept) if self.mapped == "auto" else self.mapped
            values = layout.map(kept) if mapped else layout.read(kept)
            audio = layout.read_audio(kept) if self.audio else None
        except ValueError as error:
            raise ValueError(f"{error}{self._missing_bytes(kept)}") from None
        if self.audio and audio is None:
            raise ValueError(f"{self._path(kept)}: no training audio beside it")
        return StoredUtterance(recording, values[0] if len(values) == 1 else values, audio)

    def _maps(self, kept: Kept) -> bool:
        """Whether mapping pays: in a short file page faults take longer than copying."""
        _name, _offset, size, _crc = kept.files[0]
        return size >= MAPPED_FROM and self.opened().layout.maps_frames

    def opened(self) -> Store:
        """The store, opened anew in another process."""
        if self._store is None:
            self._store = store_of(self.directory, self.identity, self._url)
        return self._store

    def _path(self, kept: Kept) -> str:
        return printable(f"{self._shown}/{kept.files[0][0]}")

    def _missing_bytes(self, kept: Kept) -> str:
        """Which file of an utterance ends before its line says; "" if none does."""
        for name, offset, size, _crc in kept.files:
            path, needed = self.directory / name, offset + size
            with suppress(OSError):
                found = path.stat().st_size
                if found < needed:
                    where = printable(str(path))
                    return f". {where} was cut: {found:,} bytes; its line needs {needed:,}"
        return ""

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_store": None}
