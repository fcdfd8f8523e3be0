"""`preflight=true`: what a run would find, from headers alone. It writes nothing.

It is about a whole job: all its shards, as if one process did them one after the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from extract.config import Config
from extract.data.plan import (
    Indices,
    cost_s,
    padded_seconds,
    padding_share,
    plan_batches,
    unfinished,
)
from extract.data.probes import Probed, read_headers
from extract.manifest.clashes import Clash
from extract.manifest.manifest import Manifest
from extract.run.assembled import Job, choose_loading, job_of, say_input
from extract.run.auto import LoaderPlan
from extract.run.build import (
    scan_probes,
)
from extract.run.observer import Observer
from extract.run.opened import opening_of
from extract.run.room import Room, certain_share, outside_gates, room_for, too_small
from extract.run.signals import Stop
from extract.run.speed import Range, decoding_ratio, encoder_ratio
from extract.run.trainers import dropped
from extract.run.work import failures_of_source, headers_read, resume_policy
from extract.shard import Shard, index_of
from extract.store.opening import examine
from extract.store.resume import Remaining, would_remain
from extract.values import Failure
from extract.write_errors import not_writable

MAX_FAILURES = 1000  # that are kept by name

Seconds = NDArray[np.float64]


@dataclass(frozen=True)
class Time:
    """Seconds that what is left takes one process on this machine; without writing."""

    encoder: Range
    decoding: Range  # of all workers together

    @property
    def total(self) -> Range:
        """Decoding goes on beside the encoder, and on a CPU it takes time from it."""
        low = max(self.encoder.low, self.decoding.low)
        return Range(low, self.encoder.high + self.decoding.high)


@dataclass(frozen=True)
class Preflight:
    """What a run would find. Counts are of the manifest's entries unless they say otherwise."""

    store: str
    recordings: int
    seconds: float
    todo: int
    todo_s: float  # of what would be saved
    finished: Counter[tuple[str, str]]  # (status, reason) -> recordings that the store has already
    rates: Counter[int]  # Hz -> recordings
    channels: Counter[int]
    codecs: Counter[str]
    reasons: Counter[str]  # would-be rejections and failures, also of the source
    failures: list[Failure]  # the first of them by name
    clashes: list[Clash]
    dropped: Counter[str]  # why the layout's trainer drops -> recordings that would be saved
    room: Room
    num_shards: int
    num_batches: int
    batch_seconds: float
    padding: float  # 0 to 1
    time: Time | None  # None where nothing was left to measure
    refusal: str = ""  # why the store would not take the run
    unusable: str = ""  # why nothing, or not all, can be written there


def preflight(config: Config, watch: Observer, stop: Stop) -> Preflight | None:
    """Examines a job: recordings by their headers, its store, the disk, the time it takes.

    Args:
        config: the job.
        watch: told what is chosen, and how many headers are read.
        stop: ends it; the result is then None.

    Raises:
        ValueError: the config cannot be carried out.
    """
    clashes: list[Clash] = []
    job = job_of(config, Shard(), watch, stop, clashes)
    loading = choose_loading(job)
    say_input(job)
    probed = _probed(job)
    found = _in_store(job)
    return None if stop() else _examined(job, loading, probed, clashes, found)


def _probed(job: Job) -> Probed:
    scan, total = partial(scan_probes, job.config, job.stop), len(job.manifest)
    probed = read_headers(job.manifest, scan, headers_read(job), job.internal)
    job.watch.reading(total, total)  # cuts of one file have one header
    return probed


@dataclass(frozen=True)
class _InStore:
    """What the store has already, and why it would not take the run."""

    rest: Remaining
    refusal: str = ""
    unusable: str = ""


def _in_store(job: Job) -> _InStore:
    everything = np.ones(len(job.manifest), bool)
    nothing_kept = Remaining(everything, everything, Counter(), 0.0)
    if unusable := not_writable(job.store.directory):
        return _InStore(nothing_kept, unusable=unusable)
    try:
        found = examine(job.store, opening_of(job))
    except ValueError as error:
        return _InStore(nothing_kept, refusal=str(error))
    if found is None or (found.differing and not found.only_gates):
        return _InStore(nothing_kept)  # `overwrite` replaces what is there
    gates = job.config.audio if found.only_gates else None
    return _InStore(would_remain(job.manifest, job.store, resume_policy(job.config), gates))


def _examined(
    job: Job, loading: LoaderPlan, probed: Probed, clashes: list[Clash], found: _InStore
) -> Preflight:
    rest, read = found.rest, probed.is_read
    short, long = outside_gates(probed.held_s, job.config.audio, job.encoder.architecture.stack)
    saved = rest.todo & read & ~short & ~long
    held_s = probed.held_s[saved]
    room = room_for(job, held_s, certain_share(held_s, held_s, probed.counted[saved]))
    too_little = rest.todo.any() and room.free < room.at_least
    failures = [*failures_of_source(job.manifest), *probed.failures]
    reasons = Counter[str](failure.reason for failure in failures)
    reasons += Counter(too_short=int((short & read).sum()), too_long=int((long & read).sum()))
    batches = _batches(job, loading, probed.planned_s, rest)
    padded = padded_seconds(probed.planned_s, job.config.audio)
    why_not = (dropped(job.store.layout_name, seconds) for seconds in held_s.tolist())
    starts = not (found.refusal or found.unusable or clashes)
    return Preflight(
        store=str(job.store.directory),
        recordings=len(job.manifest),
        seconds=float(probed.held_s.sum()),
        todo=int(rest.todo.sum()),
        todo_s=float(held_s.sum()),
        finished=rest.kept,
        rates=probed.rates,
        channels=probed.channels,
        codecs=probed.codecs,
        reasons=reasons,
        failures=failures[:MAX_FAILURES],
        clashes=clashes,
        dropped=Counter(filter(None, why_not)),
        room=room,
        num_shards=job.config.shard.count,
        num_batches=len(batches),
        batch_seconds=loading.batch_seconds,
        padding=padding_share(padded, batches),
        time=_time(job, loading, batches, padded, saved) if starts else None,
        refusal=found.refusal,
        unusable=found.unusable or (too_small(job, room) if too_little else ""),
    )


def _batches(job: Job, loading: LoaderPlan, planned_s: Seconds, rest: Remaining) -> list[Indices]:
    """The batches of all shards; each shard plans its own."""
    padded = padded_seconds(planned_s, job.config.audio)
    batches: list[Indices] = []
    for mine in _parts(job.manifest, job.config.shard.count):
        plan = plan_batches(
            padded[mine], loading.batch_seconds, job.encoder.architecture.quadratic_s
        )
        batches += [mine[batch] for batch in plan]
    return unfinished(batches, rest.todo, np.zeros_like(rest.todo))


def _parts(manifest: Manifest, num_shards: int) -> Iterator[Indices]:
    """The entries of each shard that has any."""
    numbers = (index_of(id_, num_shards) for id_ in manifest.ids)
    shard = np.fromiter(numbers, np.int64, len(manifest))
    for number in np.unique(shard):
        yield np.flatnonzero(shard == number)


def _time(
    job: Job,
    loading: LoaderPlan,
    batches: list[Indices],
    padded: Seconds,
    saved: NDArray[np.bool_],
) -> Time | None:
    """The time for what is to be saved, from a few seconds of measuring."""
    encoded = [batch[saved[batch]] for batch in batches if saved[batch].any()]
    if not encoded:
        return None
    encoder, quadratic_s = job.encoder, job.encoder.architecture.quadratic_s
    per_cost = encoder_ratio(encoder, encoded, padded, job.stop)
    per_second = decoding_ratio(
        job.manifest, np.where(saved, padded, 0.0), job.config.audio, job.stop
    )
    if per_cost is None or per_second is None:
        return None
    longest = [float(padded[batch].max()) for batch in encoded]
    sizes = np.array([len(batch) for batch in encoded])
    cost = float((sizes * cost_s(np.array(longest), quadratic_s)).sum())
    decoded_s = float(padded[saved].sum()) / max(1, loading.num_workers)
    return Time(per_cost * cost, per_second * decoded_s)
