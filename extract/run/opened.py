"""A job's store, opened for the time of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

from extract import __version__
from extract.run.work import Job
from extract.store import metadata
from extract.store.kind import require_kind
from extract.store.ledger import dtype_name
from extract.store.lock import locked
from extract.store.opening import Opening, open_store


@contextmanager
def opened(job: Job, weights: str) -> Iterator[frozenset[str]]:
    """Creates the store, opens it for this run, and holds the shard's lock on it during the block.

    Args:
        job: the run.
        weights: fingerprint of the encoder's weights.

    Yields:
        Those of the manifest's ids whose files in the store another program made.

    Raises:
        ValueError: the store holds features of another identity, or another process works there.
        StoreUnusable: it cannot be made or written to.
    """
    opening, foreign = opening_of(job, weights), list[frozenset[str]]()

    def settle(alone: bool) -> None:
        foreign.append(open_store(job.store, opening, alone))
        if job.units is not None:
            job.units.begin(alone=alone)

    job.store.create()
    with locked(job.store.directory, job.shard.index, job.shard.count, settle):
        yield foreign[0]


def opening_of(job: Job, weights: str) -> Opening:
    """The run as its store has to know it.

    Raises:
        ValueError: the quantizer is for features of another kind.
    """
    config, encoder = job.config, job.encoder
    identity = metadata.identity(
        config.audio,
        weights=weights,
        model=encoder.wanted,
        precision=dtype_name(encoder.dtype),
        source=None if job.store.layout.adds else job.manifest.source,
        layout=job.store.layout_name,
        input_norm=job.input_norm.name,
        dtype=job.store.dtype_of(dtype_name(encoder.dtype)),
        training_audio=job.store.keeps_audio,
        settings=job.store.layout.settings,
        quantizer=job.quantizer.fingerprint if job.quantizer else None,
        features=config.features,
    )
    if job.quantizer is not None:
        require_kind(job.quantizer.made_for, identity, "this run")
    packages = ("torch", "transformers", "soxr", "av")
    made_with = {"model": config.model.path, "extract": __version__}
    if job.added is not None:
        made_with["dataset"] = job.added
    made_with |= {name: version(name) for name in packages}
    return Opening(
        identity,
        made_with,
        encoder.architecture.stack,
        config.audio,
        job.manifest.ids,
        job.shard,
        config.overwrite,
    )
