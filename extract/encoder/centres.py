"""Files of k-means centres: this package's, a bare `.npy`, or a scikit-learn model of another tool.

    NAME.npy    (clusters, dimensions) float32
    NAME.json   {"format": 1, "centres": FINGERPRINT, "made_for": KIND, ...} beside it

KIND is that of the features (`extract.store.kind`), by the names of the settings. The fingerprint
tells whether the JSON is of these centres.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from extract.encoder.nearest import fingerprint
from extract.files import replace_whole
from extract.models.formats.estimators import is_dump, read_array
from extract.models.formats.files import file_in, read_json, start_of
from extract.text import shortened

FORMAT = 1
NPY = b"\x93NUMPY"
SUFFIX = ".npy"
OF_SKLEARN = "cluster_centers_"


@dataclass(frozen=True)
class Centres:
    """Centres (clusters, dimensions) float32, and what is known of them."""

    values: Tensor
    about: Mapping[str, Any] = field(default_factory=dict)  # the JSON; empty where there is none

    @property
    def fingerprint(self) -> str:
        """What tells two sets of centres apart."""
        return fingerprint("kmeans", self.values)

    @property
    def made_for(self) -> Mapping[str, Any]:
        """The kind of features that they are of; empty where it is not known."""
        kind: Mapping[str, Any] = self.about.get("made_for", {})
        return kind


def read_centres(path: Path) -> Centres:
    """The centres in a file; no code of the file is run.

    Raises:
        ValueError: it cannot be read, or holds no finite centres, or its JSON is of other ones.
    """
    start = start_of(path, 16)
    if start.startswith(NPY):
        values = _checked(path, _npy(path))
        return _with_json(path, Centres(values))
    if is_dump(start):
        return Centres(_checked(path, read_array(path, OF_SKLEARN)))
    raise ValueError(
        f"{path.name} is no file of centres: it starts {start!r}; needed an .npy of numpy.save, or "
        "a scikit-learn model of joblib.dump"
    )


def write_centres(path: Path, values: NDArray[np.float32], about: Mapping[str, Any]) -> None:
    """Writes centres (clusters, dimensions) and what is known of them; each file whole.

    Args:
        path: ends in `.npy`.
        values: the centres.
        about: `made_for`, and what else a reader may want to know.

    Raises:
        OSError: a file cannot be written.
    """
    buffer = io.BytesIO()
    np.save(buffer, values)
    name = fingerprint("kmeans", torch.from_numpy(values))
    text = json.dumps({"format": FORMAT, "centres": name, **about}, indent=2) + "\n"
    replace_whole(path, buffer.getvalue())
    replace_whole(path.with_suffix(".json"), text.encode())


def _npy(path: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, allow_pickle=False)
    except Exception as error:  # damaged headers raise many kinds
        raise ValueError(f"{path.name} does not load: {shortened(str(error))}") from None
    return array


def _checked(path: Path, array: NDArray[Any]) -> Tensor:
    if array.ndim != 2 or not array.size or array.dtype.kind != "f":
        found = f"{array.dtype} of the shape {array.shape}"
        raise ValueError(f"{path.name}: {found}; needed floats, (clusters, dimensions)")
    values = torch.from_numpy(array.astype(np.float32, order="C"))
    if not bool(values.isfinite().all()):
        raise ValueError(f"{path.name}: not all are finite numbers; needed other centres")
    return values


def _with_json(path: Path, centres: Centres) -> Centres:
    """The centres with what the JSON beside them says, if it is one of this package's."""
    beside = file_in(str(path.parent), path.with_suffix(".json").name)
    about = read_json(beside) if beside else {}
    if not isinstance(about.get("made_for"), dict) or "centres" not in about:
        return centres
    if about.get("format") != FORMAT or about["centres"] != centres.fingerprint:
        raise ValueError(
            f"{path.name}: {beside and beside.name} beside it is of other centres; needed both of "
            "one run of `extract kmeans`, or the .npy alone"
        )
    return Centres(centres.values, about)
