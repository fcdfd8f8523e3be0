"""Stores of a sweep's earlier jobs whose features differ from a job's by their gain alone."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from extract.audio.prepare import gain
from extract.config import InputNorm
from extract.files import open_regular
from extract.run.assembled import Job
from extract.store import ledger, metadata, units
from extract.store.differences import compare
from extract.store.existing import existing_store
from extract.store.metadata import QUANTIZER, Identity
from extract.store.reused import DTYPES
from extract.store.store import Store
from extract.systems import real_path
from extract.text import printable
from extract.values import SAVED, AudioSettings, Gain

log = logging.getLogger(__name__)

GAIN = frozenset({"audio.maxx", "audio.alpha"})  # what may differ in an identity
_NUMBERS = ("peak", "duration_s", "gain_sensitivity")

Record = Mapping[str, Any]


def shares_features(job: Job) -> bool:
    """Whether another gain may leave the job's features as they are.

    It does where the first convolution has a norm over time, which divides by each channel's
    standard deviation, and where waveforms come to it with their gain.
    """
    of, config = job.encoder.architecture, job.config
    over_time = of.conv_norm == "group" and not of.conv_bias
    has_gain = config.audio.gain is Gain.peak_blend and job.input_norm is InputNorm.none
    return config.share_features and over_time and has_gain


def kind_of(identity: Identity) -> str:
    """A store's identity without the gain, as a key."""
    rest = {key: value for key, value in identity.items() if key not in GAIN}
    return json.dumps(rest, sort_keys=True)


@dataclass(frozen=True)
class Donor:
    """A store, and the gain that its features were computed at."""

    store: Store
    ledger: Path  # of the job's shard
    audio: AudioSettings
    units: bool  # whether its lines have units

    @property
    def name(self) -> str:
        """The name of its folder, printable."""
        return printable(self.store.directory.name)

    def lines(self) -> Iterator[tuple[int, Record]]:
        """Where lines with features to share begin in the ledger, and their records."""
        at = 0
        for line in ledger.lines(self.ledger):
            record = ledger.parse(line)
            if record is not None and self._has_features(record):
                yield at, record
            at += len(line)

    def line_at(self, place: int, id_: str) -> Record | None:
        """The line that begins there; None if it is not that utterance's any more."""
        try:
            with open_regular(self.ledger) as file:
                file.seek(place)
                record = ledger.parse(file.readline(ledger.MAX_LINE))
        except OSError:
            return None
        fits = record is not None and record["id"] == id_ and self._has_features(record)
        return record if fits else None

    def _has_features(self, record: Record) -> bool:
        return (
            record["status"] == SAVED
            and all(type(record.get(key)) in (int, float) for key in _NUMBERS)
            and record["peak"] > 0
            and type(record.get("num_frames")) is int
            and record.get("dtype") in DTYPES
            and type(record.get("retried_fp32")) is bool
            and (not self.units or units.of_record(record) is not None)
        )

    def ratio(self, peak: float, audio: AudioSettings) -> float:
        """The gain here over that of a job with the settings `audio`, squared."""
        return (gain(peak, self.audio) / gain(peak, audio)) ** 2


def donors(job: Job, identity: Identity, stores: Sequence[Path]) -> Iterator[Donor]:
    """Those of `stores` that hold the job's features at other gains."""
    own = real_path(job.store.directory)
    for directory in dict.fromkeys(stores):
        if real_path(directory) == own:
            continue
        try:
            donor = _donor(job, identity, directory)
        except (OSError, TypeError, ValueError) as error:  # deleted, overwritten or damaged since
            log.info("%s: %s", printable(str(directory)), error)
            continue
        if donor is not None:
            yield donor


def _donor(job: Job, identity: Identity, directory: Path) -> Donor | None:
    known = metadata.read(directory)
    theirs = known["identity"] if known else {}
    same_units = theirs.get(QUANTIZER) == identity.get(QUANTIZER)
    if not same_units or not set(compare(theirs, identity).differing) <= GAIN:
        return None
    maxx, alpha = (float(theirs[f"audio.{key}"]) for key in ("maxx", "alpha"))
    audio = replace(job.config.audio, maxx=maxx, alpha=alpha)
    path = directory / job.shard.ledger_name
    return Donor(existing_store(directory), path, audio, job.quantizer is not None)
