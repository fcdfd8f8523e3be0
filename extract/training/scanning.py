"""Reads the headers of recordings in a DataLoader's workers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from torch.utils.data import DataLoader, Dataset

from extract.data.durations import Headers, Scanned
from extract.data.plan import Indices


def scan_headers(num_workers: int, items: Headers, chunks: list[Indices]) -> Iterator[Scanned]:
    """Durations by chunks of indices; in this process if there is one chunk or no worker."""
    return iter(
        DataLoader(
            cast("Dataset[tuple[int, float | str]]", items),
            batch_sampler=[chunk.tolist() for chunk in chunks],
            collate_fn=list,
            num_workers=min(num_workers, len(chunks)) if len(chunks) > 1 else 0,
        )
    )
