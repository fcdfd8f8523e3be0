"""How a job of a sweep takes features from the stores of the jobs before, and measures its own."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import numpy as np

from extract.data.decoded import DecodedCache
from extract.data.plan import Indices
from extract.run.assembled import Job
from extract.run.auto import LoaderPlan, room_for_decoded
from extract.run.build import load_batches
from extract.run.clock import Clock
from extract.run.donors import donors, kind_of, shares_features
from extract.run.opened import opening_of
from extract.run.pipeline import run
from extract.run.proof import proved
from extract.run.reuse import Mask, Reuse
from extract.run.room import size
from extract.run.sweep import Sweep
from extract.run.work import Work
from extract.store.writers import Writers
from extract.text import count


def of_sweep(job: Job, sweep: Sweep | None) -> Job:
    """The job as one of a sweep; where features may be shared, each one's sensitivity is measured.

    A job outside of a sweep is returned as it is.
    """
    if sweep is None:
        return job
    measures = shares_features(job)
    encoder = job.encoder.measuring_gain() if measures else job.encoder
    return replace(job, sweep=sweep, encoder=encoder)


def choose_decoded(job: Job, loading: LoaderPlan) -> None:
    """Chooses in the first job of a sweep how much memory decoded recordings take, and says so."""
    sweep, loader = job.sweep, job.config.loader
    if sweep is None or sweep.decoded or loader.decoded_mb == 0:
        return
    if sweep.folder is None or not sweep.folder.is_dir():  # an engine's other machine has none
        return
    most, spare = room_for_decoded(loader.decoded_mb, loading, int(loader.side_by_side))
    sweep.decoded = DecodedCache(str(sweep.folder), most, spare)
    job.watch.said(
        f"decoded recordings stay in memory for later jobs, at most {size(most)} in "
        f"{sweep.folder} (loader.decoded_mb; 0 = none)"
    )


def features_to_take(job: Job, todo: Mask) -> Reuse | None:
    """What may be taken from stores of the sweep, and says so; None where that is nothing.

    Args:
        job: the run.
        todo: for every index of the manifest, whether it is to be saved.
    """
    sweep = job.sweep
    if sweep is None or not sweep.stores or not todo.any() or not shares_features(job):
        return None
    identity = opening_of(job).identity
    if sweep.proofs.get(kind_of(identity), 0.0) is None:
        return None  # a job before has said why
    reuse = Reuse(job, list(donors(job, identity, sweep.stores)), todo)
    if not reuse.mask.any() or not proved(reuse, sweep, identity):
        return None
    num, of = int(reuse.mask.sum()), count(int(todo.sum()), "recording")
    job.watch.said(f"{num:,} of {of}: features shared with {reuse}")
    return reuse


def take(job: Job, work: Work, writers: Writers, clock: Clock) -> list[Indices]:
    """Saves what other stores have; returns batches of what they turn out not to have.

    Raises:
        StoreUnusable: the job's store is full, read-only or gone.
    """
    reuse = work.reuse
    if reuse is None:
        return []
    device, dataset = job.encoder.device, reuse.dataset()
    with closing(
        load_batches(dataset, work.reusable, job.config, work.loading, device, job.stop)
    ) as loader:
        run(loader, reuse, writers, work.rest.todo, clock, job.internal)
    writers.drain()
    left = reuse.left_of(work.reusable, writers.not_taken)
    if left and not job.stop():
        num = count(int(np.concatenate(left).size), "recording")
        job.watch.said(f"{num} computed after all: a recording or a store has changed")
    return left
