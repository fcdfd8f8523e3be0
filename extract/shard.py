"""One process's part of a job that several processes or machines share."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from extract.fields import number

if TYPE_CHECKING:
    from extract.manifest.manifest import Manifest

_GOLDEN = 0x9E3779B1
# What `Shard.ledger_name` may be
LEDGER_NAME = re.compile(r"ledger(?:\.(?:0|[1-9]\d*)-of-[1-9]\d*)?\.jsonl")


@dataclass
class Shard:
    """This process's part of a job that several processes or machines share.

    The schema of the group `shard`. Which part an utterance is in depends on its id alone.
    """

    index: int = number(0, at_least=0)  # which part, from 0
    count: int = number(1, at_least=1, at_most=1_000_000)  # how many parts

    def __str__(self) -> str:
        """`0-of-4`, as names of files have it."""
        return f"{self.index}-of-{self.count}"

    @property
    def ledger_name(self) -> str:
        """File name of this part's ledger; that of an undivided job is `ledger.jsonl`."""
        return "ledger.jsonl" if self.count == 1 else f"ledger.{self}.jsonl"

    def owns(self, id: str) -> bool:  # noqa: A002 - the ledger's own word
        """Whether an utterance is in this part."""
        return index_of(id, self.count) == self.index

    def part_of(self, manifest: Manifest) -> Manifest:
        """The recordings and failures of this part."""
        if self.count == 1:
            return manifest
        mine = [number for number, id_ in enumerate(manifest.ids) if self.owns(id_)]
        failures = tuple(some for some in manifest.failures if self.owns(some.recording.id))
        return replace(manifest.subset(mine), failures=failures)

    def part_of_ids(self, ids: Sequence[str | None]) -> Sequence[str | None]:
        """The ids of this part; of an undivided job all, with those that are None."""
        return ids if self.count == 1 else [id_ for id_ in ids if id_ and self.owns(id_)]

    def all(self) -> list[Shard]:
        """All parts of the job that this is one of."""
        return [Shard(index, self.count) for index in range(self.count)]


def index_of(id: str, count: int) -> int:  # noqa: A002
    """Which of `count` parts an utterance is in, from 0.

    The low bits of a CRC-32 follow few bits of a short name: by its remainder 16 of `0.wav` to
    `19.wav` would be in one of two parts. Multiplied by 2^32 over the golden ratio (Knuth, The Art
    of Computer Programming, 6.4), its high bits follow all of them.
    """
    if count == 1:
        return 0
    crc = zlib.crc32(id.encode("utf8", "surrogateescape"))
    return ((crc * _GOLDEN) & 0xFFFFFFFF) * count >> 32
