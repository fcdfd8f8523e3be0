"""`metadata.json`: what a store's numbers are made of, so that two kinds never mix in one folder.

The identity holds everything that changes a feature or a WAV, and nothing that does not: no device,
no workers, no batch size.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from extract.audio import AudioSettings
from extract.folders import same_place
from extract.ids import printable
from extract.store import LAYOUT

NAME = "metadata.json"
FORMAT = 1
GATES = ("max_peak", "min_duration_s", "max_duration_s")  # decide who is saved, not what is saved

WAYS_OUT = (
    "Ways out: another store.dir=DIR, the store's own settings, or overwrite=true "
    "to replace what is there."
)

Identity = dict[str, Any]


def identity(
    audio: AudioSettings, *, weights: str, layer: int, precision: str, source: str
) -> Identity:
    """Everything that changes the numbers, flat, in the config's words."""
    settings = {f"audio.{key}": value for key, value in asdict(audio).items()}
    return {
        "dataset.path": printable(source),  # a path need not be Unicode; JSON must be
        "model.weights": weights,
        "model.layer": layer,
        "precision": precision,
        **settings,
        "layout": LAYOUT,
    }


@dataclass(frozen=True)
class Comparison:
    """How a store's identity differs from a run's."""

    differing: dict[str, tuple[Any, Any]]  # key -> (in the store, in this run)

    @property
    def only_gates(self) -> bool:
        """Whether the same recordings would give the same numbers, but not all the same pass."""
        return bool(self.differing) and set(self.differing) <= {f"audio.{gate}" for gate in GATES}

    def message(self, directory: Path) -> str:
        """Both sides, and the ways out."""
        width = max(len(key) for key in self.differing)
        rows = [
            f"  {key:<{width}}  {_short(theirs)!s:>24}  {_short(ours)!s:>24}"
            for key, (theirs, ours) in self.differing.items()
        ]
        head = f"  {'':<{width}}  {'in the store':>24}  {'this run':>24}"
        return "\n".join(
            [
                f"{directory}: made with other settings; one store holds one kind of features",
                head,
                *rows,
                WAYS_OUT,
            ]
        )


def compare(store: Identity | None, run: Identity) -> Comparison:
    """Keys whose values differ; none where the store is new."""
    if store is None:
        return Comparison({})
    if same_place(store.get("dataset.path"), run.get("dataset.path")):
        store = {**store, "dataset.path": run["dataset.path"]}
    keys = [*run, *(key for key in store if key not in run)]
    return Comparison(
        {key: (store.get(key), run.get(key)) for key in keys if store.get(key) != run.get(key)}
    )


def read(directory: Path) -> dict[str, Any] | None:
    """A store's metadata; None where it has none.

    Raises:
        ValueError: it is not ours to read.
    """
    path = directory / NAME
    try:
        data = json.loads(path.read_text("utf8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path}: {error}; needed the metadata of a store") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ValueError(f"{path}: another format than {FORMAT}; choose another store.dir")
    return data


def write(directory: Path, run: Identity, made_with: Mapping[str, str]) -> None:
    """Replaces a store's metadata, whole or not at all."""
    data = {"format": FORMAT, "identity": run, "made_with": dict(made_with)}
    temporary = directory / f".tmp-{NAME}-{os.getpid()}"
    temporary.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", "utf8")
    temporary.replace(directory / NAME)


def _short(value: Any) -> Any:
    return f"{value[:21]}..." if isinstance(value, str) and len(value) > 24 else value
