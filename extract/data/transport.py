"""How a batch leaves a worker: in shared memory where that has room, else through a pipe."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import get_worker_info


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Uninitialised; a worker's lies in shared memory at once, as torch's own collate has it.

    Else a batch is copied once more on its way to the main process. `Packed` does that copy where
    a torch has no such storage by that private name.
    """
    tensor: Any = torch.empty(0, dtype=dtype)
    new_shared = getattr(type(tensor.untyped_storage()), "_new_shared", None)
    if get_worker_info() is not None and 0 not in shape and new_shared is not None:
        size = torch.Size(shape)
        try:
            shared: Tensor = tensor.set_(new_shared(size.numel() * dtype.itemsize), 0, size)
            return shared
        except RuntimeError:  # it is full; `Packed` sends the batch another way
            pass
    return torch.empty(shape, dtype=dtype)


class Packed:
    """A collate whose batches leave the worker as bytes that need no more memory than there is.

    Tensors travel through shared memory, and a container often has little of it. DataLoader finds
    that out in a thread of its worker that drops the batch, and waits for it for ever. Here it is
    found out before, and such a batch goes through the pipe, at a few times the price.
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
