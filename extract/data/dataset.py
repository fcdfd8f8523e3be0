"""`AudioDataset`: decodes recordings to 16 kHz waveforms and 32 kHz training audio, on the CPU.

The extractor and training on the fly use the same Dataset. It is map-style and picklable and holds
no file open. A recording that cannot be used becomes a `Failure` item instead of an exception, so
that the rest of its batch is kept.
"""

from __future__ import annotations

import copy
import zlib
from contextlib import suppress
from dataclasses import replace
from functools import partial

import torch
from torch.utils.data import Dataset

from extract.audio.decode import Decoded
from extract.audio.faults import AudioError, opened
from extract.audio.prepare import Prepared, Wanted, prepare, prepare_decoded
from extract.audio.spans import WHOLE, Span
from extract.data.augment import Augmentation, AugmentFunction
from extract.data.decoded import DecodedCache, is_worth_keeping, name_of
from extract.frames import HUBERT_STACK, ConvStack
from extract.internal import INTERNAL_ERROR, last_line
from extract.manifest.manifest import Manifest
from extract.opener import MISSING, Opener
from extract.text import printable
from extract.urls import redacted
from extract.values import AudioSettings, Entry, Failure, Recording, Utterance


class AudioDataset(Dataset[Utterance | Failure]):
    """The recordings of a manifest, decoded and scaled.

    Indexing returns `Utterance` or `Failure` and raises nothing but `IndexError`. The arithmetic is
    the reference's; see `extract.audio.prepare.prepare`. A recording too short for one frame of
    `stack`, the encoder's convolutions, is a `Failure`. With `unit_variance` each waveform is
    brought to zero mean and unit variance, as `Checkpoint.wants_unit_variance` says of a model.
    Without `training_audio` no 32 kHz copy is made, and `Utterance.wav32k` is empty. Without
    `encoder_input` no waveform at 16 kHz is made. Without both nothing is decoded. `decoded` is
    where decoded recordings are kept and found again; the items are the same with it.

    `augment(samples, rate_hz, rng)` changes each recording as it was decoded: (num_samples,)
    float32 with full scale 1, by default at 32 kHz. It returns as many samples, more or fewer. The
    training audio and the encoder's waveform are both made of them, so that features belong to
    their audio; gates, peak and duration are theirs. All it draws, from the generator `rng` or from
    the global ones of Python, NumPy and torch, is a function of (`seed`, epoch, id) alone. What it
    raises is an `internal_error`; NaN or infinity from it is `non_finite_audio`.
    """

    def __init__(
        self,
        manifest: Manifest,
        settings: AudioSettings | None = None,
        stack: ConvStack = HUBERT_STACK,
        *,
        unit_variance: bool = False,
        training_audio: bool = True,
        encoder_input: bool = True,
        decoded: DecodedCache | None = None,
        augment: AugmentFunction | None = None,
        seed: int = 0,
    ) -> None:
        self.manifest, self.decoded = manifest, decoded
        self.settings, self.stack = settings or AudioSettings(), stack
        self.unit_variance, self.training_audio = unit_variance, training_audio
        self.encoder_input = encoder_input
        self.augmentation = None if augment is None else Augmentation(augment, seed)

    def set_epoch(self, epoch: int) -> None:
        """Draws the random numbers of another epoch, in workers that are running too.

        Without `augment` there are none. To be called between epochs: what workers are reading at
        the time may be of either.
        """
        if self.augmentation is not None:
            self.augmentation.epoch = epoch

    def shared(self) -> AudioDataset:
        """The same with its manifest in shared memory, which workers that are not forked read."""
        shared = copy.copy(self)
        shared.manifest = self.manifest.share()
        return shared

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, index: int) -> Utterance | Failure:
        recording = identify(self.manifest, index)
        try:
            return self._prepare(recording)
        except AudioError as error:
            return Failure(recording, error.reason, str(error))
        except MemoryError:
            return Failure(recording, "out_of_memory", f"{recording.path}: no memory to decode it")
        except OSError as error:  # the file system cannot read this file
            detail = f"{recording.path}: {type(error).__name__}: {error}"
            return Failure(recording, "undecodable", detail)
        except Exception as error:  # a fault of this program, not of the file
            return Failure(recording, INTERNAL_ERROR, f"{recording.path}: {last_line(error)}")

    def _prepare(self, recording: Recording) -> Utterance:
        if not (self.encoder_input or self.training_audio):
            return Utterance(recording, torch.empty(0), torch.empty(0, dtype=torch.int16))
        entry = self.manifest[recording.index]
        where, span = printable(recording.path), Span.of(entry.offset_s, entry.duration_s)
        if span != WHOLE:
            where += f" {span}"
        name = self._name(entry, recording)
        prepared = self._from_memory(name, where, span) or self._from_file(entry, name, where, span)
        known = replace(
            recording,
            peak=prepared.peak,
            duration_s=prepared.duration_s,
            clipped_samples=prepared.clipped_samples,
        )
        return Utterance(
            known, torch.from_numpy(prepared.waveform), torch.from_numpy(prepared.wav32k)
        )

    @property
    def _wanted(self) -> Wanted:
        return {
            "unit_variance": self.unit_variance,
            "training_audio": self.training_audio,
            "encoder_input": self.encoder_input,
        }

    def _name(self, entry: Entry, recording: Recording) -> str | None:
        """The name of an entry's samples among those that are kept; None if none are."""
        if self.decoded is None or self.augmentation is not None:
            return None
        return name_of(self.manifest.source, entry, recording, self.settings)

    def _from_memory(self, name: str | None, where: str, span: Span) -> Prepared | None:
        """Of samples that were kept; None if there are none, or the file has to say what is wrong.

        The detail of `silent` depends on all channels.
        """
        decoded = self.decoded.get(name) if self.decoded and name else None
        if decoded is not None:
            with suppress(AudioError):
                return prepare_decoded(
                    decoded,
                    where,
                    self.settings,
                    span,
                    self.stack,
                    **self._wanted,
                )
        return None

    def _from_file(self, entry: Entry, name: str | None, where: str, span: Span) -> Prepared:
        def keep(decoded: Decoded) -> None:
            if self.decoded and name and is_worth_keeping(decoded, entry.path):
                self.decoded.put(name, decoded)

        augment = None
        if self.augmentation is not None:
            augment = partial(self.augmentation, id=entry.id, where=where)
        with opened(self.manifest.opener, entry.path, where) as file:
            return prepare(
                file,
                where,
                self.settings,
                span,
                self.stack,
                keep=keep,
                augment=augment,
                **self._wanted,
            )


def identify(manifest: Manifest, index: int) -> Recording:
    """The `Recording` of an entry, with its stamp.

    The stamp is taken before the samples are read, so that the next run notices a file that changed
    while it was decoded.
    """
    entry = manifest[index]
    size, mtime_ns = stamp(entry, manifest.opener)
    path = redacted(entry.path)
    return Recording(index, entry.id, path, size, mtime_ns, extra=entry.extra)


def stamp(entry: Entry, opener: Opener) -> tuple[int, int]:
    """The opener's stamp of an entry's recording: for a file its size and modification time in ns.

    For a cut, a checksum of its ends changes the time by up to 4.3 s. A list that moves a cut under
    the same id so makes the ledger's line stale.
    """
    return stamp_of_cut(opener.stamp(entry.path), entry.offset_s, entry.duration_s)


def stamp_of_cut(
    of_file: tuple[int, int], offset_s: float, duration_s: float | None
) -> tuple[int, int]:
    """The stamp of a part of a recording, given that of its file: see `stamp`."""
    if (not offset_s and duration_s is None) or of_file == MISSING:
        return of_file
    size, mtime_ns = of_file
    span = Span.of(offset_s, duration_s)
    return size, mtime_ns ^ zlib.crc32(b"%d %d" % (span.start, span.stop))
