"""The encoder's convolutions as matrix products: exact for every utterance, in bounded memory.

Products over strided views of channels-last rows need no copies. The first layer's GroupNorm is
folded into its weights, so nothing here needs the whole time axis at once and the stack runs in
chunks.

Shapes: B utterances, S samples, T frames of the longest, N frames of all, R rows, C channels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from extract.frames import CONV_LAYERS, HOP_SAMPLES
from extract.packing import Packing

CPU_CHUNK_FRAMES = 300  # 39 MB of its widest rows; a product wants many (benchmarks/README.md)
CUDA_CHUNK_FRAMES = 3000  # over the whole batch: about 0.6 GB

STATISTICS_WINDOWS = 200_000  # at a time: 16 MB in float64
GROUP_NORM_EPS = 1e-5  # torch's default, which transformers leaves as it is

Affine = tuple[Tensor, Tensor]  # weight, bias


def affine(
    weights: Mapping[str, Tensor], name: str, device: torch.device, dtype: torch.dtype
) -> Affine:
    """A norm's weight and bias, or a linear layer's with the weight as (in, out).

    Views of the weights given where device and dtype are theirs: a product reads a transposed
    matrix as fast.
    """
    weight, bias = (
        weights[f"{name}.{part}"].detach().to(device, dtype) for part in ("weight", "bias")
    )
    return weight.t(), bias


class Scratch:
    """Buffers used again from call to call on the CPU, where a fresh one costs its page faults.

    Measured: 16 % of a matrix product. CUDA's caching allocator does this by itself.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.buffers: dict[tuple[str, torch.dtype], Tensor] = {}

    def take(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """An uninitialised tensor of `shape`; on the CPU valid until `name` is taken again."""
        if self.device.type != "cpu":
            return torch.empty(shape, dtype=dtype, device=self.device)
        size = prod(shape)
        buffer = self.buffers.get((name, dtype))
        if buffer is None or buffer.numel() < size:
            buffer = self.buffers[name, dtype] = torch.empty(size, dtype=dtype)
        return buffer[:size].view(shape)


@dataclass
class ConvLayer:
    """One convolution as `ceil(kernel / stride)` matrix products, with what follows it."""

    stride: int
    parts: list[Tensor]  # each (taps * C_in, C_out), taps in order; all but the last `stride` taps
    bias: Tensor | None
    norm: Affine | None  # LayerNorm over channels


class Convolutions:
    """The conv stack of a HuBERT's `feature_extractor`, on one device in one dtype.

    The first convolution and its norm stay float32: 0.2 % of the arithmetic, and where half
    precision would overflow.
    """

    def __init__(
        self, config: Any, weights: Mapping[str, Tensor], dtype: torch.dtype, scratch: Scratch
    ) -> None:
        self.device, self.dtype, self.scratch = scratch.device, dtype, scratch
        self.group_norm = config.feat_extract_norm == "group"
        self.layers = [self._layer(weights, position) for position in range(len(CONV_LAYERS))]

    def _layer(self, weights: Mapping[str, Tensor], position: int) -> ConvLayer:
        name = f"feature_extractor.conv_layers.{position}"
        stride = CONV_LAYERS[position][1]
        dtype = torch.float32 if position == 0 else self.dtype

        def tensor(weight: Tensor) -> Tensor:
            return weight.detach().to(self.device, dtype).contiguous()

        taps = weights[f"{name}.conv.weight"].permute(2, 1, 0)  # (kernel, C_in, C_out)
        parts = [tensor(part.flatten(0, 1)) for part in torch.split(taps, stride)]
        bias = weights.get(f"{name}.conv.bias")
        has_norm = f"{name}.layer_norm.weight" in weights
        norm = affine(weights, f"{name}.layer_norm", self.device, dtype) if has_norm else None
        return ConvLayer(stride, parts, None if bias is None else tensor(bias), norm)

    def features(self, waveforms: Tensor, lengths: Sequence[int], packing: Packing) -> Tensor:
        """Packed (N, C) features of the last convolution."""
        channels = self.layers[-1].parts[0].shape[1]
        out = self.scratch.take("features", (packing.offsets[-1], channels), self.dtype)
        if waveforms.is_cpu:  # one by one: no padding computed, bitwise the same in any batch
            for waveform, length, rows in zip(waveforms, lengths, packing.slices(), strict=True):
                self.fill(waveform[None, :length], [length], out[rows][None])
            return out
        padded = out.new_empty(len(lengths), packing.longest, channels)
        self.fill(waveforms, lengths, padded)
        return packing.unpad(padded)

    def fill(self, waveforms: Tensor, lengths: Sequence[int], out: Tensor) -> None:
        """Fill `out` (B, T, C) chunk by chunk; rows past an utterance's end hold garbage.

        Every utterance gets an equal slot, a multiple of the hop, so that after each layer the
        slots still have equal lengths and the batch is one matrix of rows. A window that reaches
        over its slot's end reads its neighbour and gives garbage, but no valid frame needs one:
        frame t reads samples [320 t, 320 t + 400) of its own utterance, and those are inside.
        """
        batch, frames = out.shape[:2]
        most = CPU_CHUNK_FRAMES if out.is_cpu else max(1, CUDA_CHUNK_FRAMES // batch)
        chunk = -(-frames // -(-frames // most))  # all about equal: a short last one costs as much
        kernel, stride = CONV_LAYERS[0]
        samples, weight, bias = self._first_layer(waveforms, lengths)
        size = (frames + 1) * HOP_SAMPLES + kernel - stride
        samples = F.pad(samples, (0, max(0, size - samples.shape[1])))
        for start in range(0, frames, chunk):
            stop = min(start + chunk, frames)
            end = (stop + 1) * HOP_SAMPLES + kernel - stride
            windows = samples[:, start * HOP_SAMPLES : end].unfold(1, kernel, stride)
            rows = self._first_convolution(windows, weight, bias)
            for position in range(1, len(CONV_LAYERS)):
                rows = self._convolution(rows, position, batch, stop - start)
            out[:, start:stop] = rows.view(batch, stop - start + 1, -1)[:, :-1]

    def _first_layer(
        self, waveforms: Tensor, lengths: Sequence[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Samples (B, S), weight (B, kernel, C) and bias (B, 1, C) of the first convolution.

        A group-norm model's GroupNorm is folded in. The convolution is linear, so a channel's
        statistics over time follow from those of the utterance's windows: with the windows' mean
        m and covariance K, a channel of weight w has mean w.m and variance w'Kw (its bias
        cancels). Float64, of samples centred first: an offset costs no digits.
        """
        layer = self.layers[0]
        batch = len(lengths)
        weight = torch.cat(layer.parts)
        if not self.group_norm:
            bias = weight.new_zeros(weight.shape[1]) if layer.bias is None else layer.bias
            return waveforms, weight.expand(batch, -1, -1), bias.expand(batch, 1, -1)
        assert layer.norm is not None
        gamma, beta = layer.norm
        ends = Packing(lengths, self.device).send(torch.tensor(lengths))[:, None]
        past = torch.arange(waveforms.shape[1], device=self.device) >= ends
        offset = waveforms.masked_fill(past, 0).sum(1, True, dtype=torch.float64) / ends
        centred = (waveforms - offset.float()).masked_fill_(past, 0)
        mean, covariance = window_statistics(centred, ends)
        exact = weight.double()
        variance = torch.einsum("kc,bkl,lc->bc", exact, covariance, exact).clamp_(min=0)
        scale = gamma / torch.sqrt(variance + GROUP_NORM_EPS)  # (B, C)
        folded = exact * scale[:, None]
        bias = beta - mean[:, None] @ folded
        return centred, folded.float(), bias.float()

    def _first_convolution(self, windows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """(B, R, kernel) windows -> (B R, C) activations; float32 up to the norm."""
        shape = (*windows.shape[:2], weight.shape[2])
        rows = self.scratch.take("conv0", shape, torch.float32)
        torch.baddbmm(bias, windows, weight, out=rows)
        norm = self.layers[0].norm
        if norm is not None and not self.group_norm:
            rows = F.layer_norm(rows, rows.shape[-1:], *norm)
        if self.dtype != torch.float32:  # normalised by now, it does not overflow
            rows = self.scratch.take("conv0", shape, self.dtype).copy_(rows)
        activated: Tensor = torch.ops.aten.gelu_(rows)
        return activated.flatten(0, 1)

    def _convolution(self, rows: Tensor, position: int, batch: int, frames: int) -> Tensor:
        """One later convolution: (B R, C_in) -> (B R / stride, C_out).

        Of the last slot only what `frames` valid frames need is computed; the rest stays unset.
        """
        layer = self.layers[position]
        blocks = rows.view(len(rows) // layer.stride, -1)  # a row: `stride` taps side by side
        slot = len(blocks) // batch
        needed = frames
        for kernel, stride in reversed(CONV_LAYERS[position + 1 :]):
            needed = (needed - 1) * stride + kernel
        count = (batch - 1) * slot + needed
        shape = (len(blocks), layer.parts[0].shape[1])
        out = self.scratch.take(f"conv{position}", shape, self.dtype)
        valid = out[:count]
        for shift, part in enumerate(layer.parts):
            taps = blocks[shift : shift + count, : len(part)]
            if shift > 0:
                valid.addmm_(taps, part)
            elif layer.bias is not None:
                torch.addmm(layer.bias, taps, part, out=valid)
            else:
                torch.mm(taps, part, out=valid)
        if layer.norm is not None:
            valid.copy_(F.layer_norm(valid, valid.shape[-1:], *layer.norm))
        torch.ops.aten.gelu_(valid)
        return out


def window_statistics(samples: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (B, kernel) and covariance (B, kernel, kernel) of the first layer's valid windows.

    `samples` (B, S) are centred, `ends` (B, 1) the lengths. All windows inside an utterance count,
    also the last few that no frame reads: that is what GroupNorm averages over.
    """
    kernel, stride = CONV_LAYERS[0]
    counts = (ends - kernel) // stride + 1
    windows = samples.unfold(1, kernel, stride)
    total = samples.new_zeros(len(samples), kernel, dtype=torch.float64)
    products = samples.new_zeros(len(samples), kernel, kernel, dtype=torch.float64)
    numbers = torch.arange(windows.shape[1], device=samples.device)
    step = max(1, STATISTICS_WINDOWS // len(samples))
    for start in range(0, windows.shape[1], step):
        past = numbers[start : start + step] >= counts
        part = windows[:, start : start + step].double().masked_fill(past[..., None], 0)
        total += part.sum(1)
        products += part.transpose(1, 2) @ part
    mean = total / counts
    return mean, products / counts[..., None] - mean[:, :, None] * mean[:, None, :]
