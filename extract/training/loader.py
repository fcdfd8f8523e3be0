"""`make_loader`: a DataLoader over an `AudioDataset`, whose state says what was given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from extract.data.batch import Batch, collate
from extract.data.dataset import AudioDataset
from extract.data.durations import Headers, Scanned, durations
from extract.data.plan import Indices
from extract.training.sampler import EpochSampler, GivenBatches, LengthBatchSampler
from extract.values import Failure, Utterance


class Loader(DataLoader[Utterance | Failure]):
    """torch's DataLoader, which yields `Batch`es, and can go on within an epoch.

    `state_dict` counts the batches that were given, not those that workers have read ahead.
    """

    batch_sampler: EpochSampler
    _given = (-1, 0)  # the epoch of the last pass, and how many of its batches were given

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        sampler = self.batch_sampler
        first = sampler.begins_at
        self._given = sampler.epoch, first
        for number, batch in enumerate(super().__iter__(), first + 1):
            self._given = sampler.epoch, number
            yield cast(Batch, batch)

    @property
    def epoch(self) -> int:
        """The epoch of the current or next pass."""
        return self.batch_sampler.epoch

    def set_epoch(self, epoch: int) -> None:
        """The sampler's `set_epoch`, which also tells the dataset; between two passes."""
        self.batch_sampler.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """The state of the sampler when the last batch was given; values of JSON."""
        state = self.batch_sampler.state_dict()
        epoch, given = self._given
        return state | {"next": given} if epoch == state["epoch"] else state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Makes the next pass begin with the batch after the last one that was given.

        Raises:
            ValueError: the state is of other recordings, options or ranks.
        """
        self.batch_sampler.load_state_dict(state)
        self._given = -1, 0


def make_loader(
    dataset: AudioDataset,
    batch_seconds: float = 60.0,
    num_workers: int = 4,
    *,
    shuffle: bool = False,
    seed: int = 0,
    sampler: EpochSampler | None = None,
    batches: Sequence[Iterable[int]] | None = None,
    prefetch: int = 2,
    pin_memory: bool = False,
    persistent_workers: bool = False,
    start_method: str | None = None,
) -> Loader:
    """A DataLoader that yields `Batch`es, each of recordings of similar length.

    For training on the fly. Where torch.distributed is initialized, each rank gets its part. A
    worker that dies ends it with torch's error; the extractor loads through `extract.data.loader`,
    which replaces dead workers.

    Args:
        dataset: the recordings. Their headers are read during this call, a few tenths of a
            millisecond each.
        batch_seconds: most padded seconds in a batch of short recordings; see `plan_batches`.
        num_workers: processes that read headers and decode; 0 does both in this process.
        shuffle: whether each epoch has an order of its own (`set_epoch`); else the longest
            recordings come first.
        seed: of that order; the same on every rank.
        sampler: a `LengthBatchSampler` in place of the one that is made here; then no header is
            read. For a sampler of another kind there is torch's DataLoader, with `collate`.
        batches: indices of each batch, if you plan them yourself; then no header is read.
        prefetch: batches that each worker decodes ahead.
        pin_memory: whether batches are copied to page-locked memory.
        persistent_workers: whether workers live on for the next epoch.
        start_method: fork, spawn or forkserver; None is Python's default.
    """
    if batches is not None:
        sampler = GivenBatches(batches, dataset)
    if sampler is None:
        seconds = _seconds(dataset, num_workers)
        sampler = LengthBatchSampler(
            seconds, batch_seconds, shuffle=shuffle, seed=seed, dataset=dataset
        )
    is_copied = num_workers > 0 and start_method not in (None, "fork")
    return Loader(
        dataset.shared() if is_copied else dataset,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=num_workers,
        prefetch_factor=prefetch if num_workers else None,
        pin_memory=pin_memory,
        persistent_workers=persistent_workers and num_workers > 0,
        multiprocessing_context=start_method if num_workers else None,
    )


def _seconds(dataset: AudioDataset, num_workers: int) -> NDArray[np.float64]:
    """Seconds of each recording, from its list or header; 0 where the header cannot be read."""
    return durations(dataset.manifest, None, partial(scan_headers, num_workers), lambda _num: None)


def scan_headers(num_workers: int, items: Headers, chunks: list[Indices]) -> Iterator[Scanned]:
    """Reads headers in DataLoader workers, or in this process if there is only one chunk."""
    return iter(
        DataLoader(
            cast("Dataset[tuple[int, float | str]]", items),
            batch_sampler=[chunk.tolist() for chunk in chunks],
            collate_fn=list,
            num_workers=min(num_workers, len(chunks)) if len(chunks) > 1 else 0,
        )
    )
