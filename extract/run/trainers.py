"""What a tool's trainer drops in silence, from an utterance's duration."""

from __future__ import annotations

SHORTEST_S, LONGEST_S = 0.6, 54.0  # GPT-SoVITS, module/data_utils.py: kept if between the two


def dropped(layout: str, duration_s: float) -> str | None:
    """Why the trainer that reads a layout drops an utterance; None if it keeps it."""
    if layout != "gpt_sovits":
        return None
    if duration_s <= SHORTEST_S:
        return f"{SHORTEST_S:g} s or shorter"
    return f"{LONGEST_S:g} s or longer" if duration_s >= LONGEST_S else None
