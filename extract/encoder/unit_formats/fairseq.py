"""fairseq's `.km`: a line of units for each line of a tsv, without ids.

Source: examples/hubert/simple_kmeans/dump_km_label.py, which writes it, and
fairseq/data/audio/hubert_dataset.py, `load_label`, which asserts that there are as many lines as
the tsv has recordings.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from extract.encoder.unit_format import Rows, numbered, rows_with

if TYPE_CHECKING:
    from extract.shard import Shard

FOLLOWS_LIST = True


def file_name(shard: Shard) -> str:
    """`units.km`."""
    return numbered(shard, ".km")


def text(rows: Rows, dedup: bool | None) -> Iterator[str]:
    """A line for each row, an empty one where there are no units."""
    for _id, units in rows_with(rows, dedup):
        yield f"{units or ''}\n"
