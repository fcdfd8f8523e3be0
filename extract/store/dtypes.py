"""Features in the dtype in which a store saves them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from extract.values import Features

BLOCK = 16_384  # numbers that torch converts in the calling thread; of more, in a team of threads


def converted(features: Features, name: str) -> Features:
    """The same features in the dtype `name`; in float32 where they do not fit into that.

    They lie in memory as they did: `values.mT` is contiguous.
    """
    dtype: torch.dtype = getattr(torch, name)
    if features.values.dtype == dtype:
        return features
    values, fits = _cast(features.values, dtype)
    if not fits:
        values, _fits = _cast(features.values, torch.float32)
    return replace(features, values=values)


def _cast(values: Tensor, dtype: torch.dtype) -> tuple[Tensor, bool]:
    """(layers, num_frames, hidden_size) in another dtype, and whether all of it is finite."""
    found = values.mT.reshape(-1)
    cast, fits = torch.empty(found.shape, dtype=dtype), True
    for start in range(0, len(found), BLOCK):
        block = cast[start : start + BLOCK]
        block.copy_(found[start : start + BLOCK])
        fits = fits and bool(block.isfinite().all())
    return cast.view(values.mT.shape).mT, fits
