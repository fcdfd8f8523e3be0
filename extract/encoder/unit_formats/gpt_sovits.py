"""A part of GPT-SoVITS's `6-name2semantic.tsv`: name, tab, `12 7 7`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from extract.encoder.unit_format import Rows, rows_with

if TYPE_CHECKING:
    from extract.shard import Shard


def file_name(shard: Shard) -> str:
    """The file of a part: 3-get-semantic.py names it by `i_part`."""
    return f"6-name2semantic-{shard.index}.tsv"


def text(rows: Rows, dedup: bool | None) -> Iterator[str]:
    """Lines with a line feed between them and none behind the last, as the tool writes them.

    An utterance without tokens has no line: the trainer cannot read one.
    """
    between = ""
    for id_, units in rows_with(rows, dedup):
        if units:
            yield f"{between}{id_}\t{units}"
            between = "\n"
