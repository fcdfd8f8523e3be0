"""WavLM's gated relative position bias (Chen et al. 2022, section 3.1), and attention with it.

The score of query i and key j gets table[bucket(j - i)] added, times a gate of query i. All layers
share one table; each has a gate of its own. A bucket holds distances of similar size.

Shapes: N frames of all, T frames of an utterance, H heads, Dh numbers a head, R queries at a time.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from extract.encoder.packing import Packing, gathered
from extract.models.architecture import Architecture
from extract.models.weights import BIAS_TABLE

SCORES_AT_ONCE = 4_000_000  # 16 MB: bounds memory for long utterances; more is not faster


class GatedBias:
    """The bias table and the gates of all layers, on one device, in float32."""

    def __init__(
        self, of: Architecture, weights: Mapping[str, Tensor], device: torch.device
    ) -> None:
        assert of.relative_bias is not None
        self.buckets, self.distance = of.relative_bias.buckets, of.relative_bias.distance
        self.heads = of.heads

        def tensor(name: str) -> Tensor:
            return weights[name].detach().to(device, torch.float32)

        self.table = tensor(f"{BIAS_TABLE}.weight").t()  # (H, buckets)
        self.gates = []
        for number in range(of.layers):
            name = f"encoder.layers.{number}.attention.gru_rel_pos"
            # transformers sums four outputs for each gate; summed here: (2, Dh) and (2,).
            weight = tensor(f"{name}_linear.weight").view(2, 4, -1).sum(1)
            bias = tensor(f"{name}_linear.bias").view(2, 4).sum(1)
            self.gates.append((weight, bias, tensor(f"{name}_const").flatten()))

    def gate(self, layer: int, inputs: Tensor) -> Tensor:
        """Gate (N, H) of each query and head, from a layer's attention inputs (N, D)."""
        weight, bias, constant = self.gates[layer]
        heads = inputs.float().view(len(inputs), self.heads, -1)
        first, second = (heads @ weight.t() + bias).sigmoid_().unbind(-1)
        gate: Tensor = first * (second * constant - 1) + 2
        return gate

    def values(self, packing: Packing) -> Tensor:
        """Biases (H, 2 T - 1) of the distances 1 - T to T - 1, with T of the longest utterance."""
        distances = np.arange(1 - packing.longest, packing.longest)
        return self.table[:, packing.to_device(bucket_of(distances, self.buckets, self.distance))]


def bucket_of(distances: NDArray[np.int64], buckets: int, farthest: int) -> NDArray[np.int64]:
    """The bucket of each distance.

    Half of the buckets are for negative distances, half for positive ones. Short distances have a
    bucket each; then buckets widen with the logarithm. It is float32 as in transformers: at a
    bucket's edge the logarithm's rounding decides.
    """
    half = buckets // 2
    exact = half // 2
    size = np.abs(distances)
    far = np.log(np.maximum(size, exact).astype(np.float32) / np.float32(exact))
    far = far / np.float32(math.log(farthest / exact)) * np.float32(half - exact)
    bucket = np.minimum((exact + far).astype(np.int64), half - 1)
    found: NDArray[np.int64] = np.where(size < exact, size, bucket) + half * (distances > 0)
    return found


def attend_biased(qkv: Sequence[Tensor], packing: Packing, values: Tensor, gate: Tensor) -> Tensor:
    """Attention one utterance at a time, with the bias `values` times `gate` (N, H).

    Both come from `GatedBias`. Blocks (M, 3, H, Dh) of N rows -> (N, H, Dh), in float32.
    """
    contexts = qkv[0].new_empty(packing.offsets[-1], *qkv[0].shape[2:])
    for rows in packing.slices():
        query, key, value = gathered(qkv, rows).float().permute(1, 2, 0, 3)  # (H, T, Dh)
        frames = query.shape[1]
        middle = packing.longest - 1
        # Row T - 1 - i of this view is query i's.
        bias = values[:, middle - frames + 1 : middle + frames].unfold(1, frames, 1)
        step = max(1, SCORES_AT_ONCE // (len(query) * frames))
        for start in range(0, frames, step):
            stop = min(start + step, frames)
            part = slice(start, stop)
            gated = bias[:, frames - stop : frames - start].flip(1)
            gated *= gate[rows][part].t()[..., None]
            scores = gated.baddbmm_(query[:, part], key.mT, alpha=query.shape[2] ** -0.5)
            context = torch.bmm(scores.softmax(-1), value)
            contexts[rows][part] = context.transpose(0, 1)
    return contexts
