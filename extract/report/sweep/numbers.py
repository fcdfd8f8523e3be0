"""The numbers of each job: those of its ledger, and those measured of sampled utterances."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extract.report.sweep.counts import Counts, Record, common, level_of
from extract.report.sweep.measured import Drift, Measured, measured
from extract.report.sweep.members import Member, differing, member, reference
from extract.report.sweep.place import name_from
from extract.store import ledger
from extract.values import FAILED, REJECTED, SAVED

NUM_SAMPLED = 40  # utterances whose sound and features are measured
MAX_SAMPLED_S = 3600.0  # seconds of them in all stores together
MIN_SAMPLED = 3  # utterances that are measured however long they are
NONE_HERE = "none of the sample is saved here"


@dataclass(frozen=True)
class Numbers:
    """One job's numbers: the columns of `sweep.csv` after the settings. None: not known."""

    utterances: int
    saved: int
    rejected: int
    failed: int
    saved_hours: float
    clipped_samples: int | None  # of the training audio of all saved utterances
    utterances_with_clipped_samples: int | None
    peak_after_gain_mean_fs: float | None  # full scale is 1; of all saved utterances
    peak_after_gain_max_fs: float | None
    sampled_utterances: int  # whose training audio was measured
    loudness_mean_lufs: float | None
    loudness_spread_lu: float | None  # standard deviation
    rms_dbfs: float | None
    utterances_with_shared_features: int  # another job of the sweep computed them
    drift_utterances: int  # whose features were compared
    drift_relative_l2: float | None
    drift_largest: float | None
    drift_against: str  # the name of the store that was compared with
    notes: str


@dataclass(frozen=True)
class Job:
    """A store of a sweep with its numbers."""

    member: Member
    name: str  # of the store, from where the page is
    settings: Mapping[str, Any]  # those that differ between jobs
    numbers: Numbers


@dataclass(frozen=True)
class Sweep:
    """The jobs, and what was sampled."""

    keys: Sequence[str]  # the settings that differ
    jobs: Sequence[Job]
    reference: int  # the number of the job that features are compared with
    at_defaults: bool  # whether that one has all defaults
    sample: Sequence[str]  # ids of the measured utterances
    num_common: int  # utterances that could have been sampled, as far as they were held
    records: Sequence[Mapping[str, Record]]  # of each job, the ledger's lines of the sample


def measure(directories: Sequence[Path], folder: Path) -> Sweep:
    """The numbers of the stores of a sweep. Each ledger is read once, a line at a time.

    Args:
        directories: the stores, in the order of their jobs.
        folder: where the page will be, from which stores are named.

    Raises:
        OSError: a ledger cannot be read.
    """
    members = [member(directory) for directory in directories]
    keys = differing(members)
    counts = [Counts(level_of(one)).add_all(ledger.read(one.directory)) for one in members]
    base, at_defaults = reference(members, keys, [one.statuses[SAVED] > 0 for one in counts])
    held = [one.held.by_id() for one in counts]
    ids = common(counts)
    sample = list(_sample(ids, held, len(members)))
    records = [{id_: lines[id_] for id_ in sample if id_ in lines} for lines in held]
    of_sample = measured(members, base, sample, records)
    called = [name_from(folder, one.directory) for one in members]
    jobs = []
    for one, name, own, found in zip(members, called, counts, of_sample, strict=True):
        notes = "; ".join(_notes(one, found, len(sample), is_base=one is members[base]))
        settings = {key: one.settings.get(key) for key in keys}
        jobs.append(Job(one, name, settings, _numbers(one, own, found, called[base], notes)))
    return Sweep(keys, jobs, base, at_defaults, sample, len(ids), records)


def _sample(
    ids: Sequence[str], held: Sequence[Mapping[str, Record]], num_stores: int
) -> Iterator[str]:
    """The first ids, as many as are measured in bounded time."""
    seconds = 0.0
    for number, id_ in enumerate(ids[:NUM_SAMPLED]):
        duration_s = next((lines[id_].get("duration_s") for lines in held if id_ in lines), None)
        seconds += num_stores * (duration_s or 0.0)
        if number >= MIN_SAMPLED and seconds > MAX_SAMPLED_S:
            return
        yield id_


def _numbers(one: Member, counts: Counts, found: Measured, base: str, notes: str) -> Numbers:
    mean_peak = counts.sum_peaks / counts.num_peaks if counts.num_peaks else None
    return Numbers(
        utterances=counts.statuses.total(),
        saved=counts.statuses[SAVED],
        rejected=counts.statuses[REJECTED],
        failed=counts.statuses[FAILED],
        saved_hours=counts.saved_s / 3600,
        clipped_samples=None if one.no_audio else counts.clipped_samples,
        utterances_with_clipped_samples=None if one.no_audio else counts.num_clipped,
        peak_after_gain_mean_fs=mean_peak,
        peak_after_gain_max_fs=counts.max_peak if counts.num_peaks else None,
        sampled_utterances=found.sound.num,
        loudness_mean_lufs=found.sound.mean_lufs,
        loudness_spread_lu=found.sound.spread_lu,
        rms_dbfs=found.sound.rms_dbfs,
        utterances_with_shared_features=counts.num_shared,
        drift_utterances=found.drift.num,
        drift_relative_l2=found.drift.relative_l2,
        drift_largest=found.drift.largest if found.drift.num else None,
        drift_against=base,
        notes=notes,
    )


def _notes(one: Member, found: Measured, num_sampled: int, *, is_base: bool) -> Iterator[str]:
    """What a reader of the row has to know."""
    sound, drift = found.sound, found.drift
    if one.problem:
        yield one.problem
    if not num_sampled:
        yield "no utterance is saved in all stores: none was measured"
        return
    if not sound.num:
        yield f"no loudness and no RMS: {sound.why_none or NONE_HERE}"
    elif sound.num < num_sampled:
        yield f"loudness and RMS are of {sound.num} of {num_sampled} sampled utterances alone"
    if is_base:
        return
    if drift.not_comparable:
        yield drift.not_comparable
    elif not drift.num:
        yield f"no drift: {drift.why_none or NONE_HERE}"
    else:
        yield from _of_drift(drift, num_sampled)


def _of_drift(drift: Drift, num_sampled: int) -> Iterator[str]:
    if drift.num < num_sampled:
        yield f"drift is of {drift.num} of {num_sampled} sampled utterances alone"
    if drift.num_shared == drift.num:
        yield "its features are shared with those compared with"
    elif drift.num_shared:
        yield f"features of {drift.num_shared} of {drift.num} compared utterances are shared"
