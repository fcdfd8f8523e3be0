"""`run_shard`, which engines call: one shard of a config, from recordings to a finished store."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import numpy as np
import torch

from extract.config import Config, InputNorm
from extract.data.batch import Batch
from extract.data.dataset import AudioDataset
from extract.data.loader import ResilientLoader, raise_open_file_limit
from extract.data.plan import Indices
from extract.data.stamps import Stamps
from extract.encoder.batches import batch_encoder
from extract.encoder.encoder import Encoder
from extract.machine import collect_garbage_again, keep_freed_memory
from extract.options import check
from extract.run.assembled import Job, choose_loading, job_of, say_input
from extract.run.auto import LoaderPlan, share_of_threads
from extract.run.build import load_batches
from extract.run.clock import Clock
from extract.run.observer import Observer, Silent
from extract.run.opened import opened
from extract.run.pipeline import run
from extract.run.room import bytes_per_second, require_room
from extract.run.sharing import choose_decoded, features_to_take, of_sweep, take
from extract.run.signals import Stop
from extract.run.summary import Summary, not_begun, summarize
from extract.run.sweep import Sweep
from extract.run.tally import Tally
from extract.run.timings import Sampler
from extract.run.work import (
    Work,
    failures_of_source,
    find_rest,
    needs_plan,
    plan_rest,
    read_durations,
)
from extract.shard import Shard
from extract.store import foreign, settling
from extract.store.events import Events
from extract.store.ledger import Ledger, Record, read
from extract.store.listed import note_listed
from extract.store.store import StoreUnusable
from extract.store.timings import Timings
from extract.store.writers import Writers, failure_record
from extract.text import count, printable
from extract.values import FAILED
from extract.write_errors import explained

_UNWATCHED, _NEVER = Silent(), Stop()


def run_shard(
    config: Config,
    shard: Shard,
    watch: Observer = _UNWATCHED,
    stop: Stop = _NEVER,
    sweep: Sweep | None = None,
) -> Summary:
    """Extracts one shard of a dataset, skipping what is finished; returns what became of it.

    It prints nothing: `watch` is told. `config` and `shard` are picklable, so another process may
    be given them; `watch` and `stop` belong to this one. It raises this process's soft limit on
    open files and, on a CPU, glibc's thresholds for returning memory to the kernel. On a CPU it
    also lowers torch's number of threads if `loader.side_by_side` is more than 1.

    Args:
        config: what to extract, and into which store.
        shard: the part to do; `config.shard` is not looked at.
        watch: told what happens; writer threads call its `recorded`.
        stop: once it returns True, the batches in flight are finished and the work ends.
        sweep: what this job shares with those before and after it; None for a job alone. Features
            that another gain does not change are taken from the stores in it. The caller adds the
            store of each job that has ended: `sweep.ended([summary.directory])`.

    Raises:
        ValueError: the config cannot be carried out, or another process has the shard
            (`StoreBusy`); nothing was done.
    """
    check(replace(config, shard=shard))
    job = of_sweep(job_of(config, shard, watch, stop), sweep)
    try:
        with opened(job) as foreign_ids:
            _prepare_process(job.encoder, int(config.loader.side_by_side))
            note_listed(job.store, job.shard, job.manifest)
            loading = choose_loading(job)
            say_input(job)
            if job.url:
                watch.said(f"{job.url}: worked on in {printable(str(job.store.directory))}")
            if job.units is not None and job.units.fill(stop).stopped:
                summary = not_begun(config.store.dir, interrupted=stop.signal_name or "")
            else:
                return _extract(job, _work(job, loading, foreign_ids))
    except StoreUnusable as error:
        summary = Summary(job.directory, stopped=str(error), url=job.url)
    watch.ended(summary)
    return summary


def _work(job: Job, loading: LoaderPlan, foreign_ids: frozenset[str]) -> Work:
    """What is left to do, in batches.

    Raises:
        StoreUnusable: the disk is too small for it.
    """
    stamps = Stamps(job.manifest)
    rest = find_rest(job, stamps)
    seconds = read_durations(job, stamps) if needs_plan(job, rest) else np.zeros(len(rest.todo))
    del stamps
    job.watch.said(f"{rest.todo.sum():,} of {count(len(job.manifest), 'recording')} to do")
    if rest.todo.any():
        choose_decoded(job, loading)
    reuse = features_to_take(job, rest.todo)
    taken = None if reuse is None else reuse.mask
    batches, reusable = list[Indices](), list[Indices]()
    if needs_plan(job, rest):
        batches, reusable = plan_rest(job, loading.batch_seconds, rest, seconds, taken)
    require_room(job, rest.todo, seconds, None if reuse is None else reuse.linked)
    todo_s, failures = float(seconds[rest.todo].sum()), failures_of_source(job.manifest)
    return Work(loading, rest, batches, todo_s, failures, foreign_ids, reuse, reusable)


def _prepare_process(encoder: Encoder, side_by_side: int) -> None:
    """Sets this process's garbage collector, limit on open files, glibc's allocator, threads."""
    collect_garbage_again()
    raise_open_file_limit()
    if encoder.device.type == "cpu":
        keep_freed_memory()
        if side_by_side > 1:
            torch.set_num_threads(share_of_threads(side_by_side))


def _extract(job: Job, work: Work) -> Summary:
    """Encodes and saves what is left; calls the observer's `ended`, also before an exception."""
    tally, clock = Tally(work.num_records, work.seconds, job.left_out), Clock()
    summarized = functools.partial(
        summarize, job.directory, tally, clock, work.rest, job.part, job.url
    )
    job.watch.planned(work.num_records, work.seconds, clock)
    sampler = _sampler(job, tally, clock)
    try:
        sampler.begin(job.config, job.shard)
        _save(job, work, tally, clock, sampler)
        sampler.note(last=True)
        summary = _finished(job, tally, summarized())
    except StoreUnusable as error:
        needed = _bytes_left(job, tally)
        summary = replace(summarized(), stopped=str(error), needed_bytes=needed)
    except BaseException:
        job.watch.ended(summarized())
        raise
    job.watch.ended(summary)
    return summary


def _sampler(job: Job, tally: Tally, clock: Clock) -> Sampler:
    where = job.store.directory, job.shard
    events = Events(*where) if job.config.report.tensorboard else None
    return Sampler(Timings(*where), tally, clock, job.encoder.device, events)


def _save(job: Job, work: Work, tally: Tally, clock: Clock, sampler: Sampler) -> None:
    """Runs the loop over all batches, with its loader, writers and ledger.

    Raises:
        StoreUnusable: the store is full, read-only or gone.
    """

    def done(record: Record) -> None:
        tally.add(record)
        sampler.note()
        job.watch.recorded(record)

    with explained(job.store.directory):
        ledger = Ledger(job.ledger_path, fsync=job.store.fsync)
    writers = Writers(job.store, ledger, done, job.config.store.num_writers, work.foreign)
    try:
        for record in (failure_record(one, job.added) for one in work.failures):
            with explained(job.store.directory):
                ledger.append(record)
            done(record)
        _encode(job, work, [*take(job, work, writers, clock), *work.batches], writers, clock)
        writers.close()
        settling.finish(job.store)
    except BaseException:
        writers.close(abandon=True)
        raise
    finally:
        with explained(job.store.directory):
            ledger.close()


def _encode(job: Job, work: Work, batches: list[Indices], writers: Writers, clock: Clock) -> None:
    """Encodes batches of recordings and hands them to the writers."""
    dataset = AudioDataset(
        job.manifest,
        job.config.audio,
        job.encoder.architecture.stack,
        unit_variance=job.input_norm is InputNorm.unit_variance,
        training_audio=job.store.keeps_audio,
        decoded=job.decoded,
    )
    device = job.encoder.device
    with closing(
        load_batches(dataset, batches, job.config, work.loading, device, job.stop)
    ) as loader:
        loaded = _pinned(loader) if device.type == "cuda" else loader
        encoder = batch_encoder(
            job.encoder, work.loading.batch_seconds, cpu_fallback=job.config.cpu_fallback
        )
        run(loaded, encoder, writers, work.rest.todo, clock, job.internal)


def _pinned(batches: ResilientLoader[Batch]) -> Iterator[Batch]:
    """The batches in page-locked memory, from which copies to a GPU are asynchronous."""
    for batch in batches:
        yield batch.pin_memory()


def _finished(job: Job, tally: Tally, summary: Summary) -> Summary:
    """The summary with how the loop ended; removes the shard's note if nothing is left to do."""
    left = max(0, tally.total - tally.done)
    if not left:
        with explained(job.store.directory):
            foreign.end(job.store.directory, job.shard)
        if job.units is not None:
            job.units.write(job.unit_ids())
            job.watch.said(f"units: {printable(str(job.units.file))}")
    if left and job.stop():
        return replace(summary, interrupted=job.stop.signal_name or "", left=left)
    not_retried = 0 if job.config.retry_failed else _num_failed_before(job, tally)
    return replace(summary, left=left, num_internal=job.internal.num, not_retried=not_retried)


def _num_failed_before(job: Job, tally: Tally) -> int:
    """Failures of earlier runs that all ledgers of the store hold."""
    statuses = Counter(record.get("status") for record in read(job.store.directory))
    return statuses[FAILED] - tally.num(FAILED)


def _bytes_left(job: Job, tally: Tally) -> float | None:
    """Bytes that the remaining audio will take in the store; None if nothing is left."""
    if tally.done >= tally.total:
        return None
    return max(0.0, tally.total_s - tally.saved_s) * bytes_per_second(job)
