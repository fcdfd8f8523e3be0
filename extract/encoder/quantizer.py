"""What a quantizer is: features -> units, a small number for each frame or group of frames.

Each choice of the config group `quantizer` is a module: one of `extract/encoder/quantizers/`, or
one that an installed package offers as an entry point of `extract.quantizers`. It has two names:

    class Options(QuantizerOptions): ...             the options of `quantizer=<name>`
    def load(options, width) -> Quantizer | None     for features of `width` numbers a frame

No torch here: options are read without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class QuantizerOptions:
    """What makes units of the features, in the same pass.

    The base of every quantizer's `Options`.
    """

    kind: str = "none"  # the name of a quantizer
    # Files of units: fairseq (.km), gslm (id|12 12 7), slamkit (.jsonl), gpt_sovits (.tsv), the
    # default for its tokens; or what an installed package adds
    format: str = "gslm"
    # Merge repeats of a unit in these files; null = as their readers take them: merged in slamkit's
    dedup: bool | None = None


class Assignment(Protocol):
    """Gives utterances their units; those of one are a function of its features alone.

    `extract.encoder.nearest.Nearest` is one. Shapes: D numbers of a frame, N frames of utterances
    end to end, U units of these utterances. `num_frames` are those of each utterance.
    """

    width: int
    """D of the features it takes."""

    def num_units(self, num_frames: int) -> int:
        """Units of an utterance of so many frames."""
        ...

    def propose(self, values: Tensor, num_frames: Sequence[int]) -> Tensor:
        """Packed units (U,) int32 of features (D, N), on their device; does not wait for it.

        Negative where the choice is left to `decide`.
        """
        ...

    def decide(self, values: Tensor, num_frames: Sequence[int], proposed: Tensor) -> Tensor:
        """The units (U,) int64; all arguments are on the CPU."""
        ...

    def __call__(self, values: Tensor, num_frames: Sequence[int]) -> Tensor:
        """Both in one: the units (U,) int64 on the CPU of features (D, N) on any device."""
        ...


@dataclass(frozen=True)
class Quantizer:
    """What a choice of the group `quantizer` gives: how units are found. Not thread-safe."""

    fingerprint: str  # of kind and weights: a store holds units of one fingerprint
    assign: Assignment
    # The kind of features that it is for: settings of a store's identity, by their names. Empty
    # where that is not known
    made_for: Mapping[str, Any] = field(default_factory=dict)
