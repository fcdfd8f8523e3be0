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


@dataclass
class Pending:
    """A submitted batch; `result` waits for its features."""

    encoder: Encoder
    waveforms: Tensor
    lengths: list[int]
    # Packed features (L, D, N), on the device if they stay there; whether frames are finite (N,),
    # and units, on the CPU
    computed: Sequence[Tensor]
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
        if packed.is_cuda:  # made on a stream of its own perhaps, which must not reuse it yet
            packed.record_stream(torch.cuda.current_stream(packed.device))
        finite = [bool(rows.all()) for rows in torch.split(all_finite, sizes)]
        values = [_copied(columns) for columns in torch.split(packed, sizes, dim=2)]
        retried = [not ok and self.encoder.dtype != torch.float32 for ok in finite]
        again = [index for index, retry in enumerate(retried) if retry]
        alone = [self.waveforms[index, : self.lengths[index]] for index in again]
        for index, exact in zip(again, self.encoder.redo(alone) if alone else [], strict=True):
            finite[index] = bool(exact.isfinite().all())
            rounded = exact.to(self.encoder.dtype)
            fits = rounded if rounded.isfinite().all() else exact
            values[index] = _copied(fits.to(packed.device))
        units = self._units(sizes, packed, proposed, values, again)
        return [Features(*parts) for parts in zip(values, finite, retried, units, strict=True)]

    def _units(
        self,
        sizes: list[int],
        packed: Tensor,
        proposed: Sequence[Tensor],
        values: Sequence[Tensor],
        again: Sequence[int],
    ) -> Sequence[Tensor | None]:
        """Units of each utterance's features as they are saved; None without a quantizer.

        Where the batch's are not those, features have units of their own: those computed `again`,
        and those that do not fit into the dtype that is saved.
        """
        assign, dtype = self.encoder.assign, self.encoder.saved_as
        if assign is None or not proposed:
            return [None] * len(sizes)
        saved = packed[0].to(dtype)
        decided = assign.decide(saved, sizes, proposed[0])
        units = [x.clone() for x in torch.split(decided, [*map(assign.num_units, sizes)])]
        fits = [bool(x.isfinite().all()) for x in torch.split(saved, sizes, dim=1)]
        for index, (one, size) in enumerate(zip(values, sizes, strict=True)):
            if index in again or not fits[index]:
                cast = one.to(dtype)
                units[index] = assign((cast if cast.isfinite().all() else one)[0].mT, [size])
        return units


def _copied(columns: Tensor) -> Tensor:
    """(L, D, T) -> (L, T, D) in memory of its own, which lies as it was."""
    return columns.clone(memory_format=torch.contiguous_format).mT
