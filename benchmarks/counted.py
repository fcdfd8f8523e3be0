"""Counts the encoder's memory traffic on a card, without a card: `python -m benchmarks.counted`.

Torch's fake tensors have device, dtype and shape but no numbers, so the forward of a batch on a
card runs on any machine, in a second. This counts the bytes that its operations read and write, as
if there were no cache, and the bytes of tensors alive at once, without what libraries allocate
internally. Counts show where to optimise; `benchmarks/gpu.py` measures.
"""

import weakref
from collections import Counter
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.common import Row, run_alone
from extract.encoder import encoder
from extract.encoder.first_layer import FirstLayer
from extract.encoder.packing import Attention, attend_padded, attend_varlen
from extract.models.families import hubert
from tests.support.card import CARD, encoder_on_card, fake_card

RATE_HZ = 16_000
CLIP_S, BATCH_S = 5, 600
BASE = hubert.architecture({})


class Count(TorchDispatchMode):
    """Counts bytes moved by each operation on the card, and the peak of bytes alive."""

    def __init__(self) -> None:
        super().__init__()
        self.moved: Counter[str] = Counter()
        self.alive = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs one operation and counts it."""
        result = func(*args, **(kwargs or {}))
        made = self._on_card(result)
        for tensor in made:
            self._meet(tensor.untyped_storage())
        arguments, name = func._schema.arguments, func._schema.name.removeprefix("aten::")
        read = self._on_card((args, kwargs))
        changes = any(a.alias_info is not None and a.alias_info.is_write for a in arguments)
        storages = {tensor.untyped_storage()._cdata for tensor in read}
        is_view = not changes and all(x.untyped_storage()._cdata in storages for x in made)
        if made and not is_view and name not in {"empty", "prim::device"}:
            if name == "copy_" or any(argument.is_out for argument in arguments):
                written = {id(tensor) for tensor in made}  # also an argument, but not read
                read = [tensor for tensor in read if id(tensor) not in written]
            self.moved[name] += sum(x.numel() * x.element_size() for x in (*read, *made))
        return result

    @staticmethod
    def _on_card(tree: Any) -> list[Tensor]:
        tensors = (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))
        return [tensor for tensor in tensors if tensor.device == CARD]

    def _meet(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.alive += size
            self.peak = max(self.peak, self.alive)
            weakref.finalize(storage, self._part, key, size)

    def _part(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.alive -= size


def count(precision: str, attention: Attention) -> tuple[Count, Count]:
    """Counts of the forward of a batch of BATCH_S seconds, and of its first layer's steps."""
    lengths = [CLIP_S * RATE_HZ] * (BATCH_S // CLIP_S)
    whole, first = Count(), Count()
    in_steps = FirstLayer.in_steps

    def counted(layer: FirstLayer, *arguments: Tensor) -> Tensor:
        with first:
            return in_steps(layer, *arguments)

    with fake_card(attention), patch.object(FirstLayer, "in_steps", counted):
        model = encoder_on_card(BASE, precision)
        waveforms = torch.empty(len(lengths), max(lengths), device=CARD)
        with whole:
            model._compute(waveforms, lengths)
    return whole, first


def measure() -> list[Row]:
    """Rows for bytes moved, memory and operations for each second of audio."""
    each = partial(Row.plain, unit=" MB")
    rows = []
    for precision, attention in (("fp16", attend_varlen), ("fp32", attend_padded)):
        whole, first = count(precision, attention)
        steps, total = (sum(x.moved.values()) / BATCH_S / 1e6 for x in (first, whole))
        largest = ", ".join(
            f"{name} {moved / BATCH_S / 1e6:.1f}" for name, moved in whole.moved.most_common(5)
        )
        title = f"counted on a fake card, {precision}, a second of audio:"
        rows.append(each(f"{title} bytes moved, by steps", total, note=largest))
        rows.append(
            each(
                f"{title} of it the first layer",
                steps,
                note=f"as one kernel {_kernel_bytes(precision) / 1e6:.1f} MB",
            )
        )
        rows.append(each(f"{title} tensors alive at once", whole.peak / BATCH_S / 1e6))
    work = BASE.flops(CLIP_S * RATE_HZ) / CLIP_S
    rows.append(Row.plain("counted, a second of audio: arithmetic", work / 1e9, " GFLOP"))
    return rows


def _kernel_bytes(precision: str) -> float:
    """Bytes that the kernel reads and writes for a second of audio."""
    (channels, _kernel, stride), *_later = BASE.conv
    return 4 * RATE_HZ + RATE_HZ / stride * channels * encoder.PRECISIONS[precision].itemsize


if __name__ == "__main__":
    run_alone(__doc__, measure)
