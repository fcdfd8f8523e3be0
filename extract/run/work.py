"""The parts of one shard's run, `Job`, and the work that is left for it, `Work`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from extract.config import Config, InputNorm
from extract.data.decoded import DecodedCache
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
from extract.encoder.encoder import Encoder
from extract.encoder.quantizer import Quantizer
from extract.encoder.unit_format import unit_files
from extract.files import read_whole, replace_cache
from extract.internal import InternalErrors
from extract.manifest.clashes import Clash
from extract.manifest.manifest import Manifest
from extract.manifest.source import listed_ids
from extract.run.auto import LoaderPlan, choose
from extract.run.build import (
    input_norm,
    load_encoder,
    load_quantizer,
    open_store,
    output_of,
    read_manifest,
    require_layers,
    saved_dtype,
    scan_headers,
)
from extract.run.observer import Observer
from extract.run.signals import Stop
from extract.run.sweep import Sweep
from extract.run.trainers import LeftOut
from extract.run.units import ShardUnits
from extract.shard import Shard
from extract.store import opened
from extract.store.events import require_tensorboard
from extract.store.layout import Verify
from extract.store.ledger import dtype_name
from extract.store.lock import PRIVATE
from extract.store.resume import Remaining, ResumePolicy
from extract.store.store import Store
from extract.text import count, printable
from extract.values import Failure
from extract.write_errors import explained

if TYPE_CHECKING:
    from extract.run.reuse import Reuse

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """The parts of one shard's run."""

    config: Config
    shard: Shard
    manifest: Manifest  # the shard's part
    encoder: Encoder
    store: Store
    watch: Observer
    stop: Stop
    internal: InternalErrors = field(default_factory=InternalErrors)
    left_out: LeftOut = field(default_factory=LeftOut)
    quantizer: Quantizer | None = None
    sweep: Sweep | None = None  # that the job is of

    @property
    def units(self) -> ShardUnits | None:
        """The shard's units; None without a quantizer."""
        if self.quantizer is None:
            return None
        files = unit_files(self.config.quantizer)
        return ShardUnits(self.store, self.shard, self.quantizer, files, self.encoder.device)

    def unit_ids(self) -> Sequence[str | None]:
        """The ids in the order of the shard's file of units: see `ShardUnits.write`."""
        if not unit_files(self.config.quantizer).follows_list:
            return self.manifest.ids
        output = output_of(self.config, self.store.layout)
        return self.shard.part_of_ids(listed_ids(self.config.dataset, output))

    @property
    def decoded(self) -> DecodedCache | None:
        """Where decoded recordings are kept for the jobs of a sweep; None where none are."""
        keeps = self.sweep is not None and self.config.loader.decoded_mb != 0
        return self.sweep.decoded if self.sweep and keeps else None

    @property
    def input_norm(self) -> InputNorm:
        """What becomes of waveforms before the encoder."""
        return input_norm(self.config, self.encoder)

    @property
    def added(self) -> str | None:
        """The source, where it is one of several in the store; printable."""
        return printable(self.manifest.source) if self.store.layout.adds else None

    @property
    def part(self) -> str:
        """Which part of the job this is; "" where it has one part."""
        return f"part {self.shard.index} of {self.shard.count}" if self.shard.count > 1 else ""

    @property
    def url(self) -> str:
        """The URL of the store without its secrets; "" of one in a folder."""
        return self.store.shown if self.store.url else ""

    @property
    def directory(self) -> Path:
        """The store's folder; of a store at a URL a path that does not exist."""
        return Path(self.url) if self.url else self.store.directory

    @property
    def ledger_path(self) -> Path:
        """The shard's ledger."""
        return self.store.directory / self.shard.ledger_name

    def cache_path(self, name: str) -> Path:
        """The path of a file of this shard's whose loss costs a later run only time."""
        return self.store.directory / PRIVATE / f"{name}-{self.shard}"


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


def job_of(
    config: Config,
    shard: Shard,
    watch: Observer,
    stop: Stop,
    clashes: list[Clash] | None = None,
) -> Job:
    """The parts of a shard's run.

    Raises:
        ValueError: the config cannot be carried out.
    """
    if config.report.tensorboard:
        require_tensorboard()
    store = open_store(config, shard)
    require_layers(config, store.layout)
    whole = read_manifest(config, store.layout, clashes)
    store, manifest = opened.settled(store, whole.ids, watch.said), shard.part_of(whole)
    encoder = load_encoder(config)
    quantizer = load_quantizer(config, encoder)
    if quantizer is not None:
        encoder = encoder.quantized(quantizer.assign, saved_dtype(encoder, store))
    left_out = LeftOut(config.store.layout if config.audio.has_training_audio else "")
    job = Job(config, shard, manifest, encoder, store, watch, stop)
    return replace(job, left_out=left_out, quantizer=quantizer)


def choose_loading(job: Job) -> LoaderPlan:
    """Settles what the config leaves to `auto`, and says so."""
    loader, encoder = job.config.loader, job.encoder
    plan = choose(
        loader.num_workers,
        loader.batch_seconds,
        loader.prefetch,
        encoder.device,
        encoder.dtype,
        training_audio=job.store.keeps_audio,
        side_by_side=int(loader.side_by_side),
    )
    computed_in = encoder.exact.dtype
    how = "" if computed_in == encoder.dtype else f", computed in {dtype_name(computed_in)}"
    job.watch.said(
        f"{dtype_name(encoder.dtype)} on {encoder.device}{how}; "
        f"loader.num_workers={plan.num_workers} loader.batch_seconds={plan.batch_seconds:g} "
        f"loader.prefetch={plan.prefetch}, {count(torch.get_num_threads(), 'thread')}"
    )
    return plan


def say_input(job: Job) -> None:
    """Says if waveforms are normalised, or are not though this model's features depend on it.

    At GPT-SoVITS's scale a model with a norm over time behind its first convolution gives the same
    features either way.
    """
    config, encoder = job.config, job.encoder
    sees_level = encoder.architecture.conv_norm == "layer"
    if job.input_norm is InputNorm.unit_variance:
        job.watch.said("each waveform is brought to zero mean and unit variance")
    elif config.model.input_norm is InputNorm.auto and encoder.wants_unit_variance and sees_level:
        job.watch.said(
            f"{printable(config.model.path)}: trained on waveforms of zero mean and unit variance, "
            "which it is not fed here; audio=plain feeds it so"
        )


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
