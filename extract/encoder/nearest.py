"""Nearest centres of frames by squared Euclidean distance: the same in any batch, on any device.

`propose` runs in float32 on the device. Its rounding depends on what shares the batch, so it leaves
open every choice that rounding could change. `decide` settles those in float64 on the CPU, where
distances that agree within float64's rounding are a tie, and the first of them wins. So the answer
is a function of the frames alone.

Shapes: D numbers of a frame, N frames of all utterances, U units of all, K centres, S stride.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from extract.encoder.encoder import exact_float32
from extract.encoder.packing import multiple

BLOCK = 2048  # units at a time: 60 MB in float32 for 1,024 centres of 768 numbers
STEP = 32  # a block's size is a multiple of it: few sizes, see `packing.block_sizes`
EXACT_BLOCK = 256  # units at a time in float64

# Scores that differ by less may be in another order than their rounded values. In units of norms
# of what is multiplied: by 1e-8 of it a float32 score was off at most, by 1e-17 a float64 one.
DOUBT, TIE = 5e-7, 1e-13

OPEN = -1  # a unit that `propose` leaves to `decide`


class Nearest:
    """The nearest of `centres` to each group of `stride` frames, seen through a projection.

    Args:
        centres: (K, P) float32. Of equal ones the first is given.
        projection: weight (P, D, S) and bias (P,) of a convolution of stride S; None: P is D, and
            the frames themselves are compared.
    """

    def __init__(self, centres: Tensor, projection: tuple[Tensor, Tensor] | None = None) -> None:
        self.codes = _first_of_equal(centres)
        centres = centres[self.codes]
        weight, bias = projection or (None, centres.new_zeros(centres.shape[1]))
        parts = [] if weight is None else [part.contiguous() for part in weight.unbind(2)]
        self.stride = max(1, len(parts))
        self.width = parts[0].shape[1] if parts else centres.shape[1]  # of the frames
        self._float = _Weights(centres, parts, bias)
        self._double = self._float.to(dtype=torch.float64)
        self._on: dict[torch.device, _Weights] = {torch.device("cpu"): self._float}

    def num_units(self, num_frames: int) -> int:
        """Units of an utterance; frames past the last whole group give none."""
        return num_frames // self.stride

    def propose(self, values: Tensor, num_frames: Sequence[int]) -> Tensor:
        """Packed features (D, N) -> packed units (U,) int32, or OPEN; does not wait for the device.

        Args:
            values: of utterances end to end, in any floating dtype, on any device.
            num_frames: of each utterance.
        """
        with exact_float32(values.device):
            return self._propose(values, num_frames)

    def _propose(self, values: Tensor, num_frames: Sequence[int]) -> Tensor:
        on = self._weights_on(values.device)
        starts = torch.from_numpy(self._starts(num_frames))
        codes = self.codes.to(values.device, torch.int32, non_blocking=True)
        found = [codes.new_empty(0)]
        for block in torch.split(starts, BLOCK):
            where = torch.zeros(multiple(len(block), STEP), dtype=torch.int64)
            where[: len(block)] = block
            best, is_open = on.best(_gathered(values, where, self.stride, torch.float32), DOUBT)
            found.append(torch.where(is_open, OPEN, codes[best])[: len(block)])
        return torch.cat(found)

    def decide(self, values: Tensor, num_frames: Sequence[int], proposed: Tensor) -> Tensor:
        """The units (U,) int64 of packed features (D, N) on the CPU, given what was proposed."""
        units = proposed.to(torch.int64)
        left = torch.from_numpy(self._starts(num_frames))
        is_open = units == OPEN
        chosen = [
            self._double.first_best(_gathered(values, where, self.stride, torch.float64))
            for where in torch.split(left[is_open], EXACT_BLOCK)
        ]
        if len(left) and chosen:
            units[is_open] = self.codes[torch.cat(chosen)]
        return units

    def __call__(self, values: Tensor, num_frames: Sequence[int]) -> Tensor:
        """The units (U,) int64, on the CPU, of packed features (D, N) on any device."""
        return self.decide(values.cpu(), num_frames, self.propose(values, num_frames).cpu())

    def _starts(self, num_frames: Sequence[int]) -> NDArray[np.int64]:
        """The column where each unit's frames begin, for packed utterances."""
        offsets = accumulate(num_frames, initial=0)
        spans = [
            np.arange(self.num_units(count)) * self.stride + offset
            for count, offset in zip(num_frames, offsets, strict=False)
        ]
        return np.concatenate([np.empty(0, np.int64), *spans])

    def _weights_on(self, device: torch.device) -> _Weights:
        if device not in self._on:
            self._on[device] = self._float.to(device=device)
        return self._on[device]


class _Weights:
    """Centres and projection in one dtype on one device.

    The nearest centre is the one of the largest score z.c - |c|^2 / 2.
    """

    def __init__(self, centres: Tensor, parts: list[Tensor], bias: Tensor) -> None:
        self.centres, self.parts, self.bias = centres, parts, bias  # (K, P), S of (P, D), (P,)
        self.half_squares = centres.square().sum(1, keepdim=True) / 2  # (K, 1)
        self.longest = centres.norm(dim=1).max()
        self.sizes = [part.norm() for part in parts]

    def to(self, **where: Any) -> _Weights:
        parts = [part.to(**where) for part in self.parts]
        return _Weights(self.centres.to(**where), parts, self.bias.to(**where))

    def best(self, frames: list[Tensor], doubt: float) -> tuple[Tensor, Tensor]:
        """S of (D, U) -> the best centre (U,), and whether rounding leaves another one open."""
        scores, size = self._scores(frames)
        top, best = scores.max(0)
        rivals = (scores >= top - doubt * size).sum(0)
        return best, rivals != 1  # with NaN there is none

    def first_best(self, frames: list[Tensor]) -> Tensor:
        """S of (D, U) float64 -> the first of the best centres (U,)."""
        scores, size = self._scores(frames)
        return (scores >= scores.max(0).values - TIE * size).int().argmax(0)

    def _scores(self, frames: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Scores (K, U), and the size (U,) of what was added up for them."""
        projected = self.bias[:, None] if self.parts else frames[0]
        size = self.bias.norm()
        for part, norm, columns in zip(self.parts, self.sizes, frames, strict=False):
            projected = torch.addmm(projected, part, columns)
            size = size + norm * columns.norm(dim=0)
        scores = torch.addmm(self.half_squares, self.centres, projected, beta=-1)
        return scores, self.longest * (size + projected.norm(dim=0) + self.longest)


def _gathered(values: Tensor, where: Tensor, stride: int, dtype: torch.dtype) -> list[Tensor]:
    """The frames (D, U) at `where`, those behind them, and so on: as many as the stride."""
    where = where.to(values.device, non_blocking=True)
    return [values.index_select(1, where + ahead).to(dtype) for ahead in range(stride)]


def _first_of_equal(rows: Tensor) -> Tensor:
    """Indices of the rows without those that equal an earlier one."""
    first: dict[bytes, int] = {}
    for index, row in enumerate((rows.float() + 0.0).numpy()):  # -0 becomes 0
        first.setdefault(row.tobytes(), index)
    return torch.tensor(list(first.values()))


def fingerprint(kind: str, *weights: Tensor) -> str:
    """`KIND:` and a hash, 32 hex digits, of float32 weights, for `Quantizer.fingerprint`."""
    whole = hashlib.blake2b(digest_size=16)
    for weight in weights:
        whole.update(f"{tuple(weight.shape)}".encode())
        whole.update(weight.float().contiguous().numpy().data)
    return f"{kind}:{whole.hexdigest()}"
