"""`augment` of `AudioDataset`: what changes a waveform, and the random numbers that it draws.

They are a function of (seed, epoch, id). The same run so gives the same audio, whatever the number
of workers, how these are started, and in which order or batch they read.
"""

from __future__ import annotations

import hashlib
import random
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from extract.audio.faults import AudioError
from extract.internal import INTERNAL_ERROR
from extract.text import shortened

Samples = NDArray[np.float32]

# (num_samples,) float32, full scale 1; their rate in Hz; a generator of the utterance's own. It
# returns one-dimensional samples at the same rate, as an array or a tensor, and may change the
# array that it was given.
AugmentFunction = Callable[[Samples, int, np.random.Generator], Samples | Tensor]


def drawn(purpose: str, seed: int, epoch: int, id: str) -> int:  # noqa: A002
    """64 random bits that are a function of the arguments: of an utterance in an epoch."""
    text = f"{purpose}\0{seed}\0{epoch}\0{id}".encode("utf8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


class Augmentation:
    """Calls a function with a generator that (seed, epoch, id) alone decide.

    The global generators of Python, NumPy and torch (on the CPU) have seeds of the same numbers
    during the call, and their own states after it. So a function that draws from them, as
    torch-audiomentations does, is a function of (seed, epoch, id) too.

    Args:
        function: picklable, if workers are not forked.
        seed: of the training run.
    """

    def __init__(self, function: AugmentFunction, seed: int) -> None:
        self.function, self.seed = function, seed
        # In shared memory: workers that live through several epochs read what `epoch` is set to.
        epoch = torch.zeros((), dtype=torch.int64)
        self._epoch: Tensor = epoch.share_memory_()  # type: ignore[no-untyped-call]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        # A plain pickle holds a copy of it.
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]

    @property
    def epoch(self) -> int:
        """The epoch whose random numbers are drawn, in this process and in all its workers."""
        return int(self._epoch)

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._epoch.fill_(epoch)

    def __call__(self, samples: Samples, rate_hz: int, id: str, where: str) -> Samples:  # noqa: A002
        """The augmented samples of an utterance, (num_samples,) float32, at least one.

        Raises:
            AudioError: `internal_error`; the function raised, or returned something else.
        """
        number = drawn("augment", self.seed, self.epoch, id)
        try:
            with seeded(number):
                found = self.function(samples, rate_hz, np.random.default_rng(number))
            return _checked(found)
        except MemoryError:
            raise
        except Exception as error:
            raise AudioError(INTERNAL_ERROR, f"{where}: augment: {_said(error)}") from error


@contextmanager
def seeded(number: int) -> Iterator[None]:
    """Seeds the global generators of Python, NumPy and torch within the block; restores them.

    torch's on a GPU are left alone: a training step draws from them.
    """
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(number)
    np.random.seed(number % 2**32)
    torch.default_generator.manual_seed(number % 2**63)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def _checked(found: Any) -> Samples:
    samples = np.ascontiguousarray(found, dtype=np.float32)
    if np.ndim(found) != 1 or not len(samples):
        raise ValueError(f"returned {np.shape(found)}; needed (num_samples,), at least one")
    return samples


def _said(error: Exception) -> str:
    """`ValueError: its message (mine.py:12)`: the line that raised, which is mostly a user's."""
    at = traceback.extract_tb(error.__traceback__)[-1]
    return (
        shortened(f"{type(error).__qualname__}: {error}")
        + f" ({Path(at.filename).name}:{at.lineno})"
    )


class TorchAugment:
    """Makes `augment` of what takes `samples` (batch, channels, num_samples) as a tensor.

    Of a torch-audiomentations transform, for instance, or a `Compose` of several:

        augment = TorchAugment(Compose([Gain(p=0.5), AddColoredNoise(p=0.5)], output_type="tensor"))

    Args:
        transform: called with `samples` and `sample_rate`; returns a tensor of the same shape, or
            an object with such `samples`.
    """

    def __init__(self, transform: Callable[..., Any]) -> None:
        self.transform = transform

    def __call__(self, samples: Samples, rate_hz: int, rng: np.random.Generator) -> Samples:
        """(num_samples,) float32 through the transform; `rng` is not used."""
        batch = torch.from_numpy(samples)[None, None]
        with torch.no_grad():
            found = self.transform(samples=batch, sample_rate=rate_hz)
        changed: Tensor = getattr(found, "samples", found)
        return np.asarray(changed[0, 0])
