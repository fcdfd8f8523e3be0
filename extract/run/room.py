"""The disk: how much a run will write, and whether there is room for it.

Bytes follow from durations, and a header's duration may be a guess. So a run is stopped before its
work only where the disk is too small for what headers count, and half of what they guess.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from extract.data.probes import read_headers
from extract.frames import ENCODER_RATE_HZ, ConvStack
from extract.run.assembled import Job
from extract.run.build import saved_dtype, scan_probes
from extract.store.store import StoreUnusable
from extract.values import AudioSettings

log = logging.getLogger(__name__)

COUNTED, GUESSED = 0.98, 0.5  # of a duration, certain: by headers that count samples, and others
LINE_BYTES = 600  # of the ledger
ROUNDED = 1e-7  # durations are float32 in the cache
BLOCK_BYTES = 4096  # a file takes whole blocks of the disk, and an entry in its folder

Seconds = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Room:
    """Bytes that a store will take, and those that are free."""

    needed: float
    at_least: float  # less than this cannot be enough
    at_most: float  # with blocks, lines and unfinished files
    free: float

    def __str__(self) -> str:
        return f"about {size(self.needed)} needed, {size(self.free)} free"


def size(num_bytes: float) -> str:
    """Bytes in words: `3.1 GB`."""
    unit, name = (1e9, "GB") if num_bytes >= 1e9 else (1e6, "MB")
    return f"{num_bytes / unit:,.1f} {name}"


def outside_gates(seconds: Seconds, audio: AudioSettings, stack: ConvStack) -> tuple[Mask, Mask]:
    """Which recordings would be `too_short` and `too_long` by their headers; neither at 0 s."""
    num_samples = np.round(seconds * ENCODER_RATE_HZ)
    padded = np.maximum(num_samples + sum(audio.pad_samples), audio.min_samples)
    no_frame = padded < stack.min_samples()
    too_short = (seconds > 0) & (no_frame | (seconds * (1 + ROUNDED) < audio.min_duration_s))
    return too_short, seconds * (1 - ROUNDED) > audio.max_duration_s


def bytes_per_second(job: Job) -> float:
    """Bytes that a second of audio takes in the job's store."""
    encoder, store = job.encoder, job.store
    frame_rate = encoder.architecture.stack.frame_rate
    width = encoder.hidden_size * len(encoder.wanted.layers)
    itemsize = saved_dtype(encoder, store).itemsize
    return store.layout.bytes_per_second(width, itemsize, frame_rate)


def room_for(job: Job, seconds: Seconds, certain: Seconds | float = COUNTED) -> Room:
    """The room for recordings that are to be saved.

    Args:
        job: the run.
        seconds: of each of them.
        certain: the share of each one's seconds that is no guess.
    """
    rate = bytes_per_second(job)
    needed = float(seconds.sum()) * rate
    extra = len(seconds) * (LINE_BYTES + BLOCK_BYTES * len(job.store.layout.suffixes))
    unfinished = job.config.store.num_writers * float(seconds.max(initial=0)) * rate
    at_least = float((seconds * certain).sum()) * rate
    free = free_bytes(job.store.directory, job.store.layout.folders)
    return Room(needed, at_least, needed / COUNTED + extra + unfinished, free)


def free_bytes(directory: Path, folders: Sequence[str]) -> float:
    """Bytes free for a store, on all disks that its folders are on; it need not exist."""
    places = [_existing(directory / name) for name in ("", *folders)]
    disks = {_device(place): place for place in places}
    return float(sum(shutil.disk_usage(place).free for place in disks.values()))


def _device(place: Path) -> int:
    return place.stat().st_dev


def _existing(path: Path) -> Path:
    """The path, or the first folder above it that exists."""
    path = path.absolute()
    while not path.is_dir() and path != path.parent:
        path = path.parent
    return path


def require_room(job: Job, todo: Mask, seconds: Seconds, linked: Mask | None = None) -> None:
    """Says what a run will write and what is free; nothing where there is nothing to do.

    Args:
        job: the run.
        todo: for every recording of the manifest, whether it is to be saved.
        seconds: of each, by its header or list.
        linked: for every recording, whether its features are another name of a file that is there.

    Raises:
        StoreUnusable: the disk is too small, whatever is guessed.
    """
    short, long = outside_gates(seconds, job.config.audio, job.encoder.architecture.stack)
    saved = todo & ~short & ~long
    if not todo.any():
        return
    hours = seconds[saved].sum() / 3600
    by_headers = _by_headers(todo, seconds, short, long)
    if linked is not None:  # no more than the training audio is written of them
        seconds = np.where(linked, seconds * _share_of_audio(job), seconds)
    found = room_for(job, seconds[saved])
    if job.url:  # an object store says nothing of its room, and the folder holds some archives
        job.watch.said(f"{hours:.3f} h to save: about {size(found.needed)} needed{by_headers}")
        return
    job.watch.said(f"{hours:.3f} h to save: {found}{by_headers}")
    if found.free < found.at_least:
        found = room_for(job, seconds[saved], _certain(job, saved))
        if found.free < found.at_least:
            raise StoreUnusable(too_small(job, found))
    if found.free < found.at_most:
        log.warning("%s: there may not be room for all: %s", job.store.shown, found)


def _share_of_audio(job: Job) -> float:
    """The share of the training audio in the bytes of the job's store, 0 to 1."""
    frame_rate = job.encoder.architecture.stack.frame_rate
    return job.store.layout.bytes_per_second(0, 0, frame_rate) / bytes_per_second(job)


def _by_headers(todo: Mask, seconds: Seconds, short: Mask, long: Mask) -> str:
    """Recordings that no features are expected of: `; by their headers 3 too_long`."""
    masks = {"too_short": short, "too_long": long, "unreadable": seconds <= 0}
    found = {name: int((mask & todo).sum()) for name, mask in masks.items()}
    parts = [f"{number:,} {name}" for name, number in found.items() if number]
    return f"; by their headers {', '.join(parts)}" if parts else ""


def _certain(job: Job, saved: Mask) -> Seconds:
    """The share of each saved recording's seconds that is no guess, from the headers again."""
    manifest = job.manifest.subset(np.flatnonzero(saved))
    scan = partial(scan_probes, job.config, job.stop)
    probed = read_headers(manifest, scan, lambda _num: None)
    return certain_share(probed.planned_s, probed.held_s, probed.counted)


def certain_share(planned_s: Seconds, held_s: Seconds, counted: Mask) -> Seconds:
    """The share of planned seconds that is no guess, 0 to 1, of each recording."""
    held: Seconds = held_s / np.maximum(planned_s, 1e-9)
    return np.where(counted, COUNTED, GUESSED) * np.minimum(held, 1.0)


def too_small(job: Job, found: Room) -> str:
    """That the disk is too small, in one line with the numbers and the ways out."""
    missing = size(found.at_least - found.free)
    return (
        f"{job.store.shown}: the disk is too small for what is left to do: {found}, at least "
        f"{missing} short. Ways out: make room, another store.dir=DIR, or a part of the job there "
        "(shard.count=N)"
    )
