"""What an encoder computes, as a value: sizes, norms, strides. Weights are in none of it.

The forward, the names and shapes of weights, the fingerprint's settings, the arithmetic and the
cost of a batch are functions of an `Architecture`. A family (`extract.models.families`) makes one
of a `config.json`. A setting that a new family needs becomes a field here whose default is what all
models had before it. The field goes into `weight_shapes` if it decides a shape, and into
`feature_settings` if it does not (`extract.models.weights`).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from extract.frames import ENCODER_RATE_HZ, ConvStack

MIN_QUADRATIC_S = 92.0  # of HuBERT-base, as `extract.data.plan` has it


# What a norm of the positional convolution acts on: its weight (HuBERT); its input, by running
# statistics (mHuBERT); its output, over channels and without weights of its own (data2vec).
PositionNorm = Literal["weight", "batch", "layer"]


@dataclass(frozen=True)
class Positions:
    """The convolution over frames that a transformer knows their order from."""

    kernel: int
    groups: int
    depth: int = 1  # how many such convolutions, one after the other
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
    distance: int  # frames; farther ones share a bucket


@dataclass(frozen=True)
class Architecture:
    """An encoder: convolutions, a projection, a positional convolution, transformer layers."""

    conv: tuple[tuple[int, int, int], ...]  # (channels, kernel, stride), the first one first
    conv_bias: bool
    conv_norm: Literal["group", "layer"]  # behind the first, over time; behind each, over channels
    projection_norm: bool
    positions: Positions
    width: int  # numbers of a frame
    wide: int  # and between the two products of a feed-forward
    heads: int
    layers: int
    pre_norm: bool  # norms before attention and feed-forward, and one at the end
    eps: float  # of the norms behind the convolutions'
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
        """Seconds at which attention costs as much as the linear layers do, for the plan's cost.

        A layer's products are 2 (4 D D + 2 D F) operations a frame, and 4 D for each frame that it
        attends to: as much at 2 D + F frames, 92 s of HuBERT-base. A narrower model counts as
        HuBERT-base: its batches are bounded by memory, which grows with the seconds alone.
        """
        equal_s = (2 * self.width + self.wide) / self.stack.frame_rate
        return max(MIN_QUADRATIC_S, float(round(equal_s)))

    def flops(self, num_samples: int) -> int:
        """Floating-point operations of an utterance's convolutions, products and attention.

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
