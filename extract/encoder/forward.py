"""The encoder's forward: exact for every utterance, whatever else is in its batch.

From the last convolution on utterances are *packed*: their valid frames lie end to end, so that no
linear layer computes padding and no feature depends on it (`extract.encoder.packing`). Inference
only. Nothing here imports transformers: an `Architecture` says what to compute, and weights are
looked up by their names (`extract.models.weights`).

Shapes: B utterances, S samples, L wanted layers, N frames of all, D width, P width of features.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from extract.encoder.convolutions import Convolutions
from extract.encoder.linear import Linear
from extract.encoder.packing import Packing, block_sizes, choose_attention
from extract.encoder.positions import PositionalEmbedding
from extract.encoder.relative_bias import GatedBias, attend_biased
from extract.models.architecture import Architecture
from extract.models.wanted import Wanted
from extract.models.weights import Checkpoint

CPU_BLOCK_ROWS, CPU_ROWS_STEP = 512, 32  # rows of a product on a CPU, see `packing.block_sizes`


Norm = tuple[Tensor, Tensor]  # weight and bias


@dataclass
class TransformerLayer:
    """Weights of one transformer layer; `qkv` gives queries, keys and values in one product."""

    number: int
    attention_norm: Norm
    qkv: Linear
    out: Linear
    feed_forward_norm: Norm
    up: Linear
    down: Linear


class ExactForward:
    """A model's weights on one device in one dtype, and its forward over a batch.

    Layers past the last wanted one are neither kept nor computed. The first convolution and its
    norm stay float32: 0.2 % of the arithmetic, and where half precision would overflow.

    Args:
        model: architecture and weights.
        device: where they are multiplied.
        dtype: what they are multiplied in.
        wanted: which layers; None is the last.
    """

    def __init__(
        self,
        model: Checkpoint,
        device: torch.device,
        dtype: torch.dtype,
        wanted: Wanted | None = None,
    ) -> None:
        of = model.architecture
        self.device, self.dtype = device, dtype
        self.stack, self.eps, self.pre_norm = of.stack, of.eps, of.pre_norm
        self.num_heads = of.heads
        self.wanted = wanted or Wanted((of.layers,))
        self.width = of.width
        self.attend = choose_attention(device, dtype, of.heads, of.width // of.heads)
        with torch.no_grad():
            self._load(of, model.weights)
            self._load_projection(model)

    def _load(self, of: Architecture, weights: Mapping[str, Tensor]) -> None:
        def norm(name: str) -> Norm:
            """Weight and bias of `name`; no copies if device and dtype are as wanted."""
            weight, bias = (
                weights[f"{name}.{part}"].detach().to(self.device, self.dtype)
                for part in ("weight", "bias")
            )
            return weight, bias

        def linear(*names: str) -> Linear:
            """One layer that gives the outputs of all `names` side by side."""
            parts, biases = zip(*map(norm, names), strict=True)
            weight, bias = (x[0] if len(x) == 1 else torch.cat(x) for x in (parts, biases))
            return Linear(weight, bias)

        def layer(number: int) -> TransformerLayer:
            name = f"encoder.layers.{number}"
            return TransformerLayer(
                number=number,
                attention_norm=norm(f"{name}.layer_norm"),
                qkv=linear(*(f"{name}.attention.{part}_proj" for part in "qkv")),
                out=linear(f"{name}.attention.out_proj"),
                feed_forward_norm=norm(f"{name}.final_layer_norm"),
                up=linear(f"{name}.feed_forward.intermediate_dense"),
                down=linear(f"{name}.feed_forward.output_dense"),
            )

        self.convolutions = Convolutions(of, weights, self.device, self.dtype)
        self.projection_norm = norm("feature_projection.layer_norm") if of.projection_norm else None
        self.projection = linear("feature_projection.projection")
        self.positions = PositionalEmbedding(of, weights, self.device)
        self.bias = None if of.relative_bias is None else GatedBias(of, weights, self.device)
        self.encoder_norm = norm("encoder.layer_norm")
        self.layers = [layer(number) for number in range(max(self.wanted.layers))]
        self.normed = of.layers if self.pre_norm and self.wanted.final_norm else None

    def _load_projection(self, model: Checkpoint) -> None:
        self.final_projection = None
        if self.wanted.projected:
            assert model.projection is not None
            weight, bias = (part.to(self.device, self.dtype) for part in model.projection)
            self.final_projection, self.width = Linear(weight, bias), len(weight)

    @torch.inference_mode()
    def forward(
        self,
        waveforms: Tensor,
        lengths: Sequence[int],
        dtype: torch.dtype | None = None,
        sensitivity: Tensor | None = None,
    ) -> Tensor:
        """(B, S) float32 waveforms on the device, lengths in samples -> features (L, P, N).

        They lie as in a file, channel by channel. Utterance i has `stack.num_frames(lengths[i])`
        columns. What lies past its length is never read by them. Each length must be at least
        `stack.min_samples()`. `dtype` is the features'; None is what they are computed in.
        Fills `sensitivity` (B,), if it is given, with each utterance's `gain_sensitivity`
        (`extract.encoder.first_layer`), if the first convolution has a norm over time.
        """
        packing = Packing([self.stack.num_frames(length) for length in lengths], self.device)
        num_rows, layers = packing.offsets[-1], self.wanted.layers
        shape = len(layers), self.width, num_rows
        out = torch.empty(shape, dtype=dtype or self.dtype, device=self.device)
        for number, blocks in enumerate(self._hidden(waveforms, lengths, packing, sensitivity)):
            if number in layers:
                features = self._finished(blocks, number)[:num_rows].to(out.dtype)
                out[layers.index(number)].copy_(features.t())  # now: the next layer overwrites it
        return out

    def _hidden(
        self,
        waveforms: Tensor,
        lengths: Sequence[int],
        packing: Packing,
        sensitivity: Tensor | None,
    ) -> Iterator[Sequence[Tensor]]:
        """What enters the first layer, then what leaves each: the batch's rows in blocks (M, D).

        A layer overwrites the blocks before it.
        """
        num_rows = packing.offsets[-1]
        features = self.convolutions.features(waveforms, lengths, packing, sensitivity)
        hidden = joined([self._project(block) for block in in_blocks(features)])
        hidden[:num_rows] += self.positions(hidden[:num_rows], packing)
        if not self.pre_norm:
            hidden = self._norm(hidden, self.encoder_norm)
        blocks = in_blocks(hidden[:num_rows])
        yield blocks
        values = None if self.bias is None else self.bias.values(packing)
        for layer in self.layers:
            blocks = self._transform(blocks, layer, packing, values)
            yield blocks

    def _finished(self, blocks: Sequence[Tensor], number: int) -> Tensor:
        """Features of layer `number`, (N, P) and what the rows that fill its last block give."""
        if number == self.normed:
            blocks = [self._norm(block, self.encoder_norm) for block in blocks]
        if self.final_projection is not None:
            blocks = [self.final_projection(block) for block in blocks]
        return joined(blocks)

    def _norm(self, x: Tensor, norm: Norm) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], *norm, self.eps)

    def _project(self, features: Tensor) -> Tensor:
        if self.projection_norm is not None:
            features = self._norm(features, self.projection_norm)
        return self.projection(features)

    def _transform(
        self,
        blocks: Sequence[Tensor],
        layer: TransformerLayer,
        packing: Packing,
        values: Tensor | None,
    ) -> list[Tensor]:
        """One transformer layer on blocks (M, D) of the batch's rows.

        `values` are those of `GatedBias` for this batch, or None.
        """
        qkv, gates = zip(*(self._qkv(x, layer) for x in blocks), strict=True)
        if values is None:
            contexts = self.attend(qkv, packing)
        else:
            contexts = attend_biased(qkv, packing, values, torch.cat(gates))
        parts = in_blocks(contexts.flatten(1))
        return [self._rest(*pair, layer) for pair in zip(blocks, parts, strict=True)]

    def _qkv(self, hidden: Tensor, layer: TransformerLayer) -> tuple[Tensor, Tensor | None]:
        """Queries, keys and values (M, 3, H, Dh) of (M, D), and the bias's gate (M, H) or None."""
        x = self._norm(hidden, layer.attention_norm) if self.pre_norm else hidden
        gate = None if self.bias is None else self.bias.gate(layer.number, x)
        return layer.qkv(x).view(len(hidden), 3, self.num_heads, -1), gate

    def _rest(self, hidden: Tensor, context: Tensor, layer: TransformerLayer) -> Tensor:
        """The layer after attention: output projection, norms, feed-forward; (M, D) -> (M, D)."""
        hidden = layer.out.plus(context, hidden)
        if not self.pre_norm:
            hidden = self._norm(hidden, layer.attention_norm)
        x = self._norm(hidden, layer.feed_forward_norm) if self.pre_norm else hidden
        hidden = layer.down.plus(layer.up.gelu(x), hidden)
        return hidden if self.pre_norm else self._norm(hidden, layer.feed_forward_norm)


def in_blocks(rows: Tensor) -> Sequence[Tensor]:
    """Cuts (N, ...) rows into blocks; on a CPU of few different sizes, the last zero-padded."""
    if not rows.is_cpu:
        return [rows]
    sizes = block_sizes(len(rows), CPU_BLOCK_ROWS, CPU_ROWS_STEP)
    left = len(rows) - sum(sizes[:-1])
    *full, last = torch.split(rows, [*sizes[:-1], left])
    return [*full, F.pad(last, (0, 0, 0, sizes[-1] - left))]


def joined(blocks: Sequence[Tensor]) -> Tensor:
    """The rows of all blocks in one tensor, with the last block's padding."""
    return blocks[0] if len(blocks) == 1 else torch.cat(list(blocks))
