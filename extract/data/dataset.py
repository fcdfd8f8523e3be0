"""`AudioDataset`: recordings in, 16 kHz waveforms and 32 kHz training audio out; CPU work only.

The same Dataset serves the extractor and training on the fly. It is map-style, picklable, holds no
open handle, and its items are values: a recording that cannot be used is a `Failure`, never an
exception, so that one bad file costs itself and not the batch it was in.
"""

from __future__ import annotations

import os
from dataclasses import replace

import torch
from torch.utils.data import Dataset

from extract.audio.prepare import AudioError, prepare
from extract.frames import HUBERT_STACK, ConvStack
from extract.internal import INTERNAL_ERROR, last_line
from extract.manifest.manifest import Manifest
from extract.values import AudioSettings, Entry, Failure, Recording, Utterance

MISSING = (-1, -1)


class AudioDataset(Dataset[Utterance | Failure]):
    """The recordings of a manifest, decoded and scaled.

    Indexing returns `Utterance` or `Failure` and raises nothing but `IndexError`. The arithmetic is
    the reference's; see `extract.audio.prepare.prepare`. A recording too short for one frame of
    `stack`, the encoder's convolutions, is a `Failure`.
    """

    def __init__(
        self,
        manifest: Manifest,
        settings: AudioSettings | None = None,
        stack: ConvStack = HUBERT_STACK,
    ) -> None:
        self.manifest = manifest
        self.settings, self.stack = settings or AudioSettings(), stack

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, index: int) -> Utterance | Failure:
        recording = identify(index, self.manifest[index])
        try:
            return self._prepare(recording)
        except AudioError as error:
            return Failure(recording, error.reason, str(error))
        except MemoryError:
            return Failure(recording, "out_of_memory", f"{recording.path}: no memory to decode it")
        except OSError as error:  # the file system's word on this file
            detail = f"{recording.path}: {type(error).__name__}: {error}"
            return Failure(recording, "undecodable", detail)
        except Exception as error:  # neither FFmpeg's nor the system's: ours, never the file's
            return Failure(recording, INTERNAL_ERROR, f"{recording.path}: {last_line(error)}")

    def _prepare(self, recording: Recording) -> Utterance:
        prepared = prepare(recording.path, self.settings, self.stack)
        known = replace(
            recording,
            peak=prepared.peak,
            duration_s=prepared.duration_s,
            clipped_samples=prepared.clipped_samples,
        )
        return Utterance(
            known, torch.from_numpy(prepared.waveform), torch.from_numpy(prepared.wav32k)
        )


def identify(index: int, entry: Entry) -> Recording:
    """The entry's recording with its size and time, read before its samples are.

    A file that changes while it is decoded is then seen as changed by the next run.
    """
    return Recording(index, entry.id, entry.path, *size_and_time(entry.path))


def size_and_time(path: str) -> tuple[int, int]:
    """A file's bytes and its time in nanoseconds; `MISSING` where there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116 - a million of these: no Path objects
    except (OSError, ValueError):  # missing, or a name that no file can have
        return MISSING
    return status.st_size, status.st_mtime_ns
