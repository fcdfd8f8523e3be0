"""A job's store, opened for the time of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from extract.run.assembled import Job
from extract.store import opened as of_store
from extract.store.kind import require_kind
from extract.store.opening import Opening


@contextmanager
def opened(job: Job) -> Iterator[frozenset[str]]:
    """Creates the store, opens it for this run, and holds the shard's lock on it during the block.

    Args:
        job: the run.

    Yields:
        Those of the manifest's ids whose files in the store another program made.

    Raises:
        ValueError: the store holds features of another identity, or another process works there.
        StoreUnusable: it cannot be made or written to.
    """

    def settle(alone: bool) -> None:
        if job.units is not None:
            job.units.begin(alone=alone)

    with of_store.opened(job.store, opening_of(job), settle) as foreign:
        yield foreign


def opening_of(job: Job) -> Opening:
    """The run as its store has to know it.

    Raises:
        ValueError: the quantizer is for features of another kind.
    """
    config, encoder = job.config, job.encoder
    identity = of_store.identity_of(
        job.store,
        encoder,
        job.manifest,
        config.audio,
        input_norm=job.input_norm.name,
        quantizer=job.quantizer.fingerprint if job.quantizer else None,
    )
    if job.quantizer is not None:
        require_kind(job.quantizer.made_for, identity, "this run")
    said = {"model": config.model.path}
    if job.added is not None:
        said["dataset"] = job.added
    return Opening(
        identity,
        of_store.made_with(**said),
        encoder.architecture.stack,
        config.audio,
        job.manifest.ids,
        job.shard,
        config.overwrite,
    )
