"""`LengthBatchSampler`: batches of similar length, shuffled, shared out among ranks, resumable."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch.distributed
from numpy.typing import NDArray
from torch.utils.data import Sampler

from extract.data.plan import Durations, Indices, plan_batches

STEP = 1.05  # durations within 5 % are as one when shuffled batches are filled


class HasEpoch(Protocol):
    """What a sampler tells of the epoch: an `AudioDataset`."""

    def set_epoch(self, epoch: int) -> None:
        """Draws what is random in `epoch`."""
        ...


class EpochSampler(Sampler[list[int]]):
    """Batches of indices for torch's DataLoader, which are a function of the epoch; resumable.

    `state_dict` says how far the epoch is, and `load_state_dict` goes on there, in the same order.
    A DataLoader draws ahead of what it gives; the state of what was given is that of the loader:
    `make_loader`'s, or torchdata's StatefulDataLoader.

    Args:
        dataset: is told the epoch when it changes; for `AudioDataset(augment=...)`.
    """

    def __init__(self, dataset: HasEpoch | None = None) -> None:
        self.dataset = dataset
        self.epoch = 0
        self.next = 0  # the batch of the epoch that is drawn next
        self.begins_at = 0  # where the next pass begins: past 0 to go on within an epoch

    def batches(self) -> Sequence[Indices]:
        """This rank's batches of the epoch, as `__iter__` gives them from its beginning."""
        raise NotImplementedError

    def plan(self) -> dict[str, Any]:
        """What decides the batches, beside the epoch and the rank; values of JSON."""
        raise NotImplementedError

    @property
    def sampler(self) -> EpochSampler:
        """Itself: Lightning looks here for `set_epoch`."""
        return self

    def __iter__(self) -> Iterator[list[int]]:
        self.next, self.begins_at = self.begins_at, 0
        if self.dataset is not None:
            self.dataset.set_epoch(self.epoch)
        for batch in self.batches()[self.next :]:
            self.next += 1
            yield batch.tolist()

    def __len__(self) -> int:
        """Batches of this rank in an epoch."""
        return len(self.batches())

    def set_epoch(self, epoch: int) -> None:
        """Makes the next pass that of `epoch`, from its beginning.

        In the epoch that `load_state_dict` goes on with it changes nothing.
        """
        if epoch != self.epoch:
            self._go_to(epoch, 0)

    def state_dict(self) -> dict[str, Any]:
        """The epoch, the number of its batches that were drawn, and what the order depends on."""
        return {"epoch": self.epoch, "next": self.next, **self.plan()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Makes the next pass go on where `state` was taken; at an epoch's end, with the next one.

        Raises:
            ValueError: the state is of other utterances, options or ranks.
        """
        for name, needed in self.plan().items():
            if state.get(name) != needed:
                found = f"a sampler's state: {name}={state.get(name)}"
                raise ValueError(f"{found}; needed {needed}, as this sampler has it")
        epoch, begins_at = state["epoch"], state["next"]
        self._go_to(*((epoch + 1, 0) if begins_at >= len(self) else (epoch, begins_at)))

    def _go_to(self, epoch: int, begins_at: int) -> None:
        self.epoch, self.next, self.begins_at = epoch, begins_at, begins_at
        if self.dataset is not None:
            self.dataset.set_epoch(epoch)


class GivenBatches(EpochSampler):
    """Batches that a user planned, the same in every epoch and on every rank."""

    def __init__(self, batches: Sequence[Iterable[int]], dataset: HasEpoch | None = None) -> None:
        super().__init__(dataset)
        self._batches = [np.array(list(batch), np.int64) for batch in batches]

    def batches(self) -> Sequence[Indices]:
        """As they were given."""
        return self._batches

    def plan(self) -> dict[str, Any]:
        """Their number and a checksum."""
        sizes = np.array([len(batch) for batch in self._batches], np.int64)
        checksum = zlib.crc32(b"".join(batch.tobytes() for batch in [sizes, *self._batches]))
        return {"num_batches": len(self._batches), "batches": checksum}


class LengthBatchSampler(EpochSampler):
    """Batches of utterances of similar length, as lists of indices, for torch's DataLoader.

    A batch costs at most `batch_seconds`, as `plan_batches` counts them. Shuffled, an epoch's
    batches come in random order, and utterances of about the same length (5 %) change places
    between batches. Otherwise the longest come first.

    Each rank has its part. All have the same number of batches, since batches of the most
    utterances are halved until their number is a multiple of `world_size`: every utterance comes
    once an epoch. Only where there is nothing to halve, each batch being one utterance, the
    shortest come again, fewer than `world_size` of them.

    `state_dict` says how far the epoch is, and `load_state_dict` goes on there, in the same order.
    A DataLoader draws ahead of what it gives; the state of what was given is that of the loader:
    `make_loader`'s, or torchdata's StatefulDataLoader.

    Args:
        duration_s: of every utterance, by index.
        batch_seconds: most padded seconds in a batch of short utterances.
        shuffle: the order is a function of (`seed`, epoch).
        seed: the same on every rank.
        rank: which part this is; None asks torch.distributed, if that is initialized by now, and
            else there is one part.
        world_size: how many parts there are; as `rank`.
        dataset: is told the epoch when it changes; for `AudioDataset(augment=...)`.

    Raises:
        ValueError: there are no utterances, or no such rank.
    """

    def __init__(
        self,
        duration_s: Durations,
        batch_seconds: float = 60.0,
        *,
        shuffle: bool = True,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        dataset: HasEpoch | None = None,
    ) -> None:
        super().__init__(dataset)
        self.duration_s = np.asarray(duration_s, dtype=np.float64)
        if not len(self.duration_s):
            raise ValueError("no utterance to make batches of; at least one is needed")
        self.batch_seconds, self.shuffle, self.seed = batch_seconds, shuffle, seed
        self.rank, self.world_size = _place(rank, world_size)
        self._num_batches = len(self.batches())

    def __len__(self) -> int:
        """Batches of this rank in an epoch, the same in every epoch and on every rank."""
        return self._num_batches

    def batches(self) -> Sequence[Indices]:
        """This rank's batches of the epoch, as `__iter__` gives them from its beginning."""
        rng = np.random.default_rng((self.seed, self.epoch)) if self.shuffle else None
        every = _even(self._every(rng), self.duration_s, self.world_size)
        starts = np.arange(0, len(every), self.world_size)  # neighbours: of similar length
        if rng is not None:
            rng.shuffle(starts)
        return [every[start + self.rank] for start in starts]

    def plan(self) -> dict[str, Any]:
        """The options, and a checksum of the durations."""
        return {
            "seed": self.seed,
            "shuffle": self.shuffle,
            "batch_seconds": self.batch_seconds,
            "world_size": self.world_size,
            "num_utterances": len(self.duration_s),
            "durations": zlib.crc32(self.duration_s.tobytes()),
        }

    def _every(self, rng: np.random.Generator | None) -> list[Indices]:
        """The batches of all ranks, the longest first."""
        if rng is None:
            return plan_batches(self.duration_s, self.batch_seconds)
        order = rng.permutation(len(self.duration_s))
        plan = plan_batches(_rounded_up(self.duration_s)[order], self.batch_seconds)
        return [order[batch] for batch in plan]


def _place(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Rank and number of ranks, where they are not given those of torch.distributed."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if world_size is None:
        world_size = torch.distributed.get_world_size() if distributed else 1
    if rank is None:
        rank = torch.distributed.get_rank() if distributed and world_size > 1 else 0
    if not 0 <= rank < world_size:
        raise ValueError(f"rank={rank}: needed 0 to {world_size - 1}, world_size={world_size}")
    return rank, world_size


def _rounded_up(duration_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Durations rounded up to powers of STEP: a plan of them keeps the budget."""
    steps = np.ceil(np.log(np.fmax(duration_s, 1e-3)) / np.log(STEP))
    rounded: NDArray[np.float64] = np.fmax(STEP**steps, duration_s)
    return rounded


def _even(
    batches: Sequence[Indices], duration_s: NDArray[np.float64], world_size: int
) -> list[Indices]:
    """The batches, of which some are halved or come again: a multiple of `world_size`."""
    even = list(batches)
    while len(even) % world_size:
        largest = max(range(len(even)), key=lambda number: len(even[number]))
        batch = even[largest]
        if len(batch) < 2:
            shortest = sorted(even, key=lambda batch: float(duration_s[batch[0]]))
            return even + [shortest[n % len(shortest)] for n in range(-len(even) % world_size)]
        even[largest : largest + 1] = np.array_split(batch, 2)
    return even
