"""k-means units, a nearest centre for each frame: quantizer=kmeans quantizer.path=FILE

FILE is of `python -m extract kmeans`, or of another tool: fairseq's, GSLM's and HuBERT's `km.bin`.

torch is imported where it is needed: `--help` reads the options without it.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from pathlib import Path

from extract.encoder.quantizer import Quantizer, QuantizerOptions
from extract.fields import location
from extract.text import printable

log = logging.getLogger(__name__)


@dataclass
class Options(QuantizerOptions):
    """The nearest of the centres to each frame: 50 units a second."""

    kind: str = "kmeans"
    path: str = location()  # centres: an .npy, or what joblib dumped of scikit-learn's k-means


def load(options: Options, width: int) -> Quantizer:
    """The quantizer of a file of centres; no code of the file is run.

    Raises:
        ValueError: it is no such file, or for features of another width; names it.
    """
    from extract.encoder.centres import read_centres
    from extract.encoder.nearest import Nearest

    try:
        centres = read_centres(Path(options.path))
    except ValueError as error:
        raise ValueError(f"{printable(options.path)}: {error}") from None
    if centres.values.shape[1] != width:
        raise ValueError(
            f"{printable(options.path)}: centres of {centres.values.shape[1]} numbers, and a frame "
            f"has {width}; needed centres of this model's features"
        )
    if not centres.made_for:
        _say_unknown(printable(options.path))
    return Quantizer(centres.fingerprint, Nearest(centres.values), centres.made_for)


@functools.cache
def _say_unknown(path: str) -> None:
    """Says it once, not for every job of a sweep."""
    log.warning("%s: does not say of which features its centres are; it is not checked", path)
