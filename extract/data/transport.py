"""Moves a batch from worker to main process: through shared memory, or a pipe if that is full."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import get_worker_info


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """An uninitialised tensor; in a worker it lies in shared memory.

    torch's own collate allocates in the same way, which saves a copy of the batch. If torch has no
    `_new_shared`, a private name, `Packed` makes that copy.
    """
    tensor: Any = torch.empty(0, dtype=dtype)
    new_shared = getattr(type(tensor.untyped_storage()), "_new_shared", None)
    if get_worker_info() is not None and 0 not in shape and new_shared is not None:
        size = torch.Size(shape)
        try:
            shared: Tensor = tensor.set_(new_shared(size.numel() * dtype.itemsize), 0, size)
            return shared
        except RuntimeError:  # shared memory is full; `Packed` sends the batch through the pipe
            pass
    return torch.empty(shape, dtype=dtype)


class Packed:
    """Collates, and pickles the batch in the worker, so that full shared memory loses no batch.

    Tensors travel through shared memory, of which a container often has 64 MB. If it is full, a
    thread of torch's worker drops the batch, and DataLoader waits for it for ever. This class
    allocates before that thread does. A batch that does not fit goes through the pipe, which takes
    a few times as long.
    """

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, items: list[Any]) -> Any:
        """The batch of `items`; in a worker its bytes, for `pickle.loads`."""
        batch = self.collate(items)
        if get_worker_info() is None:
            return batch
        try:
            for value in vars(batch).values() if hasattr(batch, "__dict__") else ():
                if isinstance(value, torch.Tensor):
                    value.share_memory_()  # type: ignore[no-untyped-call]
            return bytes(ForkingPickler.dumps(batch))
        except (RuntimeError, OSError):
            return pickle.dumps(batch, pickle.HIGHEST_PROTOCOL)
