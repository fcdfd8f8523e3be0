"""What the trainer that reads a layout leaves out of it, without a word."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from extract.frames import RECORDING_RATE_HZ
from extract.values import SAVED

MAX_NAMED = 3  # recordings that are named for each reason

WAV_HEADER = 44  # bytes
_HEADER_S = WAV_HEADER / (2 * RECORDING_RATE_HZ)
GPT_SOVITS_MORE_THAN_S, GPT_SOVITS_LESS_THAN_S = 0.6, 54.0


def dropped(layout: str, duration_s: float) -> str | None:
    """Why the trainer that reads a layout leaves out a recording; None if it takes it.

    GPT-SoVITS's takes 0.6 s < d < 54 s, where d is the size of the file in `5-wav32k` over 64,000
    bytes a second: its header counts as 0.7 ms.
    Source: GPT_SoVITS/module/data_utils.py, `TextAudioSpeakerLoader`.

    Args:
        layout: name of the layout.
        duration_s: of the training audio.
    """
    if layout != "gpt_sovits":
        return None
    seconds = duration_s + _HEADER_S
    if seconds <= GPT_SOVITS_MORE_THAN_S:
        return f"{GPT_SOVITS_MORE_THAN_S:g} s or shorter"
    return None if seconds < GPT_SOVITS_LESS_THAN_S else f"{GPT_SOVITS_LESS_THAN_S:g} s or longer"


class Row(NamedTuple):
    """Saved recordings that a trainer leaves out for one reason."""

    reason: str
    number: int
    names: tuple[str, ...]  # the ids of the first ones


@dataclass
class LeftOut:
    """Counts the saved recordings that a trainer leaves out; for one thread at a time.

    Args:
        layout: name of the layout; "" where no trainer reads what is saved.
    """

    layout: str = ""
    _numbers: dict[str, int] = field(default_factory=dict)
    _names: dict[str, list[str]] = field(default_factory=dict)

    def add(self, record: Mapping[str, Any]) -> None:
        """Counts a record of the ledger, if it is of a saved recording that is left out."""
        duration_s = record.get("duration_s")
        if record.get("status") != SAVED or duration_s is None:
            return
        if (reason := dropped(self.layout, duration_s)) is None:
            return
        self._numbers[reason] = self._numbers.get(reason, 0) + 1
        names = self._names.setdefault(reason, [])
        if len(names) < MAX_NAMED:
            names.append(record["id"])

    def rows(self) -> tuple[Row, ...]:
        """A row for each reason, in the order of the reasons."""
        numbers = sorted(self._numbers.items())
        return tuple(Row(reason, number, tuple(self._names[reason])) for reason, number in numbers)
