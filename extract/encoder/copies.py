"""Copies between the host and a CUDA device, beside the arithmetic."""

import torch
from torch import Tensor


class Copies:
    """Copies to and from a CUDA device on streams of their own, beside the arithmetic.

    Batch n + 1 goes up and batch n - 1 comes down while batch n is computed.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.up, self.down = (
            torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            for _ in range(2)
        )

    def upload(self, host: Tensor) -> Tensor:
        """The tensor on the device, for the current stream's use; asynchronous if it is pinned."""
        compute = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self.up):
            tensor = host.to(self.device, non_blocking=True)
        compute.wait_stream(self.up)
        tensor.record_stream(compute)  # its memory is not given away before that stream is done
        return tensor

    def download(self, *tensors: Tensor) -> tuple[list[Tensor], torch.cuda.Event]:
        """Pinned copies of what the current stream computes; whole once the event has come."""
        hosts = [torch.empty(x.shape, dtype=x.dtype, pin_memory=True) for x in tensors]
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self.down.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.down):
            for host, tensor in zip(hosts, tensors, strict=True):
                host.copy_(tensor, non_blocking=True)
                tensor.record_stream(self.down)
            done.record(self.down)
        return hosts, done
