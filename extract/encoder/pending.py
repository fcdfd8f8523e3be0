"""A batch that was submitted to an encoder, and its features once they are there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from extract.values import Features

if TYPE_CHECKING:
    from extract.encoder.encoder import Encoder
    from extract.encoder.quantizer import Assignment


@dataclass
class Pending:
    """A submitted batch; `result` waits for its features."""

    encoder: Encoder
    waveforms: Tensor
    lengths: list[int]
    computed: Sequence[Tensor]  # packed features (L, D, N); whether frames are finite (N,); units
    done: torch.cuda.Event | None = None  # occurs when the download is done; None on a CPU
    features: list[Features] = field(default_factory=list)

    def result(self) -> list[Features]:
        """Features of each utterance; those with NaN or Inf are computed again in float32."""
        if not self.features:
            if self.done is not None:
                self.done.synchronize()
            self.features = self._split()
        return self.features

    @torch.no_grad()
    def _split(self) -> list[Features]:
        """Copies each utterance's features: `backward` refuses views of inference tensors."""
        stack = self.encoder.architecture.stack
        sizes = [stack.num_frames(length) for length in self.lengths]
        packed, all_finite, *proposed = self.computed
        finite = [bool(rows.all()) for rows in torch.split(all_finite, sizes)]
        values = [_copied(columns) for columns in torch.split(packed, sizes, dim=2)]
        retried = [not ok and self.encoder.dtype != torch.float32 for ok in finite]
        again = [index for index, retry in enumerate(retried) if retry]
        alone = [self.waveforms[index, : self.lengths[index]] for index in again]
        for index, exact in zip(again, self.encoder.redo(alone) if alone else [], strict=True):
            finite[index] = bool(exact.isfinite().all())
            rounded = exact.to(self.encoder.dtype)
            values[index] = _copied(rounded if rounded.isfinite().all() else exact)
        units = self._units(sizes, packed, proposed)
        for index in again if proposed else ():
            units[index] = self._assign(values[index][0].mT, sizes[index : index + 1])
        return [Features(*parts) for parts in zip(values, finite, retried, units, strict=True)]

    def _units(
        self, sizes: Sequence[int], packed: Tensor, proposed: Sequence[Tensor]
    ) -> list[Tensor | None]:
        """Units of each utterance; None for each without a quantizer."""
        if not proposed:
            return [None] * len(sizes)
        decided = self._assign.decide(packed[0], sizes, proposed[0])
        parts = torch.split(decided, [*map(self._assign.num_units, sizes)])
        return [part.clone() for part in parts]

    @property
    def _assign(self) -> Assignment:
        assert self.encoder.assign is not None
        return self.encoder.assign


def _copied(columns: Tensor) -> Tensor:
    """(L, D, T) -> (L, T, D) in memory of its own, which lies as it was."""
    return columns.clone(memory_format=torch.contiguous_format).mT
