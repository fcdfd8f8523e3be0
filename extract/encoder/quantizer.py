"""What a quantizer is: features -> units, a small number for each frame or group of frames.

Each choice of the config group `quantizer` is a module: one of `extract/encoder/quantizers/`, or
one that an installed package offers as an entry point of `extract.quantizers`. It has two names:

    class Options(QuantizerOptions): ...             the options of `quantizer=<name>`
    def load(options, width) -> Quantizer | None     for features of `width` numbers a frame

No torch here: options are read without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from extract.shard import Shard

# Id and units, `12 7 7`, of each recording in its list's order; None for one that has none.
Rows = Iterable[tuple[str, str | None]]


@dataclass
class QuantizerOptions:
    """What makes units of the features, in the same pass.

    The base of every quantizer's `Options`.
    """

    kind: str = "none"  # the name of a quantizer


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
    """What a choice of the group `quantizer` gives: how units are found and how they are written.

    Not thread-safe.
    """

    fingerprint: str  # of kind and weights: a store holds units of one fingerprint
    assign: Assignment
    file_name: Callable[[Shard], str]  # of a shard's units, in the store's folder
    lines: Callable[[Rows], Iterator[str]]  # of that file, without their ends
