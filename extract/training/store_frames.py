"""Stores' features as a stream of utterances, shuffled by a seed: what k-means learns from."""

from __future__ import annotations

import logging
import math
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from extract.files import open_regular
from extract.store import ledger, metadata
from extract.store.existing import existing_store
from extract.store.kind import kind_of, layer_of, require_kind
from extract.store.store import Store
from extract.text import printable
from extract.values import SAVED

log = logging.getLogger(__name__)

Frames = NDArray[np.float32]  # (frames, dimensions)


class StoreFrames:
    """The features of the utterances saved in stores, one utterance at a time.

    Utterances are drawn until they have the frames that are asked for; the draw is a function of
    the seed and of the ledgers. Memory: three numbers an utterance. A context manager: it holds the
    ledgers open, so that lines stay where they are if another command replaces a ledger.

    Args:
        directories: of the stores, whose features are of one kind.
        layer: which one, in stores of several layers.
        fraction: of all frames, above 0 and at most 1.
        most: frames, at most one utterance more; None: what `fraction` gives.
        seed: of the draw and of the orders.

    Raises:
        ValueError: no store, no features, features of different kinds, or no such layer.
    """

    def __init__(
        self,
        directories: Sequence[Path],
        *,
        layer: int | None = None,
        fraction: float = 1.0,
        most: int | None = None,
        seed: int = 0,
    ) -> None:
        self._stores = [_store_with_features(directory) for directory in directories]
        identities = [_identity(directory) for directory in directories]
        chosen = [
            layer_of(one, layer, str(where))
            for where, one in zip(directories, identities, strict=True)
        ]
        self.kind = kind_of(identities[0], chosen[0][0])
        for directory, identity, (own, _place) in zip(directories, identities, chosen, strict=True):
            require_kind(self.kind, identity, str(directory), own, made=str(directories[0]))
        self._places = [place for _layer, place in chosen]  # of the layer among the store's
        self._seed = seed
        with ExitStack() as files:
            self._ledgers: list[tuple[int, BinaryIO]] = []  # number of the store, and the ledger
            self._lines = self._find_lines(files)
            total = int(self._lines[:, 2].sum())
            if not total:
                where = ", ".join(printable(str(directory)) for directory in directories)
                raise ValueError(f"{where}: no features here")
            self._draw(math.ceil(total * fraction) if most is None else most)
            self._files = files.pop_all()

    def __enter__(self) -> StoreFrames:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    @property
    def num_frames(self) -> int:
        """Frames of the utterances drawn, as the ledgers say."""
        return int(self._lines[:, 2].sum())

    @property
    def num_utterances(self) -> int:
        """Utterances drawn."""
        return len(self._lines)

    @property
    def fingerprint(self) -> str:
        """What tells this draw from another: kind, and lengths in order."""
        lengths = self._lines[:, 2].tobytes()
        return blake2b(repr((self.kind, self._seed)).encode() + lengths, digest_size=16).hexdigest()

    def epoch(self, number: int, start: int) -> Iterator[Frames]:
        """The utterances (frames, dimensions) of an epoch in its order, from the `start`-th on.

        Those whose features are damaged or gone are logged, and have no frames.
        """
        order = np.random.default_rng([self._seed, number]).permutation(len(self._lines))
        for of_ledger, at, _num_frames in self._lines[order[start:]].tolist():
            yield self._read(of_ledger, at)

    def _find_lines(self, files: ExitStack) -> NDArray[np.int64]:
        """(utterances, 3): ledger, where the line begins in it, frames."""
        found = array("q")
        for number, store in enumerate(self._stores):
            for path in ledger.ledger_paths(store.directory):
                file, at = files.enter_context(open_regular(path)), 0
                for line in iter(partial(file.readline, ledger.MAX_LINE), b""):
                    record = ledger.parse(line)
                    if record is not None and record["status"] == SAVED:
                        found.extend((len(self._ledgers), at, record.get("num_frames") or 0))
                    at += len(line)
                self._ledgers.append((number, file))
        return np.frombuffer(found, np.int64).reshape(-1, 3)

    def _draw(self, most: int) -> None:
        """Keeps whole utterances, drawn at random, until they have `most` frames."""
        order = np.random.default_rng([self._seed]).permutation(len(self._lines))
        enough = int(np.searchsorted(self._lines[order, 2].cumsum(), most)) + 1
        self._lines = self._lines[np.sort(order[:enough])]

    def _read(self, of_ledger: int, at: int) -> Frames:
        number, file = self._ledgers[of_ledger]
        file.seek(at)
        record = ledger.parse(file.readline(ledger.MAX_LINE))
        assert record is not None  # it was read before, in the same file
        values = _features(self._stores[number], record)
        if values is None:
            log.warning("%s: its features are damaged or gone; left out", printable(record["id"]))
            return np.empty((0, 0), np.float32)
        frames: Frames = values[self._places[number]]
        return frames


def _store_with_features(directory: Path) -> Store:
    store = existing_store(directory)
    if not store.features:
        where = printable(str(directory))
        raise ValueError(f"{where}: this store keeps units alone (features=false)")
    return store


def _identity(directory: Path) -> dict[str, Any]:
    known = metadata.read(directory)
    assert known is not None  # `existing_store` has read it
    identity: dict[str, Any] = known["identity"]
    return identity


def _features(store: Store, record: dict[str, Any]) -> NDArray[np.float32] | None:
    """Saved features (layers, frames, dimensions); None where they are not what the line says."""
    if not store.intact(record, checksum=True):
        return None
    kept = store.layout.kept(record)
    assert kept is not None
    try:
        values = store.layout.read(kept)
    except (OSError, ValueError):
        return None
    found: NDArray[np.float32] = values.float().numpy()
    return found if found.shape[1] == record.get("num_frames") else None
