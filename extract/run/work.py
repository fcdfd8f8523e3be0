"""The work that is left for one shard's run, `Work`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from extract.config import Config
from extract.data.durations import durations
from extract.data.plan import (
    Indices,
    padded_seconds,
    padding_share,
    plan_batches,
    plan_fingerprint,
    unfinished,
)
from extract.data.stamps import Stamps
from extract.files import read_whole, replace_cache
from extract.manifest.manifest import Manifest
from extract.run.assembled import Job
from extract.run.auto import LoaderPlan
from extract.run.build import scan_headers
from extract.store import opened
from extract.store.layout import Verify
from extract.store.resume import Remaining, ResumePolicy
from extract.text import count
from extract.values import Failure
from extract.write_errors import explained

if TYPE_CHECKING:
    from extract.run.reuse import Reuse

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Work:
    """The work that is left for a shard, in batches."""

    loading: LoaderPlan
    rest: Remaining
    batches: list[Indices]
    seconds: float  # of audio to be saved
    failures: list[Failure]  # of the source, each id once
    foreign: frozenset[str]  # ids whose files in the store are another program's
    reuse: Reuse | None = None  # features that other stores of a sweep have
    reusable: list[Indices] = field(default_factory=list)  # batches of these

    @property
    def num_records(self) -> int:
        """Records that a run to the end writes."""
        return int(self.rest.todo.sum()) + len(self.failures)


def find_rest(job: Job, stamps: Stamps) -> Remaining:
    """Which recordings the store lacks; drops lines of the ledger that no longer hold."""
    policy = resume_policy(job.config, units=job.quantizer is not None)
    rest = opened.find_rest(job.store, job.manifest, job.shard, policy, job.left_out.add, stamps)
    given = "that an earlier list or folder gave to others"
    if rest.renamed:
        job.watch.said(f"recordings with names {given}: {rest.renamed:,}, done again")
    if rest.lent:
        job.watch.said(f"missing recordings with names {given}: {rest.lent:,}; those files stay")
    return rest


def resume_policy(config: Config, *, units: bool = False) -> ResumePolicy:
    """Which lines of earlier runs a run accepts; with `units` none without them."""
    checksum = config.store.verify is Verify.checksum
    return ResumePolicy(config.retry_failed, checksum, units=units)


def needs_plan(job: Job, rest: Remaining) -> bool:
    """Whether durations and plan are of use: to this run, or to the next job of a sweep."""
    return job.sweep is not None or bool(rest.todo.any())


def read_durations(job: Job, stamps: Stamps) -> NDArray[np.float64]:
    """Seconds of each recording, (len(manifest),), from headers, an earlier run or the job before.

    They are noted in this job's store for a later run, and for the next job of a sweep.

    Args:
        job: the run.
        stamps: of the recordings, as far as they are known.
    """
    scan = partial(scan_headers, job.config, job.stop)
    cache, sweep = job.cache_path("durations"), job.sweep
    before = sweep.durations if sweep else None
    seconds = durations(job.manifest, cache, scan, headers_read(job), job.internal, before, stamps)
    if sweep:
        sweep.durations = cache
    return seconds


def headers_read(job: Job) -> Callable[[int], None]:
    """Tells the observer that reading begins; then, at each call, of so many more headers."""
    num_read, total = 0, len(job.manifest)

    def progress(num: int) -> None:
        nonlocal num_read
        num_read += num
        job.watch.reading(num_read, total)

    progress(0)
    return progress


def plan_rest(
    job: Job,
    batch_seconds: float,
    rest: Remaining,
    seconds: NDArray[np.float64],
    reusable: NDArray[np.bool_] | None = None,
) -> tuple[list[Indices], list[Indices]]:
    """Batches to compute, and batches of `reusable`, taken from the plan of the whole manifest.

    A run that goes on after an interruption therefore computes the same batches again, with the
    utterances in them that are saved already. Its features are the same to the last bit.
    """
    padded = padded_seconds(seconds, job.config.audio)
    batches = plan_batches(padded, batch_seconds, job.encoder.architecture.quadratic_s)
    companions = rest.unseen if _is_same_plan(job, batches) else np.zeros_like(rest.unseen)
    taken = np.zeros_like(rest.todo) if reusable is None else reusable
    apart, nothing = rest.shared | taken, np.zeros_like(taken)
    reused = unfinished(batches, taken, nothing)
    if apart.any():
        batches = [batch[~apart[batch]] for batch in batches]
    batches = unfinished(batches, rest.todo, companions)
    if batches:
        share = padding_share(padded, batches)
        log.info("%s, %.1f %% padding", count(len(batches), "batch"), 100 * share)
    return batches, reused


def _is_same_plan(job: Job, batches: list[Indices]) -> bool:
    """Whether an earlier run had this plan; notes it for a later one."""
    path, same = job.cache_path("plan"), False
    plan = plan_fingerprint(batches, job.manifest.ids).encode()
    with suppress(OSError):  # none yet, or a damaged one: it is only a cache
        same = read_whole(path, len(plan)) == plan
    if not same and not job.stop():
        with explained(job.store.directory):
            replace_cache(path, plan)
    return same


def failures_of_source(manifest: Manifest) -> list[Failure]:
    """The failures of the source itself: lines, folders, names. Each id once."""
    return list({failure.recording.id: failure for failure in manifest.failures}.values())
