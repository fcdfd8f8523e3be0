"""The encoder's convolutions as matrix products: exact for every utterance, in bounded memory.

A product over a strided view of channels-last rows needs no copy. The first layer's GroupNorm is
folded into its weights (`extract.encoder.first_layer`), so no step needs the whole time axis and
the stack runs in chunks.

Shapes: B utterances, S samples, T frames of the longest, N frames of all, R rows, C channels.
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from extract.encoder.first_layer import FirstLayer, Folded, Scratch
from extract.encoder.linear import Linear
from extract.encoder.packing import Packing, multiple
from extract.frames import ConvStack
from extract.models.architecture import Architecture

# Rows of the first layer in one chunk. On a CPU 34 MB in float32 with 512 channels; a product of
# few rows is slow. On a card over the whole batch, about 0.6 GB.
CPU_CHUNK_ROWS, CPU_LEAST_ROWS = 16_384, 512
CUDA_CHUNK_ROWS = 192_000


class ConvLayer:
    """Any convolution but the first: matrix products, a LayerNorm if the model has one, and GELU.

    Windows overlap, which a matrix cannot. Without `scratch` the first product reads `stride` taps
    of each window in place and the next ones add the remaining taps; this is fastest on a card.
    With `scratch`, as on a CPU, whole windows are copied there for a single product, because oneDNN
    would copy strided rows anyway.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        position: int,
        stride: int,
        device: torch.device,
        dtype: torch.dtype,
        scratch: Scratch | None = None,
    ) -> None:

        def tensor(name: str) -> Tensor | None:
            weight = weights.get(f"feature_extractor.conv_layers.{position}.{name}")
            return None if weight is None else weight.detach().to(device, dtype)

        weight = tensor("conv.weight")
        assert weight is not None
        self.stride, self.kernel = stride, weight.shape[2]
        self.scratch = scratch
        self.taps = self.stride if scratch is None else self.kernel  # of each product
        taps = torch.split(weight.permute(0, 2, 1), self.taps, dim=1)  # (C_out, taps, C_in) each
        first, *others = (part.flatten(1).contiguous() for part in taps)
        self.parts = [Linear(first, tensor("conv.bias")), *map(Linear, others)]
        gamma, beta = tensor("layer_norm.weight"), tensor("layer_norm.bias")
        self.norm = None if gamma is None or beta is None else (gamma, beta)

    def __call__(self, rows: Tensor, count: int) -> Tensor:
        """The first `count` output rows, (count, C_out), of the input `rows` (R, C_in)."""
        width = rows.shape[1]
        step = self.stride * width  # from one window to the next

        def read_by(number: int) -> Tensor:
            """The part of each window that product `number` multiplies."""
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
    """The conv stack of a model's `feature_extractor`, on one device in one dtype."""

    def __init__(
        self,
        architecture: Architecture,
        weights: Mapping[str, Tensor],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.stack, self.dtype = architecture.stack, dtype
        self.first = FirstLayer(architecture, weights, device, dtype)
        windows = Scratch() if device.type == "cpu" else None
        self.later = [
            ConvLayer(weights, number, stride, device, dtype, windows)
            for number, (_kernel, stride) in enumerate(self.stack.layers[1:], start=1)
        ]
        self.channels = architecture.conv[-1][0]

    def features(
        self,
        waveforms: Tensor,
        lengths: Sequence[int],
        packing: Packing,
        sensitivity: Tensor | None = None,
    ) -> Tensor:
        """Packed (N, C) features of the last convolution, valid frames only.

        Fills `sensitivity` (B,), if it is given, with each utterance's `gain_sensitivity`.
        """
        if waveforms.is_cpu:
            return self._end_to_end(waveforms, lengths, packing, sensitivity)
        shape = len(lengths), packing.longest, self.channels
        padded = torch.empty(shape, dtype=self.dtype, device=waveforms.device)
        self.fill(waveforms, lengths, padded, sensitivity)
        return packing.unpad(padded)

    def _end_to_end(
        self,
        waveforms: Tensor,
        lengths: Sequence[int],
        packing: Packing,
        sensitivity: Tensor | None,
    ) -> Tensor:
        """Features on a CPU: utterances end to end, cut into chunks of few different sizes."""
        rows = FirstRows(self.first, waveforms, lengths, packing, sensitivity)
        out = torch.empty(packing.offsets[-1], self.channels, dtype=self.dtype)
        largest, least = (
            power_of_two(number // self.first.rows_per_frame)
            for number in (CPU_CHUNK_ROWS, CPU_LEAST_ROWS)
        )
        start = 0
        for size in chunk_sizes(rows.num_frames, largest, least):
            [frames] = self._later(rows.take(start, start + size), 1, size)
            for source, target in rows.valid(start, start + size):
                out[target] = frames[source]
            start += size
        return out

    def fill(
        self,
        waveforms: Tensor,
        lengths: Sequence[int],
        out: Tensor,
        sensitivity: Tensor | None = None,
    ) -> None:
        """Fill `out` (B, T, C) chunk by chunk; rows past an utterance's end hold garbage.

        Every utterance gets a slot of the same length, a multiple of the hop. After each layer the
        slots still have equal lengths, so the batch is one matrix of rows. A window that crosses
        the end of its slot reads the next utterance and gives garbage. No valid frame depends on
        such a window: with HuBERT's stack frame t reads samples [320 t, 320 t + 400) of its own
        utterance. Rows of the last slot that no valid frame needs are not computed.
        """
        batch, frames, _ = out.shape
        most = max(1, CUDA_CHUNK_ROWS // self.first.rows_per_frame // batch)
        chunk = -(-frames // -(-frames // most))  # about equal: a short last one takes as long
        folded = self.first.fold(waveforms, lengths, frames)
        if sensitivity is not None and folded.sensitivity is not None:
            sensitivity.copy_(folded.sensitivity)
        for start in range(0, frames, chunk):
            stop = min(start + chunk, frames)
            out[:, start:stop] = self._later(self.first(folded, start, stop), batch, stop - start)

    def _later(self, rows: Tensor, batch: int, frames: int) -> Tensor:
        """Frames (B, T, C) from the first layer's rows of these frames and of `reach` more."""
        slot = len(rows) // batch
        for layer, needed in zip(self.later, rows_needed(self.stack, frames), strict=True):
            slot //= layer.stride
            rows = layer(rows, (batch - 1) * slot + needed)
        return rows.as_strided(
            (batch, frames, self.channels), (slot * self.channels, self.channels, 1)
        )


class FirstRows:
    """The first layer's rows of a batch whose utterances lie end to end, on a CPU.

    `reach` frames lie between two utterances. The last frame of an utterance needs their rows; they
    give garbage themselves and are skipped.
    """

    def __init__(
        self,
        first: FirstLayer,
        waveforms: Tensor,
        lengths: Sequence[int],
        packing: Packing,
        sensitivity: Tensor | None = None,
    ) -> None:
        self.first, self.waveforms, self.lengths, self.packing = first, waveforms, lengths, packing
        self.sensitivity = sensitivity
        self.starts = [0, *accumulate(frames + first.reach for frames in packing.lengths)]
        self.num_frames = self.starts[-1] - first.reach
        self.folded: tuple[int, Folded] | None = None  # of the utterance read last

    def take(self, start: int, stop: int) -> Tensor:
        """(R, C) rows of the frames `start` to `stop` and of `reach` more.

        They lie in the scratch buffer, so they are valid until the next call only.
        """
        each, stop = self.first.rows_per_frame, stop + self.first.reach
        shape = 1, (stop - start) * each, self.first.channels
        out = self.first.scratch.take(shape, self.first.dtype)
        for number, begin, end in self._parts(start, stop):
            at = self.starts[number]
            rows = slice((begin - start) * each, (end - start) * each)
            batch = self._fold(number)
            windows = batch.windows(begin - at, end - at)
            self.first.write(windows, batch.weight, batch.bias, out[:, rows])
        return out[0]

    def valid(self, start: int, stop: int) -> Iterator[tuple[slice, slice]]:
        """Yields the utterances' frames among `start` to `stop`, and their place when packed.

        Each is a slice relative to `start` and the slice of the packed batch that it belongs to.
        """
        for number, begin, end in self._parts(start, stop):
            end = max(begin, min(end, self.starts[number + 1] - self.first.reach))
            shift = self.packing.offsets[number] - self.starts[number]
            yield slice(begin - start, end - start), slice(begin + shift, end + shift)

    def _parts(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Yields (utterance, first frame, end) of each part of the frames `start` to `stop`."""
        number = bisect_right(self.starts, start) - 1
        while number < len(self.lengths) and self.starts[number] < stop:
            yield number, max(start, self.starts[number]), min(stop, self.starts[number + 1])
            number += 1

    def _fold(self, number: int) -> Folded:
        if self.folded is None or self.folded[0] != number:
            length = self.lengths[number]
            waveform = self.waveforms[number : number + 1, :length]
            frames = self.packing.lengths[number]
            folded = self.first.fold(waveform, [length], frames)
            if self.sensitivity is not None and folded.sensitivity is not None:
                self.sensitivity[number] = folded.sensitivity[0]
            self.folded = number, folded
        return self.folded[1]


def chunk_sizes(total: int, largest: int, smallest: int) -> list[int]:
    """Frames in each chunk, at least `total` in all; the last chunk may be partly filled.

    `largest` as often as it fits, then its half, quarter and so on down to `smallest`; both are
    powers of two. So there are few sizes: oneDNN keeps about 0.7 MB for each size and layer.
    """
    total = multiple(total, smallest)
    halves = (largest >> number for number in range(1, (largest // smallest).bit_length()))
    return [largest] * (total // largest) + [size for size in halves if total % largest & size]


def power_of_two(number: int) -> int:
    """The largest power of two that is at most `number`, and at least 1."""
    return 1 << max(0, number.bit_length() - 1)


def rows_needed(stack: ConvStack, frames: int) -> list[int]:
    """Output rows that each layer after the first must give for `frames` frames of the last."""
    layers = range(2, len(stack.layers) + 1)
    return [ConvStack(stack.layers[number:]).min_samples(frames) for number in layers]
