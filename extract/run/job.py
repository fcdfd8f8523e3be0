"""One run: a config made into objects, the objects into a finished store and an exit code."""

from __future__ import annotations

import functools
import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from extract.config import Config, Verify
from extract.data.batch import Batch
from extract.data.dataset import AudioDataset
from extract.data.durations import durations
from extract.data.loader import ResilientLoader, raise_open_file_limit
from extract.data.plan import Indices, padding_share, plan_batches, unfinished
from extract.data.plan import fingerprint as plan_fingerprint
from extract.encoder.batches import Encoding
from extract.encoder.encoder import Encoder
from extract.files import explained, read_whole, replace_cache
from extract.internal import InternalErrors
from extract.machine import LoaderPlan, choose, keep_freed_memory
from extract.manifest.manifest import Manifest
from extract.run.build import (
    load_batches,
    load_encoder,
    read_manifest,
    scan_headers,
)
from extract.run.pipeline import Clock, run
from extract.run.progress import Progress, Tally
from extract.run.signals import Stop
from extract.run.summary import Summary, report, summarize
from extract.store import foreign, metadata
from extract.store.ledger import Ledger, dtype_name, read
from extract.store.lock import PRIVATE, locked
from extract.store.opening import Opening, open_store
from extract.store.resume import Remaining, Trust, remaining
from extract.store.store import Store, StoreUnusable, bytes_per_second
from extract.store.writers import Writers, failure_record
from extract.text import count
from extract.values import FAILED, AudioSettings, Failure

log = logging.getLogger(__name__)

EXIT_DONE, EXIT_SOME_FAILED, EXIT_INTERNAL = 0, 1, 70  # others are app.py's and signals.py's

SLACK = 1.1  # a header's duration may be off by a little; a batch is not split for that
HOW_TO_GO_ON = "the same command goes on from here"


def run_job(config: Config, console: Console, stop: Stop) -> Summary:
    """Extracts a dataset; returns what became of it, with the exit code.

    Raises:
        ValueError: the config asks for what cannot be; nothing was done.
    """
    manifest = config.shard.part_of(read_manifest(config))
    encoder, weights = load_encoder(config)
    store = Store(config.store.dir, fsync=config.store.fsync)
    job = _Job(config, config.audio, manifest, store, console, stop, encoder, weights)
    try:
        store.create()
        with locked(store.directory, config.shard.index, config.shard.count, job.open):
            exit_code = job.run()
    except StoreUnusable as error:
        console.print(f"stopped: {error}", style="bold red", soft_wrap=True, markup=False)
        console.print(f"Once that is mended, {HOW_TO_GO_ON}.")
        exit_code = EXIT_SOME_FAILED
    return replace(job.summary, exit_code=exit_code)


@dataclass(frozen=True)
class _Work:
    """What is left, in batches."""

    rest: Remaining
    batches: list[Indices]
    seconds: float  # of audio to be saved


class _Job:
    def __init__(
        self,
        config: Config,
        audio: AudioSettings,
        manifest: Manifest,
        store: Store,
        console: Console,
        stop: Stop,
        encoder: Encoder,
        weights: str,
    ) -> None:
        self.config, self.audio, self.manifest, self.store = config, audio, manifest, store
        self.console, self.stop = console, stop
        self.encoder, self.weights = encoder, weights
        self.foreign: frozenset[str] = frozenset()
        self.internal = InternalErrors()
        self.summary = Summary(store.directory)  # until there is more to say
        self.ledger_path = store.directory / config.shard.ledger_name
        raise_open_file_limit()

    def open(self, alone: bool) -> None:
        """Opens the store, before any other process may start in it."""
        config, encoder = self.config, self.encoder
        identity = metadata.identity(
            self.audio,
            weights=self.weights,
            layer=encoder.layer or encoder.num_layers,
            precision=dtype_name(encoder.dtype),
            source=self.manifest.source,
        )
        opening = Opening(
            identity,
            self._made_with(),
            encoder.architecture.stack,
            self.audio,
            self.manifest.ids,
            config.shard,
            config.overwrite,
        )
        self.foreign = open_store(self.store, opening, alone)

    def run(self) -> int:
        encoder = self.encoder
        if not gc.isenabled():  # `__main__` put it off
            gc.freeze()  # no search through all of torch: 0.13 s
            gc.enable()
        if encoder.device.type == "cpu":
            keep_freed_memory()
        plan = self._choose(encoder)
        work = self._settle(plan)
        recordings = count(len(self.manifest), "recording")
        self._say(f"{work.rest.todo.sum():,} of {recordings} to do")
        clock = Clock()
        tally = Tally(int(work.rest.todo.sum()) + len(self._faults()), work.seconds)
        try:
            self._extract(work, encoder, plan, tally, clock)
        except StoreUnusable:
            left_s = max(0.0, work.seconds - tally.saved_s)
            needed = left_s * bytes_per_second(
                encoder.hidden_size, encoder.dtype.itemsize, encoder.architecture.stack
            )
            self._say(f"about {needed / 1e6:,.1f} MB are needed for what is left")
            raise
        finally:
            self.summary = summarize(self.store.directory, tally, clock, work.rest)
            report(self.console, self.summary)
        if tally.done >= tally.total:
            with explained(self.store.directory):
                foreign.end(self.store.directory, self.config.shard)
        return self._exit_code(tally)

    def _settle(self, plan: LoaderPlan) -> _Work:
        """Makes sure of what is in the store, and plans what is not."""
        trust = Trust(self.config.retry_failed, self.config.store.verify is Verify.checksum)
        with explained(self.store.directory):
            rest = remaining(self.manifest, self.store, self.ledger_path, trust)
        seconds = self._durations()
        architecture = self.encoder.architecture
        batches = plan_batches(seconds, plan.batch_seconds, architecture.quadratic_s)
        companions = rest.unseen if self._same_plan(batches) else np.zeros_like(rest.unseen)
        batches = unfinished(batches, rest.todo, companions)
        if batches:
            share = padding_share(seconds, batches)
            log.info("%s, %.1f %% padding", count(len(batches), "batch"), 100 * share)
        return _Work(rest, batches, float(seconds[rest.todo].sum()))

    def _same_plan(self, batches: list[Indices]) -> bool:
        """Whether an earlier run had this plan; notes it for a later one."""
        path, same = self._private("plan"), False
        plan = plan_fingerprint(batches, self.manifest.ids).encode()
        with suppress(OSError):  # none yet, or a damaged one: it is only a cache
            same = read_whole(path, len(plan)) == plan
        if not same and not self.stop():
            with explained(self.store.directory):
                replace_cache(path, plan)
        return same

    def _private(self, name: str) -> Path:
        """A file of this shard's that only saves a later run time."""
        return self.store.directory / PRIVATE / f"{name}-{self.config.shard}"

    def _extract(
        self, work: _Work, encoder: Encoder, plan: LoaderPlan, tally: Tally, clock: Clock
    ) -> None:
        with explained(self.store.directory):
            ledger = Ledger(self.ledger_path, fsync=self.store.fsync)
        with Progress(self.console, tally, clock) as progress:
            dataset = AudioDataset(self.manifest, self.audio, encoder.architecture.stack)
            loader = load_batches(
                dataset, work.batches, self.config, plan, encoder.device, self.stop
            )
            threads = self.config.store.num_writers
            writers = Writers(self.store, ledger, progress.add, threads, self.foreign)
            try:
                for record in map(failure_record, self._faults()):
                    with explained(self.store.directory):
                        ledger.append(record)
                    progress.add(record)
                batches = _pinned(loader) if encoder.device.type == "cuda" else loader
                encoding = Encoding(
                    encoder,
                    SLACK * plan.batch_seconds,
                    self._fallback(encoder),
                    quadratic_s=encoder.architecture.quadratic_s,
                )
                run(batches, encoding, writers, work.rest.todo, clock, self.internal)
                writers.close()
            except BaseException:
                writers.close(abandon=True)
                raise
            finally:
                loader.close()
                with explained(self.store.directory):
                    ledger.close()

    def _durations(self) -> NDArray[np.float64]:
        with self.console.status("reading headers") as status:
            num_read = 0

            def progress(num: int) -> None:
                nonlocal num_read
                num_read += num
                status.update(f"reading headers: {num_read:,} of {len(self.manifest):,}")

            scan = partial(scan_headers, self.config, self.stop)
            path = self._private("lengths")
            return durations(self.manifest, path, scan, progress, self.internal)

    def _faults(self) -> list[Failure]:
        return list({one.recording.id: one for one in self.manifest.failures}.values())

    def _fallback(self, encoder: Encoder) -> Callable[[], Encoder] | None:
        model, layer = encoder.model, encoder.layer
        if encoder.device.type == "cpu" or model is None or not self.config.cpu_fallback:
            return None
        return functools.cache(lambda: Encoder(model, device="cpu", precision="fp32", layer=layer))

    def _choose(self, encoder: Encoder) -> LoaderPlan:
        loader = self.config.loader
        plan = choose(
            loader.num_workers, loader.batch_seconds, loader.prefetch, encoder.device, encoder.dtype
        )
        computed_in = encoder.exact.dtype
        how = "" if computed_in == encoder.dtype else f", computed in {dtype_name(computed_in)}"
        self._say(
            f"{dtype_name(encoder.dtype)} on {encoder.device}{how}; "
            f"loader.num_workers={plan.num_workers} loader.batch_seconds={plan.batch_seconds:g} "
            f"loader.prefetch={plan.prefetch}, {count(torch.get_num_threads(), 'thread')}"
        )
        return plan

    def _made_with(self) -> dict[str, str]:
        packages = ("extract", "torch", "transformers", "soxr", "av")
        return {"model": self.config.model.path} | {name: version(name) for name in packages}

    def _exit_code(self, tally: Tally) -> int:
        if self.stop() and tally.done < tally.total:
            left = count(tally.total - tally.done, "recording")
            self._say(f"interrupted with {left} left; {HOW_TO_GO_ON}")
            return self.stop.exit_code
        if self.internal.num:
            faults = count(self.internal.num, "fault")
            self._say(
                f"{faults} of this program (internal_error in the ledger); the same command tries "
                "those recordings again"
            )
            return EXIT_INTERNAL
        failed_before = (
            sum(record.get("status") == FAILED for record in read(self.store.directory))
            if not self.config.retry_failed
            else 0
        )
        return EXIT_SOME_FAILED if tally.num(FAILED) or failed_before else EXIT_DONE

    def _say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, markup=False, highlight=False)


def _pinned(batches: ResilientLoader[Batch]) -> Iterator[Batch]:
    for batch in batches:
        yield batch.pin_memory()
