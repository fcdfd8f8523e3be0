"""The encoder's first convolution with the norm and GELU that follow it.

HuBERT-base has a GroupNorm over time here, so zeros of padding change its statistics and corrupt
every feature. This module computes the statistics in closed form from each utterance's own windows
and folds them into the convolution's weights. The result is a convolution with other weights for
each utterance, which can run in chunks.

Rows are the convolution's windows. `rows_per_frame` of them begin in each of the encoder's frames.
A frame's receptive field may reach into the rows of the next `reach` frames.

Shapes: B utterances, S samples, R rows, C channels.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from extract.encoder.packing import Packing
from extract.frames import ConvStack
from extract.models.architecture import Architecture

log = logging.getLogger(__name__)

CPU_ROWS = 1024  # rows computed at once: 2 MB stay in the cache, which is twice as fast
STATISTICS_WINDOWS = 200_000  # windows summed at once: 16 MB in float64 for a kernel of 10
EPS = 1e-5  # of both norms: torch's default, which transformers does not change
ROUNDING = 2.0**-24  # of a float32 sample, relative


Activations = Callable[[Tensor, Tensor, Tensor], Tensor]  # windows, weight, bias -> (B R, C)


@dataclass(frozen=True)
class Folded:
    """Samples and weights of a batch's first convolution, its norm folded in; all float32."""

    stack: ConvStack
    samples: Tensor  # (B, S), zero-padded for the frames that the last one reaches into
    weight: Tensor  # (B, kernel, C)
    bias: Tensor  # (B, 1, C)
    # (B,) float64: `gain_sensitivity` of each utterance; None without a GroupNorm
    sensitivity: Tensor | None = None

    def windows(self, start: int, stop: int) -> Tensor:
        """Windows (B, R, kernel) that begin in the frames `start` to `stop`; a view."""
        (kernel, stride), hop = self.stack.layers[0], self.stack.hop
        end = stop * hop + kernel - stride
        return self.samples[:, start * hop : end].unfold(1, kernel, stride)


class FirstLayer:
    """The first convolution, its norm and GELU, on one device; activations have `dtype`.

    The convolution and its norm run in float32: half precision would overflow here, and they are
    0.2 % of HuBERT-base's arithmetic.
    """

    def __init__(
        self,
        architecture: Architecture,
        weights: Mapping[str, Tensor],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.device, self.dtype = device, dtype
        self.stack = architecture.stack
        self.rows_per_frame = self.stack.hop // self.stack.layers[0][1]
        self.reach = reach(self.stack)
        self.group_norm = architecture.conv_norm == "group"

        def tensor(name: str) -> Tensor:
            weight = weights[f"feature_extractor.conv_layers.0.{name}"].detach()
            return weight.to(device, torch.float32)

        self.weight = tensor("conv.weight")[:, 0].t().contiguous()  # (kernel, C)
        self.channels = self.weight.shape[1]
        self.bias = torch.zeros_like(self.weight[0])
        if architecture.conv_bias:
            self.bias = tensor("conv.bias")
        self.norm = tensor("layer_norm.weight"), tensor("layer_norm.bias")
        self.scratch = Scratch()
        # No bound method is kept: the weights would wait for the garbage collector.
        self.in_one_works = device.type == "cuda" and agrees(self, self.in_one)

    def fold(self, waveforms: Tensor, lengths: Sequence[int], frames: int) -> Folded:
        """A batch's `Folded`; `waveforms` (B, S), of which the longest gives `frames` frames."""
        batch = len(lengths)
        sensitivity = None
        if self.group_norm:
            samples, weight, bias, sensitivity = self._normalised(waveforms, lengths)
        else:
            samples, weight = waveforms, self.weight.expand(batch, -1, -1)
            bias = self.bias.expand(batch, 1, -1)
        kernel, stride = self.stack.layers[0]
        size = (frames + self.reach) * self.stack.hop + kernel - stride
        samples = F.pad(samples, (0, max(0, size - samples.shape[1])))
        return Folded(self.stack, samples, weight, bias, sensitivity)

    def _normalised(
        self, waveforms: Tensor, lengths: Sequence[int]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Centred samples, weight and bias with the GroupNorm folded in, `gain_sensitivity`.

        The convolution is linear, so a channel's statistics over time follow from those of the
        utterance's windows: with the windows' mean m and covariance K, a channel of weight w has
        mean w.m and variance w'Kw (the convolution's bias cancels). m and K are float64 sums of
        centred samples; a constant offset would cost digits of K.
        """
        gamma, beta = self.norm
        ends = Packing(lengths, self.device).to_device(np.array(lengths))[:, None]
        past = torch.arange(waveforms.shape[1], device=self.device) >= ends
        offset = waveforms.masked_fill(past, 0).sum(1, True, dtype=torch.float64) / ends
        centred = (waveforms - offset.float()).masked_fill_(past, 0)
        mean, covariance = window_statistics(centred, ends, *self.stack.layers[0])
        exact = self.weight.double()
        variance = torch.einsum("kc,bkl,lc->bc", exact, covariance, exact).clamp_(min=0)
        scale = gamma / torch.sqrt(variance + EPS)  # (B, C)
        folded = exact * scale[:, None]
        bias = beta - mean[:, None] @ folded
        power = covariance.diagonal(dim1=1, dim2=2).mean(1) + offset[:, 0] ** 2
        sensitivity = gain_sensitivity(variance, gamma, exact, power)
        return centred, folded.float().contiguous(), bias.float().contiguous(), sensitivity

    def __call__(self, batch: Folded, start: int, stop: int) -> Tensor:
        """Activations (B R, C) of the frames `start` to `stop` and of the next `reach` frames."""
        windows = batch.windows(start, stop + self.reach)
        return self.activations(windows, batch.weight, batch.bias)

    def activations(self, windows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Activations the fastest way that works here; the arguments are those of `in_steps`."""
        way = self.in_one if self.in_one_works else self.in_steps
        return way(windows, weight, bias)

    def in_steps(self, windows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Activations by torch's operations, one after the other.

        (B, R, kernel) windows, (B, kernel, C) weights, (B, 1, C) bias -> (B R, C).
        """
        if not windows.is_cpu:
            rows = self._normed(windows, weight, bias).flatten(0, 1)
            activated: Tensor = torch.ops.aten.gelu_(rows)
            return activated
        out = self.scratch.take((*windows.shape[:2], weight.shape[2]), self.dtype)
        for one in range(len(windows)):
            utterance = slice(one, one + 1)
            self.write(windows[utterance], weight[utterance], bias[utterance], out[utterance])
        return out.flatten(0, 1)

    def write(self, windows: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> None:
        """Writes one utterance's activations into `out` (1, R, C), contiguous, on a CPU."""
        for start in range(0, windows.shape[1], CPU_ROWS):
            part = slice(start, start + CPU_ROWS)
            rows = self._normed(windows[:, part], weight, bias)
            # `out` must be contiguous: torch 2.11 writes wrong numbers into a strided one.
            torch.ops.aten.gelu.out(rows, out=out[:, part])

    def _normed(self, windows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Normed rows (B, R, C) of windows (B, R, kernel); float32 until they cannot overflow."""
        rows = torch.baddbmm(bias, windows, weight)
        if not self.group_norm:
            rows = F.layer_norm(rows, rows.shape[-1:], *self.norm, EPS)
        return rows.to(self.dtype)

    def in_one(self, windows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """`in_steps` as one Triton kernel, on a card."""
        from extract.encoder.first_layer_kernel import activations

        norm = None if self.group_norm else self.norm
        with torch.cuda.device(
            self.device
        ):  # Triton launches on the current device, not the data's
            return activations(windows, weight, bias, norm, EPS, self.dtype)


@torch.inference_mode()
def agrees(layer: FirstLayer, kernel: Activations) -> bool:
    """Whether `kernel` works and gives what `layer.in_steps` does, on a small input."""
    short, long = layer.stack.min_samples(2), layer.stack.min_samples(3)
    batch = layer.fold(torch.randn(2, long, device=layer.device), [long, short], 3)
    arguments = batch.windows(1, 3 + layer.reach), batch.weight, batch.bias
    try:
        found, expected = kernel(*arguments), layer.in_steps(*arguments)
        worst = float(((found - expected) / (1 + expected.abs())).abs().max())
    except Exception as failure:  # no Triton, no compiler, a card it does not know
        log.warning("the first layer's kernel fails here, using torch's operations: %s", failure)
        return False
    if not worst <= 2e-2:  # NaN included
        log.warning("the first layer's kernel is off by %.1e, using torch's operations", worst)
        return False
    return True


def gain_sensitivity(variance: Tensor, gamma: Tensor, weight: Tensor, power: Tensor) -> Tensor:
    """How far the normed output is from one that no gain changes, (B,) float64, relative.

    Without EPS and without rounding a GroupNorm takes out any gain. EPS makes a channel of variance
    v smaller by the factor 1 / sqrt(1 + EPS / v). Rounding of float32 samples adds white noise,
    which is large beside a channel whose band the recording lacks, or beside a constant offset. The
    result is the root mean square of both over channels, weighted as they leave the norm.

    At `1 / r` of the gain it is at most `r * r` times as large, for r >= 1.

    Args:
        variance: (B, C) of each channel over time, before EPS is added.
        gamma: (C,) weight of the norm.
        weight: (kernel, C) of the convolution.
        power: (B,) mean square of the samples, with their offset.
    """
    by_eps = 1 - torch.rsqrt(1 + EPS / variance)
    noise = ROUNDING * torch.sqrt(power[:, None] * weight.square().sum(0) / variance)
    change = by_eps + noise.nan_to_num(nan=1.0).clamp(max=1)
    squared = gamma.double().square()
    return ((change.square() * squared).mean(1) / squared.mean()).sqrt().nan_to_num(nan=1.0)


def reach(stack: ConvStack) -> int:
    """How many frames past its own a frame's receptive field reaches, in the first layer's rows."""
    rows_per_frame = stack.hop // stack.layers[0][1]
    needed = ConvStack(stack.layers[1:]).min_samples()  # rows of a frame
    return -(-needed // rows_per_frame) - 1


def window_statistics(
    samples: Tensor, ends: Tensor, kernel: int, stride: int
) -> tuple[Tensor, Tensor]:
    """Mean (B, kernel) and covariance (B, kernel, kernel) of the first layer's valid windows.

    `samples` (B, S) are centred, `ends` (B, 1) the lengths. All windows inside an utterance count,
    also the last few that no frame needs: GroupNorm averages over them too.
    """
    counts = (ends - kernel) // stride + 1
    windows = samples.unfold(1, kernel, stride)
    total = samples.new_zeros(len(samples), kernel, dtype=torch.float64)
    products = samples.new_zeros(len(samples), kernel, kernel, dtype=torch.float64)
    numbers = torch.arange(windows.shape[1], device=samples.device)
    step = max(1, STATISTICS_WINDOWS // len(samples))
    for start in range(0, windows.shape[1], step):
        past = numbers[start : start + step] >= counts
        part = windows[:, start : start + step].double().masked_fill_(past[..., None], 0)
        total += part.sum(1)
        products += part.transpose(1, 2) @ part
    mean = total / counts
    return mean, products / counts[..., None] - mean[:, :, None] * mean[:, None, :]


class Scratch:
    """A CPU buffer that calls reuse: a new allocation each time would cost page faults."""

    def __init__(self) -> None:
        self.buffer = torch.empty(0)

    def take(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """An uninitialised tensor of `shape`, valid until the next `take`."""
        size = prod(shape)
        if self.buffer.numel() < size or self.buffer.dtype != dtype:
            self.buffer = torch.empty(size, dtype=dtype)
        return self.buffer[:size].view(shape)
