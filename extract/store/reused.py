"""An utterance of a sweep whose features another store holds already.

No torch at run time: layouts are read without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from extract.store.layout import Kept, Layout
    from extract.values import Encoded, Recording

DTYPES = ("float16", "float32", "bfloat16")


DIGITS = 3  # of a sensitivity in the ledger


def rounded(sensitivity: float) -> float:
    """A `gain_sensitivity` as the ledger has it."""
    return float(f"{sensitivity:.{DIGITS}g}")


class NotReusable(Exception):
    """A store no longer holds the features that its line names."""


@dataclass(frozen=True)
class Reused:
    """One utterance, with the place of its features in another store of the same layout."""

    recording: Recording
    wav32k: Tensor  # (num_samples,) int16; empty where none is wanted
    donor: Layout
    kept: Kept  # where they are in it
    record: Mapping[str, Any]  # its line there, whose `dtype` is one of DTYPES
    shared: str  # name of the folder of the store for which they were computed
    gain_sensitivity: float  # the largest at any gain for which they stand

    def copied(self) -> Encoded:
        """The utterance with its features in memory, as an encoder gives them.

        Raises:
            NotReusable: they are gone or damaged.
        """
        import torch

        from extract.store.dtypes import converted
        from extract.values import Encoded, Features

        try:
            values = self.donor.read(self.kept)
            # After reading: a file that is replaced in between fails the checksum of the line.
            if not self.donor.intact(self.kept, checksum=True):
                raise NotReusable(f"{self.recording.id}: damaged in {self.shared}")
        except (OSError, ValueError) as error:
            raise NotReusable(f"{self.recording.id}: {error}") from None
        values = values.mT.clone(memory_format=torch.contiguous_format).mT
        features = Features(values, True, bool(self.record.get("retried_fp32")))
        return Encoded(self.recording, converted(features, self.record["dtype"]), self.wav32k)


@dataclass(frozen=True)
class SameFile:
    """A file of another store, of which a store's file is to be another name, or a copy."""

    path: str
    size: int  # bytes
    crc32: int
