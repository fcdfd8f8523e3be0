"""slamkit's features: a JSON object a line, with repeats merged and their durations in frames.

Source: slamkit's cli/extract_features.py and `UnitTokeniser.audio_represent`, which write it;
cli/prepare_tokens.py reads it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from extract.encoder.unit_format import Rows, merged, numbered

if TYPE_CHECKING:
    from extract.shard import Shard


def file_name(shard: Shard) -> str:
    """`units.jsonl`."""
    return numbered(shard, ".jsonl")


def text(rows: Rows, dedup: bool | None) -> Iterator[str]:
    """`{"units": [12, 7], "duration": [2, 1], "file_name": "a.wav"}` for each one with units.

    If `dedup` is False each unit has a duration of 1, as the tool has it.
    """
    for id_, said in rows:
        if not said:
            continue
        units, durations = (
            (said.split(), [1] * len(said.split())) if dedup is False else merged(said)
        )
        line = {"units": [*map(int, units)], "duration": durations, "file_name": id_}
        yield json.dumps(line) + "\n"
