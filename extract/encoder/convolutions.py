"""The encoder's convolutions as matrix products: exact for every utterance, in bounded memory.

Products over strided views of channels-last rows need no copies. The first layer's GroupNorm is
folded into its weights (`extract.encoder.first_layer`), so nothing here needs the whole time axis
at once and the stack runs in chunks.

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

# Rows of the first layer at a time. On a CPU in chunks of few sizes, 34 MB with 512 channels; a
# product wants many rows. On a card over the whole batch, about 0.6 GB.
CPU_CHUNK_ROWS, CPU_LEAST_ROWS = 16_384, 512
CUDA_CHUNK_ROWS = 192_000


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

    def features(self, waveforms: Tensor, lengths: Sequence[int], packing: Packing) -> Tensor:
        """Packed (N, C) features of the last convolution."""
        if waveforms.is_cpu:
            return self._end_to_end(waveforms, lengths, packing)
        shape = len(lengths), packing.longest, self.channels
        padded = torch.empty(shape, dtype=self.dtype, device=waveforms.device)
        self.fill(waveforms, lengths, padded)
        return packing.unpad(padded)

    def _end_to_end(self, waveforms: Tensor, lengths: Sequence[int], packing: Packing) -> Tensor:
        """The CPU's way: utterances one after the other, cut into chunks of few sizes."""
        rows = FirstRows(self.first, waveforms, lengths, packing)
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

    def fill(self, waveforms: Tensor, lengths: Sequence[int], out: Tensor) -> None:
        """Fill `out` (B, T, C) chunk by chunk; rows past an utterance's end hold garbage.

        Every utterance gets an equal slot, a multiple of the hop, so that after each layer the
        slots still have equal lengths and the batch is one matrix of rows. A window that reaches
        over its slot's end reads its neighbour and gives garbage, but no valid frame needs one:
        with HuBERT's stack frame t reads samples [320 t, 320 t + 400) of its own utterance, and
        those are inside. Of the last slot only what its valid frames need is computed.
        """
        batch, frames, _ = out.shape
        most = max(1, CUDA_CHUNK_ROWS // self.first.rows_per_frame // batch)
        chunk = -(-frames // -(-frames // most))  # all about equal: a short last one costs as much
        folded = self.first.fold(waveforms, lengths, frames)
        for start in range(0, frames, chunk):
            stop = min(start + chunk, frames)
            out[:, start:stop] = self._later(self.first(folded, start, stop), batch, stop - start)

    def _later(self, rows: Tensor, batch: int, frames: int) -> Tensor:
        """(B, T, C) frames of the first layer's rows for them and those they reach into."""
        slot = len(rows) // batch
        for layer, needed in zip(self.later, rows_needed(self.stack, frames), strict=True):
            slot //= layer.stride
            rows = layer(rows, (batch - 1) * slot + needed)
        return rows.as_strided(
            (batch, frames, self.channels), (slot * self.channels, self.channels, 1)
        )


class FirstRows:
    """The first layer's rows of a batch whose utterances lie end to end, `reach` frames between.

    An utterance's last frame needs rows of those frames; what they give themselves is garbage.
    """

    def __init__(
        self, first: FirstLayer, waveforms: Tensor, lengths: Sequence[int], packing: Packing
    ) -> None:
        self.first, self.waveforms, self.lengths, self.packing = first, waveforms, lengths, packing
        self.starts = [0, *accumulate(frames + first.reach for frames in packing.lengths)]
        self.num_frames = self.starts[-1] - first.reach
        self.folded: tuple[int, Folded] | None = None  # of the utterance read last

    def take(self, start: int, stop: int) -> Tensor:
        """(R, C) rows of the frames `start` to `stop` and of those they reach into, for now.

        They are valid until the next call.
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
        """Of the frames `start` to `stop`: utterances', and where they lie in the packed batch."""
        for number, begin, end in self._parts(start, stop):
            end = max(begin, min(end, self.starts[number + 1] - self.first.reach))
            shift = self.packing.offsets[number] - self.starts[number]
            yield slice(begin - start, end - start), slice(begin + shift, end + shift)

    def _parts(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """The utterances among the frames `start` to `stop`, and of which frames each is."""
        number = bisect_right(self.starts, start) - 1
        while number < len(self.lengths) and self.starts[number] < stop:
            yield number, max(start, self.starts[number]), min(stop, self.starts[number + 1])
            number += 1

    def _fold(self, number: int) -> Folded:
        if self.folded is None or self.folded[0] != number:
            length = self.lengths[number]
            waveform = self.waveforms[number : number + 1, :length]
            frames = self.packing.lengths[number]
            self.folded = number, self.first.fold(waveform, [length], frames)
        return self.folded[1]


def chunk_sizes(total: int, largest: int, smallest: int) -> list[int]:
    """Frames of each chunk, `total` of them in all; the last may be part full.

    `largest` as often as it fits, then halves of it down to `smallest`, both powers of two: six
    sizes, since oneDNN keeps about 0.7 MB for each size and layer.
    """
    total = multiple(total, smallest)
    halves = (largest >> number for number in range(1, (largest // smallest).bit_length()))
    return [largest] * (total // largest) + [size for size in halves if total % largest & size]


def power_of_two(number: int) -> int:
    """The largest power of two that is at most `number`, and at least 1."""
    return 1 << max(0, number.bit_length() - 1)


def rows_needed(stack: ConvStack, frames: int) -> list[int]:
    """Rows that every later layer has to give for `frames` in the end."""
    layers = range(2, len(stack.layers) + 1)
    return [ConvStack(stack.layers[number:]).min_samples(frames) for number in layers]
