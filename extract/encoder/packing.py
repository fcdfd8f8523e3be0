"""Packing (valid frames of all utterances end to end), and attention within each utterance.

Shapes: B utterances, T frames of the longest, N frames of all, H heads, Dh numbers a head.
"""

import logging
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import accumulate, pairwise

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

log = logging.getLogger(__name__)

# Bytes of a value: most frames of an utterance whose attention runs as two products on a CPU. For
# longer ones torch's fused kernel in float32 is faster.
PRODUCTS_FRAMES = {2: 512, 4: 300}
HALF_STEP_FRAMES = 32  # products in half precision are padded to multiples of it: fewer sizes


def block_sizes(total: int, block: int, step: int) -> list[int]:
    """Sizes of the blocks into which `total` rows are cut; the last block may be partly filled.

    All blocks have `block` rows but the last, which has half to one and a half times as many, a
    multiple of `step`. So there are few sizes: on a CPU oneDNN keeps about 0.7 MB for each number
    of rows that a weight was ever multiplied with. A smaller last block would be slow, since it
    reads all weights for a few rows.
    """
    total = multiple(total, step)
    full = max(0, (total - block // 2) // block)
    return [block] * full + [total - full * block]


def multiple(count: int, step: int) -> int:
    """`count` rounded up to a multiple of `step`."""
    return -(-count // step) * step


class Packing:
    """Maps between packed (N, ...) and padded (B, T, ...) frames of utterances of `lengths` frames.

    Indices are computed in numpy on the host, so that the host never waits for the device.
    """

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        self.lengths = list(lengths)
        self.longest = max(lengths)
        self.offsets = [0, *accumulate(lengths)]
        self.device = device

    def slices(self) -> list[slice]:
        """Every utterance's rows."""
        return [slice(*ends) for ends in pairwise(self.offsets)]

    def to_device(self, array: NDArray[np.generic]) -> Tensor:
        """Copies a small array to the device; does not wait for the copy."""
        tensor = torch.from_numpy(array)
        if self.device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)

    @cached_property
    def cumulative(self) -> Tensor:
        """(B + 1,) int32: the row where each utterance starts, and N."""
        return self.to_device(np.array(self.offsets, np.int32))

    @property
    def equal(self) -> bool:
        """Whether all lengths agree: then padded and packed are one."""
        return min(self.lengths) == self.longest

    @cached_property
    def _valid(self) -> NDArray[np.bool_]:
        """(B, T), True where there is a frame."""
        return np.arange(self.longest) < np.array(self.lengths)[:, None]

    @cached_property
    def mask(self) -> Tensor | None:
        """(B, 1, 1, T), True where there is a frame to attend to; None where all lengths agree."""
        return None if self.equal else self.to_device(self._valid)[:, None, None, :]

    @cached_property
    def index(self) -> Tensor:
        """(N,) rows of the packed frames among the B T padded ones."""
        return self.to_device(np.flatnonzero(self._valid))

    def pad(self, packed: Tensor) -> Tensor:
        """(N, ...) -> (B, T, ...), zeros past each utterance's end."""
        batch = len(self.lengths)
        if not self.equal:
            padded = packed.new_zeros(batch * self.longest, *packed.shape[1:])
            packed = padded.index_copy_(0, self.index, packed)
        return packed.view(batch, self.longest, *packed.shape[1:])

    def unpad(self, padded: Tensor) -> Tensor:
        """(B, T, ...) -> (N, ...)."""
        flat = padded.flatten(0, 1)
        return flat if self.equal else flat.index_select(0, self.index)


# Blocks (M, 3, H, Dh) of queries, keys and values that hold N rows end to end -> (N, H, Dh).
Attention = Callable[[Sequence[Tensor], Packing], Tensor]


def gathered(blocks: Sequence[Tensor], rows: slice) -> Tensor:
    """`rows` of the blocks' concatenation; a view if one block holds all of them."""
    parts, start = [], 0
    for block in blocks:
        stop = start + len(block)
        if rows.start < stop and start < rows.stop:
            parts.append(block[max(rows.start - start, 0) : rows.stop - start])
        start = stop
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def attend_each(qkv: Sequence[Tensor], packing: Packing) -> Tensor:
    """Attention one utterance at a time, without a padding mask; scores in float32."""
    first = qkv[0]
    contexts = first.new_empty(packing.offsets[-1], *first.shape[2:])
    most = PRODUCTS_FRAMES[first.element_size()]
    for rows in packing.slices():
        query, key, value = gathered(qkv, rows).unbind(1)
        q, k = (x.float().transpose(0, 1) for x in (query, key))
        attend = _by_products if q.shape[1] <= most else _in_one_kernel
        contexts[rows] = attend(q, k, value.transpose(0, 1)).transpose(0, 1)
    return contexts


def _by_products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention as two products: q, k, v (H, T, Dh) -> (H, T, Dh), with (H, T, T) scores."""
    scores = torch.baddbmm(q.new_zeros(1, 1, 1), q, k.mT, beta=0, alpha=q.shape[2] ** -0.5)
    weights = scores.softmax(-1)
    return torch.bmm(weights, v) if v.dtype == weights.dtype else _half_product(weights, v)


def _half_product(weights: Tensor, v: Tensor) -> Tensor:
    """(H, T, T) float32 times (H, T, Dh) half precision; T is padded so that sizes are few."""
    heads, frames, size = v.shape
    padded = multiple(frames, HALF_STEP_FRAMES)
    rounded = v.new_zeros(heads, padded, padded)
    rounded[:, :frames, :frames] = weights
    values = v.new_zeros(heads, padded, size)
    values[:, :frames] = v
    return torch.bmm(rounded, values)[:, :frames]


def _in_one_kernel(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention in torch's fused kernel, whose memory does not grow with T squared."""
    return F.scaled_dot_product_attention(q[None], k[None], v.float()[None])[0]


def attend_padded(qkv: Sequence[Tensor], packing: Packing) -> Tensor:
    """Attention over the padded batch with a padding mask on the keys."""
    rows = slice(0, packing.offsets[-1])
    q, k, v = (packing.pad(x).transpose(1, 2) for x in gathered(qkv, rows).unbind(1))
    context = F.scaled_dot_product_attention(q, k, v, attn_mask=packing.mask)
    return packing.unpad(context.transpose(1, 2))


def attend_varlen(qkv: Sequence[Tensor], packing: Packing) -> Tensor:
    """Attention over the packed batch by torch's variable-length kernel (CUDA, half precision)."""
    from torch.nn.attention.varlen import varlen_attn

    query, key, value = gathered(qkv, slice(0, packing.offsets[-1])).unbind(1)
    ends, longest = packing.cumulative, packing.longest
    context = varlen_attn(query, key, value, ends, ends, longest, longest)
    assert isinstance(context, Tensor)  # not the pair with the log-sum-exp
    return context


@torch.inference_mode()
def choose_attention(
    device: torch.device, dtype: torch.dtype, num_heads: int, head_size: int
) -> Attention:
    """The fastest attention for device and dtype.

    `attend_varlen` is tried on a small input; if it fails or differs from `attend_padded`, that one
    is returned.
    """
    if device.type != "cuda":
        return attend_each
    if dtype == torch.float32:
        return attend_padded
    packing = Packing([3, 70, 129], device)
    qkv = torch.randn(packing.offsets[-1], 3, num_heads, head_size, device=device, dtype=dtype)
    try:
        error = attend_varlen([qkv], packing) - attend_padded([qkv], packing)
        worst = float(error.abs().max())
    except (ImportError, RuntimeError) as failure:
        log.warning("variable-length attention does not work here, using a mask: %s", failure)
        return attend_padded
    if not worst <= 2e-2:  # NaN included
        log.warning("variable-length attention is off by %.1e here, using a mask", worst)
        return attend_padded
    return attend_varlen
