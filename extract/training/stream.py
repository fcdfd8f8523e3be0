"""`stream_features`: batches of a loader with their features, encoded while a model trains."""

from __future__ import annotations

import functools
import logging
import math
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from extract.data.batch import Batch
from extract.encoder.batches import BatchEncoder, FeaturesFuture
from extract.encoder.encoder import Encoder
from extract.internal import GIVE_UP_AFTER, INTERNAL_ERROR
from extract.training.batch import FeatureBatch, assembled
from extract.values import Encoded, Failure, Reason

log = logging.getLogger(__name__)


class FeatureStream:
    """What `stream_features` returns: iterable once an epoch, as its loader is.

    Attributes:
        failed: how many recordings gave no features in the current or last pass, by reason.
    """

    def __init__(self, loader: Iterable[Batch], encoder: Encoder, keep_empty: bool | None) -> None:
        self.loader, self.encoder, self.keep_empty = loader, encoder, keep_empty
        self.failed: Counter[Reason] = Counter()
        self._encode = _batch_encoder(encoder)
        self._num_read = 0  # utterances of this pass that have features
        self._state: Mapping[str, Any] | None = None  # the loader's, for the last batch given

    def __len__(self) -> int:
        """Batches of the loader; those without an utterance are left out of a pass."""
        return len(self.loader)  # type: ignore[arg-type]

    @property
    def batch_sampler(self) -> Any:
        """The loader's: Lightning sets its epoch."""
        return getattr(self.loader, "batch_sampler", None)

    @property
    def epoch(self) -> int:
        """The loader's: that of the current or next pass."""
        epoch: int = self.loader.epoch  # type: ignore[attr-defined]
        return epoch

    def set_epoch(self, epoch: int) -> None:
        """Sets the loader's epoch, between two passes."""
        self.loader.set_epoch(epoch)  # type: ignore[attr-defined]

    def state_dict(self) -> dict[str, Any]:
        """The loader's state when the last batch that was given here left it.

        The loader itself is a batch further on a GPU.
        """
        state = self.loader.state_dict() if self._state is None else self._state  # type: ignore[attr-defined]
        return dict(state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Makes the next pass go on after the last batch that was given."""
        self.loader.load_state_dict(state)  # type: ignore[attr-defined]
        self._state = None

    def __iter__(self) -> Iterator[FeatureBatch]:
        self.failed, self._num_read, self._state = Counter(), 0, None
        keep_empty = _is_distributed() if self.keep_empty is None else self.keep_empty
        skipped: tuple[Failure, ...] = ()
        for batch, outcomes, state in self._encoded():
            made = assembled(batch, outcomes, self.encoder)
            self._count(made)
            made = replace(made, failures=(*skipped, *made.failures))
            if len(made) or keep_empty:
                skipped, self._state = (), state
                yield made
            else:
                skipped = made.failures
        self._state = None

    def _encoded(self) -> Iterator[tuple[Batch, list[Encoded | Failure], Any]]:
        """Each batch of the loader with the outcomes of its utterances, and the loader's state."""
        pulled: deque[tuple[Batch, Any]] = deque()
        outcomes = self._encode(self._pull(pulled))
        for first in outcomes:
            while not len(pulled[0][0]):
                yield pulled[0][0], [], pulled.popleft()[1]
            batch, state = pulled.popleft()
            yield batch, [first, *islice(outcomes, len(batch) - 1)], state
        for batch, state in pulled:
            yield batch, [], state

    def _pull(self, pulled: deque[tuple[Batch, Any]]) -> Iterator[Batch]:
        """The loader's batches, noted in `pulled`; their failures are given with them later."""
        on_cuda = self.encoder.device.type == "cuda"
        for batch in self.loader:
            pulled.append((batch, _state_of(self.loader)))
            if on_cuda and not (batch.waveforms.is_cuda or batch.waveforms.is_pinned()):
                batch = batch.pin_memory()
            yield replace(batch, failures=())

    def _count(self, made: FeatureBatch) -> None:
        """Counts a batch's failures by reason; logs the first fault of a program.

        Raises:
            RuntimeError: this program, or `augment`, failed at all of the first recordings.
        """
        faults = [failure.detail for failure in made.failures if failure.reason == INTERNAL_ERROR]
        if faults and not self.failed[INTERNAL_ERROR]:
            log.error("%s", faults[0])
        self.failed.update(failure.reason for failure in made.failures)
        self._num_read += len(made)
        num_faults = self.failed[INTERNAL_ERROR]
        if num_faults >= GIVE_UP_AFTER and not self._num_read:
            raise RuntimeError(f"{num_faults} recordings, and none was read: {faults[0]}")


def stream_features(
    loader: Iterable[Batch], encoder: Encoder, *, keep_empty: bool | None = None
) -> FeatureStream:
    """Batches of `loader` with their features, for training on the fly.

    On a GPU the next batch is encoded while the trainer works on this one, on a CUDA stream of its
    own, and features never leave the device. On a CPU a batch is encoded when it is asked for: a
    thread would take its time from the trainer's cores. Workers of the loader decode ahead in both.

    A recording that fails costs only itself, as in the extractor: also one whose features are not
    finite, and one that does not fit into memory, for which a batch is halved, and then, on a GPU,
    the CPU is tried. It is in the `failures` of its batch, and `failed` counts it.

    Args:
        loader: yields `Batch`es: `make_loader`, or any DataLoader with `collate`.
        encoder: of any device and precision. Features of several layers are (B, L, T, D).
        keep_empty: whether a batch without an utterance, all of whose recordings failed, is given
            too, with features (0, 0, D). Otherwise its failures come with the next batch. None
            keeps it where torch.distributed has several ranks, which must take the same number of
            steps; a loss of no utterance should then be 0 there.

    Raises:
        RuntimeError: in iteration, if `augment` or this program failed at the first 20 recordings
            and none was read, or if a worker of the loader died.
    """
    return FeatureStream(loader, encoder, keep_empty)


class _OnStream:
    """An encoder whose features stay on the GPU, computed on a CUDA stream of their own."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder.staying()
        self.stream = torch.cuda.Stream(encoder.device)  # type: ignore[no-untyped-call]

    def submit(self, waveforms: Tensor, lengths: list[int]) -> FeaturesFuture:
        """`Encoder.submit`, beside what the current stream computes."""
        if waveforms.is_cuda:  # the current stream may be copying them yet
            self.stream.wait_stream(torch.cuda.current_stream(self.encoder.device))
        with torch.cuda.stream(self.stream):
            return self.encoder.submit(waveforms, lengths)


def _batch_encoder(encoder: Encoder) -> BatchEncoder:
    """The extractor's own stage, with one batch ahead on a GPU and none on a CPU."""
    quadratic_s = encoder.architecture.quadratic_s
    if encoder.device.type != "cuda":
        plain = encoder.staying()
        return BatchEncoder(plain, math.inf, depth=1, quadratic_s=quadratic_s)
    fallback = functools.cache(encoder.staying().on_cpu)
    return BatchEncoder(_OnStream(encoder), math.inf, fallback, quadratic_s=quadratic_s)


def _state_of(loader: Any) -> Mapping[str, Any] | None:
    """The loader's state; None of one that keeps none, as Accelerate's with its `state_dict`."""
    try:
        state: Mapping[str, Any] = loader.state_dict()
    except AttributeError:
        return None
    return state


def _is_distributed() -> bool:
    distributed = torch.distributed
    return (
        distributed.is_available()
        and distributed.is_initialized()
        and distributed.get_world_size() > 1
    )
