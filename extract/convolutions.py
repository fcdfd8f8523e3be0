"""The encoder's convolutions as matrix products: exact for every utterance, in bounded memory.

Products over strided views of channels-last rows need no copies. The first layer's GroupNorm is
folded into its weights (`extract.first_layer`), so nothing here needs the whole time axis at once
and the stack runs in chunks.

Shapes: B utterances, S samples, T frames of the longest, N frames of all, R rows, C channels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from extract.first_layer import FirstLayer, Scratch
from extract.frames import CONV_LAYERS
from extract.packing import Packing
from extract.products import Linear

CPU_CHUNK_FRAMES = 300  # 39 MB of its widest rows; a product wants many (benchmarks/README.md)
CPU_STEP_FRAMES = 4  # few sizes, all multiples: oneDNN takes 0.7 ms to make each new one
CUDA_CHUNK_FRAMES = 3000  # over the whole batch: about 0.6 GB


class ConvLayer:
    """A later convolution as matrix products, its norm if any, and GELU.

    Windows overlap. A product reads `stride` taps of each where they lie and the next adds the
    rest, as is best on a card. oneDNN would copy those: with a `scratch` to copy whole windows to,
    as on a CPU, there is one product.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        position: int,
        device: torch.device,
        dtype: torch.dtype,
        scratch: Scratch | None = None,
    ) -> None:
        self.kernel, self.stride = CONV_LAYERS[position]

        def tensor(name: str) -> Tensor | None:
            weight = weights.get(f"feature_extractor.conv_layers.{position}.{name}")
            return None if weight is None else weight.detach().to(device, dtype)

        weight = tensor("conv.weight")
        assert weight is not None
        self.channels = weight.shape[0]
        self.scratch = scratch
        self.taps = self.stride if scratch is None else self.kernel  # of each product
        taps = torch.split(weight.permute(0, 2, 1), self.taps, dim=1)  # (C_out, taps, C_in) each
        first, *others = (part.flatten(1).contiguous() for part in taps)
        self.parts = [Linear(first, tensor("conv.bias")), *map(Linear, others)]
        gamma, beta = tensor("layer_norm.weight"), tensor("layer_norm.bias")
        self.norm = None if gamma is None or beta is None else (gamma, beta)

    def __call__(self, rows: Tensor, count: int) -> Tensor:
        """The first `count` rows of what (R, C_in) `rows` give, (count, C_out)."""
        width = rows.shape[1]
        step = self.stride * width  # from one window to the next

        def read_by(number: int) -> Tensor:
            """What a product reads of each window."""
            wide = min(self.taps, self.kernel - number * self.taps) * width
            start = rows.storage_offset() + number * self.taps * width
            windows = rows.as_strided((count, wide), (step, 1), start)
            if self.scratch is None or wide <= step:
                return windows
            return self.scratch.take(windows.shape, windows.dtype).copy_(windows)

        first, *others = self.parts
        if not others and self.norm is None:
            return first.gelu(read_by(0))
        out = first(read_by(0))
        for number, part in enumerate(others, 1):
            out = part.plus(read_by(number), out)
        if self.norm is not None:
            out = F.layer_norm(out, out.shape[-1:], *self.norm)
        activated: Tensor = torch.ops.aten.gelu_(out)
        return activated


class Convolutions:
    """The conv stack of a HuBERT's `feature_extractor`, on one device in one dtype."""

    def __init__(
        self, config: Any, weights: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype
    ) -> None:
        self.first = FirstLayer(config, weights, device, dtype)
        numbers = range(1, len(CONV_LAYERS))
        windows = Scratch() if device.type == "cpu" else None
        self.later = [ConvLayer(weights, number, device, dtype, windows) for number in numbers]
        self.channels = self.later[-1].channels
        self.dtype = dtype

    def features(self, waveforms: Tensor, lengths: Sequence[int], packing: Packing) -> Tensor:
        """Packed (N, C) features of the last convolution."""
        if waveforms.is_cpu:  # one by one: no padding computed, bitwise the same in any batch
            total = packing.offsets[-1]
            out = torch.empty(total + CPU_STEP_FRAMES - 1, self.channels, dtype=self.dtype)
            for waveform, length, rows in zip(waveforms, lengths, packing.slices(), strict=True):
                count = multiple(rows.stop - rows.start, CPU_STEP_FRAMES)
                stop = rows.start + count  # the next one overwrites what is too much
                self.fill(waveform[None, :length], [length], out[None, rows.start : stop])
            return out[:total]
        shape = len(lengths), packing.longest, self.channels
        padded = torch.empty(shape, dtype=self.dtype, device=waveforms.device)
        self.fill(waveforms, lengths, padded)
        return packing.unpad(padded)

    def fill(self, waveforms: Tensor, lengths: Sequence[int], out: Tensor) -> None:
        """Fill `out` (B, T, C) chunk by chunk; rows past an utterance's end hold garbage.

        Every utterance gets an equal slot, a multiple of the hop, so that after each layer the
        slots still have equal lengths and the batch is one matrix of rows. A window that reaches
        over its slot's end reads its neighbour and gives garbage, but no valid frame needs one:
        frame t reads samples [320 t, 320 t + 400) of its own utterance, and those are inside. Of
        the last slot only what its valid frames need is computed.
        """
        batch, frames, channels = out.shape
        most, step = max(1, CUDA_CHUNK_FRAMES // batch), 1
        if out.is_cpu:
            most, step = CPU_CHUNK_FRAMES, CPU_STEP_FRAMES
        equal = -(-frames // -(-frames // most))  # about: a short last one costs as much
        chunk = multiple(equal, step)
        folded = self.first.fold(waveforms, lengths, frames)
        for start in range(0, frames, chunk):
            stop = min(start + chunk, frames)
            rows = self.first(folded, start, stop)
            slot = len(rows) // batch
            for layer, needed in zip(self.later, rows_needed(stop - start), strict=True):
                slot //= layer.stride
                rows = layer(rows, (batch - 1) * slot + needed)
            shape, strides = (batch, stop - start, channels), (slot * channels, channels, 1)
            out[:, start:stop] = rows.as_strided(shape, strides)


def multiple(count: int, step: int) -> int:
    """The first multiple of `step` from `count` on."""
    return -(-count // step) * step


def rows_needed(frames: int) -> list[int]:
    """Rows that every later layer has to give for `frames` in the end."""
    needed = [frames]
    for kernel, stride in reversed(CONV_LAYERS[2:]):
        needed.append((needed[-1] - 1) * stride + kernel)
    return needed[::-1]
