"""The objects of one shard's run, `Job`, and what is settled and said before its work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from extract.config import Config, InputNorm
from extract.data.decoded import DecodedCache
from extract.encoder.encoder import Encoder
from extract.encoder.quantizer import Quantizer
from extract.encoder.unit_format import unit_files
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
)
from extract.run.observer import Observer
from extract.run.signals import Stop
from extract.run.sweep import Sweep
from extract.run.trainers import LeftOut
from extract.run.units import ShardUnits
from extract.shard import Shard
from extract.store import opened
from extract.store.events import require_tensorboard
from extract.store.ledger import dtype_name
from extract.store.lock import PRIVATE
from extract.store.store import Store
from extract.text import count, printable


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
