"""GSLM's `id|12 12 7`, a line a recording.

Source: fairseq's examples/textless_nlp/gslm, speech2unit/clustering/quantize_with_kmeans.py, which
writes it, and unit2speech/utils.py, `load_quantized_audio_from_file`, which reads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from extract.encoder.unit_format import Rows, numbered, rows_with

if TYPE_CHECKING:
    from extract.shard import Shard


def file_name(shard: Shard) -> str:
    """`units.txt`."""
    return numbered(shard, ".txt")


def text(rows: Rows, dedup: bool | None) -> Iterator[str]:
    """A line for each recording with units: the reader fails on a line without them.

    `|` in an id is `%7C`: the reader splits a line at each of them.
    """
    for id_, units in rows_with(rows, dedup):
        if units:
            yield f"{id_.replace('|', '%7C')}|{units}\n"
