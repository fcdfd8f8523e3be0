"""What is measured of sampled utterances: the loudness of their sound, how far features drift."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from extract.audio.loudness import loudness_lufs
from extract.report import sounds
from extract.report.sweep.counts import Record
from extract.report.sweep.members import Member, not_comparable

BLOCK = 2048  # frames that are compared at a time

Features = NDArray[np.float32]


@dataclass
class Sound:
    """The training audio of the sampled utterances of one store, added up."""

    why_none: str  # "" as long as there is some
    loudness: list[float] = field(default_factory=list)  # LUFS, of each that has one
    num: int = 0  # utterances
    num_samples: int = 0
    sum_squares: float = 0.0

    def add(self, member: Member, record: Record) -> None:
        """Measures the training audio of an utterance, if the store keeps any."""
        if member.store is None or member.no_audio:
            return
        heard = sounds.training_audio(member.store, record)
        if heard.samples is None:
            self.why_none = self.why_none or heard.why
            return
        self.num += 1
        self.num_samples += len(heard.samples)
        self.sum_squares += float(np.square(heard.samples, dtype=np.float64).sum())
        lufs = loudness_lufs(heard.samples, sounds.RATE_HZ)
        if lufs is not None:
            self.loudness.append(lufs)

    @property
    def mean_lufs(self) -> float | None:
        """The mean of the utterances' loudness."""
        return statistics.fmean(self.loudness) if self.loudness else None

    @property
    def spread_lu(self) -> float | None:
        """The standard deviation of the utterances' loudness."""
        return statistics.pstdev(self.loudness) if self.loudness else None

    @property
    def rms_dbfs(self) -> float | None:
        """The root of the mean square of all samples, in decibels of full scale."""
        return 10 * math.log10(self.sum_squares / self.num_samples) if self.sum_squares else None


@dataclass
class Drift:
    """How the features of one store differ from those of the one compared with, added up."""

    not_comparable: str  # why no features are compared; "" where they are
    why_none: str = ""
    num: int = 0  # utterances
    num_shared: int = 0  # of these, those whose features in both stores are one computation's
    squared: float = 0.0  # ||a - b||^2
    norm: float = 0.0  # ||b||^2
    largest: float = 0.0  # max |a - b|

    def add(self, own: Features | str, base: Features | str, *, is_shared: bool) -> None:
        """Compares features (layers, num_frames, hidden_size); texts say why there are none."""
        if isinstance(own, str) or isinstance(base, str):
            self.why_none = self.why_none or (own if isinstance(own, str) else str(base))
            return
        if own.shape != base.shape:
            found = f"{list(own.shape)} and {list(base.shape)}"
            self.why_none = self.why_none or f"features of other shapes: {found}"
            return
        self.num += 1
        self.num_shared += is_shared
        for start in range(0, own.shape[1], BLOCK):
            part = slice(start, start + BLOCK)
            compared_with = base[:, part].astype(np.float64)
            difference = own[:, part] - compared_with
            self.squared += float(np.square(difference).sum())
            self.norm += float(np.square(compared_with).sum())
            self.largest = max(self.largest, float(np.abs(difference).max(initial=0.0)))

    @property
    def relative_l2(self) -> float | None:
        """||a - b|| / ||b||, of all compared frames together."""
        if not self.num:
            return None
        return math.sqrt(self.squared / self.norm) if self.norm else 0.0


@dataclass(frozen=True)
class Measured:
    """What was measured of one store."""

    sound: Sound
    drift: Drift


def measured(
    members: Sequence[Member],
    base: int,
    sample: Sequence[str],
    records: Sequence[Mapping[str, Record]],
) -> list[Measured]:
    """Measures the sampled utterances of all stores; holds two stores' features of one utterance.

    Args:
        members: the stores.
        base: the number of the one that features are compared with.
        sample: ids of the utterances.
        records: each store's lines of these.
    """
    found = [_empty(one, members[base]) for one in members]
    for id_ in sample:
        compared_with = _features(members[base], records[base].get(id_))
        for number, (member, lines, into) in enumerate(zip(members, records, found, strict=True)):
            record = lines.get(id_)
            if record is None:
                continue
            into.sound.add(member, record)
            if into.drift.not_comparable:
                continue
            own = compared_with if number == base else _features(member, record)
            is_shared = _origin(member, record) == _origin(members[base], records[base].get(id_))
            into.drift.add(own, compared_with, is_shared=is_shared)
    return found


def _empty(member: Member, base: Member) -> Measured:
    return Measured(Sound(member.no_audio or member.problem), Drift(not_comparable(member, base)))


def _features(member: Member, record: Record | None) -> Features | str:
    """(layers, num_frames, hidden_size), or why there are none."""
    if record is None:
        return "the store that is compared with lacks these utterances"
    if member.store is None:
        return member.problem
    if not member.store.features:
        return "no features, units alone"
    try:
        kept = member.store.layout.kept(record)
        if kept is None:
            return "a line of the ledger is damaged"
        values: Features = member.store.layout.read(kept).float().numpy()
    except (OSError, ValueError) as error:
        return str(error)
    return values


def _origin(member: Member, record: Record | None) -> str | None:
    """The name of the store whose job computed an utterance's features."""
    if record is None:
        return None
    return str(record.get("shared") or member.directory.absolute().name)
