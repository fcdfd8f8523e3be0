"""Runs batches through the encoder, two in flight; recovers when memory runs out.

A batch that does not fit is halved until it does, and the smaller budget holds for the rest of the
run. An utterance that does not fit the device in a batch of its own is encoded on the CPU.
"""

from __future__ import annotations

import functools
import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

import torch
from torch import Tensor

from extract.data.batch import Batch
from extract.data.plan import QUADRATIC_S
from extract.values import Encoded, Failure, Features, Recording

if TYPE_CHECKING:
    from extract.encoder.encoder import Encoder

log = logging.getLogger(__name__)

SLACK = 1.1  # a header's duration may be off by a little; a batch is not split for that

# Messages of RuntimeErrors from torch's CPU allocator, cuBLAS and CUDA's page-locked allocator.
OUT_OF_MEMORY = ("can't allocate memory", "ALLOC_FAILED", "CUDA error: out of memory")

T = TypeVar("T")


class FeaturesFuture(Protocol):
    """A batch's features, perhaps not yet computed."""

    def result(self) -> list[Features]:
        """Waits for the features, one for each utterance."""
        ...


class AnyEncoder(Protocol):
    """The one method that `BatchEncoder` needs of an encoder."""

    def submit(self, waveforms: Tensor, lengths: list[int]) -> FeaturesFuture:
        """Starts to encode (B, time) waveforms of `lengths` samples."""
        ...


class BatchEncoder:
    """Turns batches into encoded utterances and failures.

    Args:
        encoder: on the run's device.
        batch_seconds: most that one forward may cost, by `extract.data.plan.cost_s`.
        fallback: makes an encoder with more memory (the CPU) for an utterance that does not fit the
            device in a batch of its own; with None it is an `out_of_memory` failure.
        depth: most batches submitted at a time; the oldest is waited for before the next.
        quadratic_s: `Architecture.quadratic_s`, for a batch's cost.
    """

    def __init__(
        self,
        encoder: AnyEncoder,
        batch_seconds: float,
        fallback: Callable[[], AnyEncoder] | None = None,
        depth: int = 2,
        quadratic_s: float = QUADRATIC_S,
    ) -> None:
        self.encoder, self.fallback, self.depth = encoder, fallback, depth
        self.batch_seconds, self.quadratic_s = batch_seconds, quadratic_s
        self.times_out_of_memory = 0

    def __call__(self, batches: Iterable[Batch]) -> Iterator[Encoded | Failure]:
        """Yields every utterance's features and every failure once, in the batches' order."""
        in_flight: deque[tuple[Batch, FeaturesFuture]] = deque()
        for batch in batches:
            yield from batch.failures
            for part in batch.split(self.batch_seconds, self.quadratic_s):
                pending = self._submit(part)
                if pending is not None:
                    in_flight.append((part, pending))
                    del pending  # else its memory stays in use while it is halved and retried
                else:
                    while in_flight:  # free their memory before the retry
                        yield from self._finish(*in_flight.popleft())
                    yield from self._in_halves(part)
                while len(in_flight) >= self.depth:
                    yield from self._finish(*in_flight.popleft())
        while in_flight:
            yield from self._finish(*in_flight.popleft())

    def _finish(self, batch: Batch, pending: FeaturesFuture) -> Iterator[Encoded | Failure]:
        features = _unless_out_of_memory(pending.result)
        del pending
        if features is None:
            yield from self._in_halves(batch)
        else:
            yield from encoded(batch, features)

    def _submit(self, batch: Batch) -> FeaturesFuture | None:
        return _unless_out_of_memory(
            lambda: self.encoder.submit(batch.waveforms, batch.lengths.tolist())
        )

    def _in_halves(self, batch: Batch) -> Iterator[Encoded | Failure]:
        """Encodes a batch that did not fit in halves, and those in halves, until they fit."""
        self.times_out_of_memory += 1
        if len(batch) == 1:
            yield from self._alone(batch)
            return
        middle = len(batch) // 2
        halves = batch.rows(0, middle), batch.rows(middle, len(batch))
        self._learn(max(half.cost_s(self.quadratic_s) for half in halves))
        for half in halves:
            pending = self._submit(half)
            features = None if pending is None else _unless_out_of_memory(pending.result)
            del pending
            if features is None:
                yield from self._in_halves(half)
            else:
                yield from encoded(half, features)

    def _learn(self, budget_s: float) -> None:
        if budget_s < self.batch_seconds:
            self.batch_seconds = budget_s
            log.warning(
                "out of memory: going on with batches of %.1f padded seconds "
                "(loader.batch_seconds=%.1f starts there)",
                budget_s,
                budget_s,
            )

    def _alone(self, batch: Batch) -> Iterator[Encoded | Failure]:
        recording = batch.recordings[0]
        features = None
        if self.fallback is not None:
            log.warning("%s: does not fit the device even alone; using the CPU", recording.id)
            encoder = self.fallback()
            waveforms, lengths = batch.waveforms, batch.lengths.tolist()
            features = _unless_out_of_memory(lambda: encoder.submit(waveforms, lengths).result())
        if features is None:
            detail = (
                f"{recording.path}: {recording.duration_s or 0:.1f} s did not fit the memory; "
                "needed a larger device or a lower audio.max_duration_s"
            )
            yield Failure(recording, "out_of_memory", detail)
        else:
            yield from encoded(batch, features)


def batch_encoder(
    encoder: Encoder, batch_seconds: float = math.inf, *, cpu_fallback: bool = True
) -> BatchEncoder:
    """The stage of an encoder for batches that were planned to cost at most `batch_seconds`.

    On a GPU, with `cpu_fallback`, the same model on the CPU is its fallback.
    """
    fallback: Callable[[], Encoder] | None = None
    if encoder.device.type != "cpu" and cpu_fallback:
        fallback = functools.cache(encoder.on_cpu)
    quadratic_s = encoder.architecture.quadratic_s
    return BatchEncoder(encoder, SLACK * batch_seconds, fallback, quadratic_s=quadratic_s)


def encoded(batch: Batch, features: Sequence[Features]) -> Iterator[Encoded | Failure]:
    """A batch's utterances with their features; a failure for features that are not finite."""
    for recording, values, wav in zip(batch.recordings, features, batch.wavs(), strict=True):
        if values.finite:
            yield Encoded(recording, values, wav)
        else:
            yield not_finite(recording)


def not_finite(recording: Recording) -> Failure:
    """The failure of a recording whose features hold NaN or infinity."""
    detail = f"{recording.path}: the encoder gave NaN or Inf, in fp32 too"
    return Failure(recording, "non_finite_features", detail)


def _unless_out_of_memory(action: Callable[[], T]) -> T | None:
    """The action's value, or None if memory ran out.

    The exception is not kept: its traceback would keep every tensor of the failed forward alive.
    """
    try:
        return action()
    except (torch.OutOfMemoryError, MemoryError):
        return None
    except RuntimeError as error:
        if any(words in str(error) for words in OUT_OF_MEMORY):
            return None
        raise
