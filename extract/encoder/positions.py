"""The transformer's positional convolutions, through the Fourier transform.

A direct convolution with a kernel of 128 frames in 16 groups is slow: 7 % of HuBERT-base's time on
a CPU for 3 % of its arithmetic. The overlap-save method (Oppenheim and Schafer, Discrete-Time
Signal Processing, 8.7.3) needs a thirtieth of the multiplications. It runs in float32, whatever the
model's precision.

Shapes: N frames of all, D channels, G groups of C, K taps, M blocks of S = 2 K frames, F = K + 1
frequencies. Each block gives S - K + 1 = K + 1 frames.
"""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from extract.encoder.packing import Packing
from extract.models.architecture import Architecture
from extract.models.weights import batch_norm, position_weights

CPU_BLOCKS, CUDA_BLOCKS = 16, 64  # transformed at once: 13 and 50 MB for each intermediate


class PositionalEmbedding:
    """A model's positional embedding of frames: one convolution or several in a row."""

    def __init__(
        self, of: Architecture, weights: Mapping[str, Tensor], device: torch.device
    ) -> None:
        groups, normed = of.positions.groups, of.positions.norm == "layer"
        self.convolutions = [
            PositionalConvolution(weight, bias, groups, device, normed)
            for weight, bias in position_weights(of, weights)
        ]
        norm = batch_norm(of, weights)
        self.norm = None if norm is None else tuple(part.to(device) for part in norm)

    def __call__(self, hidden: Tensor, packing: Packing) -> Tensor:
        """Packed (N, D) -> (N, D), in the same dtype; `hidden` stays as it is."""
        if self.norm is not None:  # frames only: the zeros around an utterance must stay zeros
            scale, shift = self.norm
            hidden = (hidden.float() * scale + shift).to(hidden.dtype)
        for convolution in self.convolutions:
            hidden = convolution(hidden, packing)
        return hidden


class PositionalConvolution:
    """A grouped convolution over frames and its GELU; `weight` (D, C, K), `bias` (D,).

    Each utterance is padded with zeros, K // 2 frames of them before its first frame. If `normed`,
    a LayerNorm without weights comes before the GELU.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        groups: int,
        device: torch.device,
        normed: bool = False,
    ) -> None:
        channels, inner, self.kernel = weight.shape
        self.normed = normed
        self.groups, self.device = groups, device
        self.size = 2 * self.kernel
        self.step = self.size - self.kernel + 1
        spectrum = torch.fft.rfft(weight.detach().double(), n=self.size).to(torch.complex64)
        spectrum = spectrum.conj().view(groups, channels // groups, inner, -1).permute(3, 0, 2, 1)
        spectrum = spectrum.flatten(0, 1).contiguous()  # (F G, C, C), from input to output
        self.spectrum = spectrum.to(device)
        self.bias = bias.detach().to(device, torch.float32)

    def __call__(self, hidden: Tensor, packing: Packing) -> Tensor:
        """Packed (N, D) -> (N, D), in the same dtype; `hidden` stays as it is."""
        sources, rows = (packing.to_device(index) for index in self._blocks(packing))
        padded = F.pad(hidden, (0, 0, 0, 1))  # row N: the zeros around an utterance
        out = hidden.new_empty(len(sources), self.step, hidden.shape[1])
        at_once = CPU_BLOCKS if hidden.is_cpu else CUDA_BLOCKS
        for start in range(0, len(sources), at_once):
            part = slice(start, start + at_once)
            out[part] = self._convolved(padded[sources[part]].float())
        return out.flatten(0, 1).index_select(0, rows)

    def _blocks(self, packing: Packing) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Input rows of each block (M, S), and the row of the blocks' output of each frame (N,)."""
        lengths, starts = np.array(packing.lengths), np.array(packing.offsets[:-1])
        counts = -(-lengths // self.step)
        firsts = counts.cumsum() - counts
        owner = np.repeat(np.arange(len(lengths)), counts)  # of each block
        block = np.arange(len(owner)) - firsts[owner]
        frames = (block * self.step - self.kernel // 2)[:, None] + np.arange(self.size)
        inside = (frames >= 0) & (frames < lengths[owner, None])
        sources = np.where(inside, frames + starts[owner, None], packing.offsets[-1])
        owner = np.repeat(np.arange(len(lengths)), lengths)  # of each frame
        frame = np.arange(len(owner)) - starts[owner]
        rows = (firsts[owner] + frame // self.step) * self.step + frame % self.step
        return sources, rows

    def _convolved(self, blocks: Tensor) -> Tensor:
        """Convolves blocks: (M, S, D) -> (M, K + 1, D), without the frames that wrapped around."""
        num_blocks = len(blocks)
        frequencies = torch.fft.rfft(blocks, dim=1).unflatten(2, (self.groups, -1))  # (M, F, G, C)
        products = torch.bmm(frequencies.flatten(1, 2).transpose(0, 1), self.spectrum)
        products = products.view(-1, self.groups, num_blocks, products.shape[2])
        out = torch.fft.irfft(products, n=self.size, dim=0)[: self.step]  # (K + 1, G, M, C)
        out = out.permute(2, 0, 1, 3).flatten(2).add_(self.bias)
        if self.normed:
            out = F.layer_norm(out, out.shape[-1:])
        activated: Tensor = torch.ops.aten.gelu_(out)
        return activated
