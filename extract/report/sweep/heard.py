"""Utterances to listen to under each setting of a sweep, and how loud each of their sounds is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from extract.audio.loudness import loudness_lufs
from extract.report import sounds
from extract.report.pages import data_uri
from extract.report.sounds import RATE_HZ, SHOWN_S, Samples
from extract.report.sweep.counts import Record
from extract.report.sweep.multiples import label_of
from extract.report.sweep.numbers import Job, Sweep

NUM_UTTERANCES = 6
NUM_JOBS = 48  # whose sounds the page holds
MAX_BYTES = 7_000_000  # of all sounds, as the page holds them
MAX_LABELS = 4  # jobs that the label of a sound names
BYTES_PER_S = 8_000  # of a sound at `sounds.BIT_RATE` in base64


@dataclass(frozen=True)
class Take:
    """An utterance as one or several jobs have it: those whose training audio is the same."""

    label: str  # the settings of these jobs
    address: str  # a data URI
    seconds: float
    level_db: float  # LUFS, or decibels of full scale: see `Heard.unit`


@dataclass(frozen=True)
class Heard:
    """One utterance under each setting."""

    id: str
    why: str  # it was chosen
    takes: Sequence[Take]
    unit: str  # of the levels: LUFS; dBFS (RMS) where one of the sounds has no loudness
    cut_s: float | None  # only so many seconds are played; None: all

    @property
    def size(self) -> int:
        """Bytes of its sounds in the page."""
        return sum(len(take.address) for take in self.takes)


def heard(sweep: Sweep) -> Iterator[Heard]:
    """The utterances that the page plays, as many as there is room for."""
    jobs = [job for job in sweep.jobs if not job.member.no_audio and job.member.store][:NUM_JOBS]
    if not jobs:
        return
    most_s = min(SHOWN_S, MAX_BYTES / (0.5 * NUM_UTTERANCES * len(jobs) * BYTES_PER_S))
    left = MAX_BYTES
    for id_, why in _chosen(sweep).items():
        one = _heard(sweep, jobs, id_, why, most_s)
        if one.size > left:
            return
        left -= one.size
        if one.takes:
            yield one


def _chosen(sweep: Sweep) -> dict[str, str]:
    """Ids and why: of the sample the loudest, the quietest, the most clipped, then any."""
    found = sweep.sample
    peaks = {id_: _largest(sweep.records, id_, "peak") for id_ in found}
    clipped = {id_: _largest(sweep.records, id_, "clipped_samples") for id_ in found}
    chosen: dict[str, str] = {}
    if found:
        chosen[max(found, key=peaks.__getitem__)] = "loudest of the sample"
        chosen.setdefault(min(found, key=peaks.__getitem__), "quietest of the sample")
    if any(clipped.values()):
        chosen.setdefault(max(found, key=clipped.__getitem__), "most clipped of the sample")
    for id_ in found:
        if len(chosen) < NUM_UTTERANCES:
            chosen.setdefault(id_, "drawn at random")
    return chosen


def _largest(records: Sequence[Mapping[str, Record]], id_: str, key: str) -> float:
    """The largest value that a job's line of an utterance has; 0 where none has any."""
    values: list[Any] = [lines[id_].get(key) for lines in records if id_ in lines]
    return max((float(value) for value in values if value is not None), default=0.0)


def _heard(sweep: Sweep, jobs: Sequence[Job], id_: str, why: str, most_s: float) -> Heard:
    found: dict[bytes, tuple[list[Job], Samples]] = {}
    cut = False
    for job, lines in zip(sweep.jobs, sweep.records, strict=True):
        samples = _samples(job, lines.get(id_)) if job in jobs else None
        if samples is not None:
            cut |= len(samples) > most_s * RATE_HZ
            samples = samples[: round(most_s * RATE_HZ)]
            found.setdefault(samples.tobytes(), ([], samples))[0].append(job)
    levels = [loudness_lufs(samples, RATE_HZ) for _jobs, samples in found.values()]
    unit = "dBFS" if None in levels else "LUFS"
    takes = [
        _take(of, samples, _rms_dbfs(samples) if lufs is None or None in levels else lufs)
        for (of, samples), lufs in zip(found.values(), levels, strict=True)
    ]
    return Heard(id_, why, takes, unit, most_s if cut else None)


def _samples(job: Job, record: Record | None) -> Samples | None:
    if record is None or job.member.store is None:
        return None
    samples = sounds.training_audio(job.member.store, record).samples
    return samples if samples is not None and len(samples) else None


def _take(jobs: Sequence[Job], samples: Samples, level_db: float) -> Take:
    label = "; ".join(label_of(job) or job.name for job in jobs[:MAX_LABELS])
    if len(jobs) > MAX_LABELS:
        label += f"; and {len(jobs) - MAX_LABELS} more"
    return Take(label, data_uri(*sounds.encoded(samples)), len(samples) / RATE_HZ, level_db)


def _rms_dbfs(samples: Samples) -> float:
    return 10 * math.log10(max(1e-12, float(np.square(samples, dtype=np.float64).mean())))
