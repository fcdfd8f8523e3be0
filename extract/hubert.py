"""HuBERT's forward of our own: exact for every utterance whatever shares its batch, and fast.

Utterances travel *packed*: their valid frames end to end, so that no linear layer computes
padding and none can leak (`extract.packing`); the convolutions before that are
`extract.convolutions`, the one among the frames `extract.positions`. Inference only. Nothing here
imports transformers: weights are read by their names (`extract.weights`).

Shapes: B utterances, S samples, N frames of all, D hidden size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from extract.architecture import require_supported
from extract.convolutions import Convolutions
from extract.frames import num_frames
from extract.packing import Packing, choose_attention
from extract.positions import PositionalConvolution
from extract.products import Linear
from extract.weights import POSITIONS, Model, folded_positions

CPU_SPAN_ROWS = 2048  # utterances that share one pass through a layer on the CPU, in frames
FEED_FORWARD_ROWS = 1024  # per block on the CPU: what lies between up and down stays in the heap


Norm = tuple[Tensor, Tensor]  # weight and bias


@dataclass
class TransformerLayer:
    """One transformer layer; query, key and value in one."""

    attention_norm: Norm
    qkv: Linear
    out: Linear
    feed_forward_norm: Norm
    up: Linear
    down: Linear


class ExactHubert:
    """A HuBERT's weights on one device in one dtype, and its forward over a batch.

    `layer` counts from 1; None (or the last) is `last_hidden_state`, a smaller one transformers'
    `hidden_states[layer]`; layers past it are not kept. The first convolution and its norm stay
    float32: 0.2 % of the arithmetic, and where half precision would overflow.
    Raises ValueError for a variant of the architecture that is not covered.
    """

    def __init__(
        self, model: Model, device: torch.device, dtype: torch.dtype, layer: int | None = None
    ) -> None:
        config = model.config
        require_supported(config)
        self.device, self.dtype = device, dtype
        self.eps = config.layer_norm_eps
        self.pre_norm = config.do_stable_layer_norm
        self.num_heads = config.num_attention_heads
        self.num_layers = config.num_hidden_layers if layer is None else layer
        head_size = config.hidden_size // self.num_heads
        self.attend = choose_attention(device, dtype, self.num_heads, head_size)
        with torch.no_grad():
            self._load(config, model.state_dict())

    def _load(self, config: Any, weights: Mapping[str, Tensor]) -> None:
        def norm(name: str) -> Norm:
            """Views of the weights given, where device and dtype are theirs."""
            weight, bias = (
                weights[f"{name}.{part}"].detach().to(self.device, self.dtype)
                for part in ("weight", "bias")
            )
            return weight, bias

        def linear(*names: str) -> Linear:
            """One for all `names`: what they give side by side."""
            parts, biases = zip(*map(norm, names), strict=True)
            return Linear(*(x[0] if len(x) == 1 else torch.cat(x) for x in (parts, biases)))

        def layer(number: int) -> TransformerLayer:
            name = f"encoder.layers.{number}"
            return TransformerLayer(
                attention_norm=norm(f"{name}.layer_norm"),
                qkv=linear(*(f"{name}.attention.{part}_proj" for part in "qkv")),
                out=linear(f"{name}.attention.out_proj"),
                feed_forward_norm=norm(f"{name}.final_layer_norm"),
                up=linear(f"{name}.feed_forward.intermediate_dense"),
                down=linear(f"{name}.feed_forward.output_dense"),
            )

        self.convolutions = Convolutions(config, weights, self.device, self.dtype)
        self.projection_norm = (
            norm("feature_projection.layer_norm") if config.feat_proj_layer_norm else None
        )
        self.projection = linear("feature_projection.projection")
        self.positions = PositionalConvolution(
            folded_positions(weights),
            weights[f"{POSITIONS}.bias"],
            config.num_conv_pos_embedding_groups,
            self.device,
        )
        self.encoder_norm = norm("encoder.layer_norm")
        self.layers = [layer(number) for number in range(self.num_layers)]
        self.final_norm = self.pre_norm and self.num_layers == config.num_hidden_layers

    @torch.inference_mode()
    def forward(self, waveforms: Tensor, lengths: Sequence[int]) -> Tensor:
        """(B, S) float32 waveforms on the device, lengths in samples -> packed (N, D) features.

        Utterance i has `num_frames(lengths[i])` rows. What lies past its length is never read
        by them. Each length must be at least `min_samples()`.
        """
        packing = Packing([num_frames(length) for length in lengths], self.device)
        hidden = self._project(self.convolutions.features(waveforms, lengths, packing))
        hidden = hidden + self.positions(hidden, packing)
        if not self.pre_norm:
            hidden = self._norm(hidden, self.encoder_norm)
        spans = list(packing.spans(CPU_SPAN_ROWS)) if hidden.is_cpu else [packing]
        rows = [hidden[span.rows] for span in spans]
        for layer in self.layers:
            rows = [self._transform(x, layer, span) for x, span in zip(rows, spans, strict=True)]
        hidden = torch.cat(rows) if len(rows) > 1 else rows[0]
        return self._norm(hidden, self.encoder_norm) if self.final_norm else hidden

    def _norm(self, x: Tensor, norm: Norm) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], *norm, self.eps)

    def _project(self, features: Tensor) -> Tensor:
        if self.projection_norm is not None:
            features = self._norm(features, self.projection_norm)
        return self.projection(features)

    def _transform(self, hidden: Tensor, layer: TransformerLayer, packing: Packing) -> Tensor:
        """One transformer layer on the rows (N, D) of whole utterances."""
        x = self._norm(hidden, layer.attention_norm) if self.pre_norm else hidden
        qkv = layer.qkv(x).view(len(hidden), 3, self.num_heads, -1)
        context = self.attend(qkv[:, 0], qkv[:, 1], qkv[:, 2], packing).flatten(1)
        hidden = layer.out.plus(context, hidden)
        if not self.pre_norm:
            hidden = self._norm(hidden, layer.attention_norm)
        if not hidden.is_cpu or len(hidden) <= FEED_FORWARD_ROWS:
            return self._feed_forward(hidden, layer)
        blocks = torch.split(hidden, FEED_FORWARD_ROWS)
        return torch.cat([self._feed_forward(block, layer) for block in blocks])

    def _feed_forward(self, hidden: Tensor, layer: TransformerLayer) -> Tensor:
        x = self._norm(hidden, layer.feed_forward_norm) if self.pre_norm else hidden
        hidden = layer.down.plus(layer.up.gelu(x), hidden)
        return hidden if self.pre_norm else self._norm(hidden, layer.feed_forward_norm)
