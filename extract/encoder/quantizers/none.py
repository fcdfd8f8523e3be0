"""Features alone."""

from __future__ import annotations

from dataclasses import dataclass

from extract.encoder.quantizer import Quantizer, QuantizerOptions


@dataclass
class Options(QuantizerOptions):
    """No units."""

    kind: str = "none"


def load(options: Options, width: int) -> Quantizer | None:
    """Nothing."""
    return None
