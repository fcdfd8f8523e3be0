"""Features of a sweep's earlier jobs, for recordings that another gain does not change them of.

A norm over time takes out a recording's gain, but for the norm's eps and for rounding. Both are
measured for each utterance when it is encoded, as its `gain_sensitivity`
(`extract.encoder.first_layer`), which its line of the ledger has. An utterance is shared if that is
at most `MOST_SENSITIVE` at every gain for which its features stand.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from extract.data.batch import Batch
from extract.data.dataset import AudioDataset
from extract.data.plan import Indices
from extract.run.assembled import Job
from extract.run.donors import Donor, Record
from extract.store.reused import Reused, rounded
from extract.values import Failure, Recording

log = logging.getLogger(__name__)

# Features move by at most 7.3 times a sensitivity: measured with HuBERT-base's sizes and random
# weights, for speech, noise of several bands, sines, clicks and bursts at peaks of 0.5 to 1e-4. So
# 1e-5 leaves a factor of 2.7 to the 2e-4 that are allowed.
MOST_SENSITIVE = 1e-5
STAMP = ("path", "source_size", "source_mtime_ns")  # of a line, and of a recording
NONE = -1
MAX_NAMED = 3  # stores that a line names

Mask = NDArray[np.bool_]


def _readable(donor: Donor) -> Iterator[tuple[int, Record]]:
    """Its lines, up to where its ledger cannot be read."""
    try:
        yield from donor.lines()
    except OSError as error:
        log.info("%s: %s", donor.name, error)


def _on_one_disk(one: Path, other: Path) -> bool:
    try:
        return one.stat().st_dev == other.stat().st_dev
    except OSError:  # deleted since
        return False


class Reuse:
    """The stage in the encoder's place for utterances that another store has.

    Memory: 19 bytes for each recording of the manifest, and no line of any ledger.

    Args:
        job: the run.
        stores: of the jobs before, with features that differ by their gain alone.
        todo: for every index of the manifest, whether it is to be saved.
    """

    def __init__(self, job: Job, stores: Sequence[Donor], todo: Mask) -> None:
        self.job, self.donors = job, list[Donor]()
        num = len(job.manifest)
        self._donor, self._place = np.full(num, NONE, np.int16), np.zeros(num, np.int64)
        # How far the norm's output moves from one gain to the other, relative; seconds of audio.
        self.effect, self.seconds = np.zeros(num, np.float32), np.zeros(num, np.float32)
        self.offered = np.zeros(num, bool)  # given to the writers
        left, num_left = todo.copy(), int(todo.sum())
        index_of = {id_: index for index, id_ in enumerate(job.manifest.ids)}
        for donor in stores:
            if not num_left:
                break
            num_left -= self._find(donor, index_of, left)

    def _find(self, donor: Donor, index_of: dict[str, int], left: Mask) -> int:
        """Notes the utterances that may be taken of a store, and returns how many there are."""
        self.donors.append(donor)
        found = 0
        for place, record in _readable(donor):
            index = index_of.get(record["id"], NONE)
            if index == NONE or not left[index]:
                continue
            sensitivity, ratio = self._at_both(donor, record["peak"], record["gain_sensitivity"])
            if sensitivity <= MOST_SENSITIVE:
                left[index], found = False, found + 1
                self._donor[index], self._place[index] = len(self.donors) - 1, place
                self.effect[index] = record["gain_sensitivity"] * abs(1 - ratio)
                self.seconds[index] = record["duration_s"]
        return found

    def _at_both(self, donor: Donor, peak: float, sensitivity: float) -> tuple[float, float]:
        """The larger sensitivity of two gains, and the square of the gains' ratio."""
        ratio = donor.ratio(peak, self.job.config.audio)
        return rounded(sensitivity * max(1.0, ratio)), ratio

    @property
    def mask(self) -> Mask:
        """For every index of the manifest, whether another store has its features."""
        found: Mask = self._donor != NONE
        return found

    @property
    def linked(self) -> Mask:
        """Those of `mask` whose features become another name of a file on the same disk."""
        found, own = self.mask, self.job.store
        for number, donor in enumerate(self.donors):
            if not own.layout.links or not _on_one_disk(own.directory, donor.store.directory):
                found[self._donor == number] = False
        return found

    def keep(self, kept: Mask) -> None:
        """Leaves the others of the manifest to the encoder."""
        self._donor[~kept] = NONE

    def donor_of(self, index: int) -> Donor:
        """The store that has an utterance's features."""
        return self.donors[int(self._donor[index])]

    def dataset(self) -> AudioDataset:
        """The recordings without the encoder's input: with training audio, or with nothing."""
        job = self.job
        return AudioDataset(
            job.manifest,
            job.config.audio,
            job.encoder.architecture.stack,
            training_audio=job.store.keeps_audio,
            encoder_input=False,
            decoded=job.decoded,
        )

    def __call__(self, batches: Iterable[Batch]) -> Iterator[Reused | Failure]:
        """Yields each recording that failed, and each whose features are there as its line says."""
        for batch in batches:
            for failure in batch.failures:
                self.offered[failure.recording.index] = True
                yield failure
            for recording, wav32k in zip(batch.recordings, batch.wavs(), strict=True):
                if (item := self._reused(recording, wav32k)) is not None:
                    self.offered[recording.index] = True
                    yield item

    def _reused(self, recording: Recording, wav32k: Tensor) -> Reused | None:
        """The utterance with its features' place; None if its recording or its line has changed."""
        donor = self.donor_of(recording.index)
        record = donor.line_at(int(self._place[recording.index]), recording.id)
        now = recording.path, recording.size, recording.mtime_ns
        if record is None or tuple(map(record.get, STAMP)) != now:
            return None
        sensitivity, _ratio = self._at_both(donor, record["peak"], record["gain_sensitivity"])
        kept = donor.store.layout.kept(record)
        if kept is None or sensitivity > MOST_SENSITIVE:
            return None
        if recording.peak is None:  # nothing was decoded
            known = ("peak", "duration_s", "clipped_samples")
            recording = replace(recording, **{key: record[key] for key in known})
        shared = record.get("shared") or donor.name
        layout = donor.store.layout
        return Reused(recording, wav32k, layout, kept, record, shared, sensitivity)

    def left_of(self, batches: Sequence[Indices], not_taken: Sequence[int]) -> list[Indices]:
        """What remains to be computed of `batches`: what was not given on, and not taken."""
        left = ~self.offered
        left[list(not_taken)] = True
        return [part for part in (batch[left[batch]] for batch in batches) if len(part)]

    def __str__(self) -> str:
        names = [donor.name for donor in self.donors]
        more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
        return f"{', '.join(names[:MAX_NAMED])}{more}"
