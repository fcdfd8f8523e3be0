"""`Architecture`: sizes, norms and strides of an encoder as a value, without its weights.

The forward, the names and shapes of weights, the fingerprint's settings, the number of operations
and the cost of a batch are functions of an `Architecture`. A family (`extract.models.families`)
makes it from a `config.json`. A setting that a new family needs becomes a field here; its default
is what all earlier models have. If the field decides a shape, it goes into `weight_shapes`, else
into `feature_settings` (`extract.models.weights`).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from extract.frames import ENCODER_RATE_HZ, ConvStack

MIN_QUADRATIC_S = 92.0  # HuBERT-base's, equal to `extract.data.plan.QUADRATIC_S`


# What is normalised at the positional convolution: its weight (HuBERT), its input by a BatchNorm
# (mHuBERT), or its output over channels by a LayerNorm without weights (data2vec).
PositionNorm = Literal["weight", "batch", "layer"]


@dataclass(frozen=True)
class Positions:
    """The positional convolution over frames, before the transformer layers."""

    kernel: int
    groups: int
    depth: int = 1  # number of such convolutions in a row
    norm: PositionNorm = "weight"

    def __post_init__(self) -> None:
        if self.depth > 1 and self.norm != "layer":
            raise ValueError(
                f"model: positions are {self.depth} convolutions of norm {self.norm}; this encoder "
                "computes several of norm layer"
            )


@dataclass(frozen=True)
class RelativeBias:
    """WavLM's gated relative position bias of attention scores."""

    buckets: int
    distance: int  # frames; all larger distances share a bucket


@dataclass(frozen=True)
class Architecture:
    """An encoder: convolutions, a projection, a positional convolution, transformer layers."""

    conv: tuple[tuple[int, int, int], ...]  # (channels, kernel, stride) of each, in order
    conv_bias: bool
    conv_norm: Literal["group", "layer"]  # behind the first, over time; behind each, over channels
    projection_norm: bool
    positions: Positions
    width: int  # dimensions of a frame
    wide: int  # dimensions inside the feed-forward
    heads: int
    layers: int
    pre_norm: bool  # LayerNorms before attention and feed-forward and at the end, not after each
    eps: float  # of all LayerNorms but those of the convolutions
    relative_bias: RelativeBias | None = None
    sample_rate: int = ENCODER_RATE_HZ

    def __post_init__(self) -> None:
        if self.sample_rate != ENCODER_RATE_HZ:
            raise ValueError(
                f"model: sample_rate is {self.sample_rate}; waveforms are {ENCODER_RATE_HZ} Hz"
            )

    @cached_property
    def stack(self) -> ConvStack:
        """The convolutions' kernels and strides."""
        layers = tuple((kernel, stride) for _channels, kernel, stride in self.conv)
        return ConvStack(layers, self.sample_rate)

    @property
    def quadratic_s(self) -> float:
        """Seconds at which attention costs as much as the linear layers, for a batch's cost.

        A frame takes 2 (4 D D + 2 D F) operations in a layer's linear products, and 4 D for each
        frame that it attends to. Both are equal at 2 D + F frames, which is 92 s for HuBERT-base.
        A narrower model gets HuBERT-base's value: memory bounds its batches, and memory grows with
        their seconds, not with the square.
        """
        equal_s = (2 * self.width + self.wide) / self.stack.frame_rate
        return max(MIN_QUADRATIC_S, float(round(equal_s)))

    def flops(self, num_samples: int) -> int:
        """Floating-point operations of an utterance's convolutions, linear layers and attention.

        Each counted as it is defined: a shorter way to the same numbers counts as speed. WavLM's
        gate is not counted: 16 D operations a frame and layer, where the products of a layer are
        24 D D: 0.09 % of a base model.
        """
        total, inputs, rows = 0, 1, num_samples
        for channels, kernel, stride in self.conv:
            rows = max(0, (rows - kernel) // stride + 1)
            total += rows * kernel * inputs * channels
            inputs = channels
        total += rows * inputs * self.width
        positions = self.positions
        per_group = self.width // positions.groups
        total += rows * self.width * per_group * positions.kernel * positions.depth
        each = 4 * self.width + 2 * self.wide + 2 * rows
        return 2 * (total + rows * self.layers * self.width * each)
