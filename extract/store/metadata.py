"""`metadata.json`: what a store's numbers are made of, so that two kinds never mix in one folder.

The identity holds everything that changes a feature or a WAV, and nothing that does not: no device,
no workers, no batch size.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum
from itertools import islice
from pathlib import Path
from typing import Any

from extract.files import read_whole, replace_whole
from extract.frames import HUBERT_STACK, ConvStack
from extract.manifest.folders import METADATA
from extract.manifest.paths import same_place
from extract.models.wanted import FinalNorm, Wanted
from extract.text import printable
from extract.values import AudioSettings

NAME = METADATA
FORMAT = 1
SOURCE = "dataset.path"
NO_INPUT_NORM = "none"
FIRST_SETTINGS = ("max_peak", "maxx", "alpha", "min_duration_s", "max_duration_s", "resampler")
GATES = (
    "max_peak",
    "min_duration_s",
    "max_duration_s",
)  # decide which recordings are saved, not their numbers

WAYS_OUT = (
    "Ways out: another store.dir=DIR, the store's own settings, or overwrite=true "
    "to replace what is there."
)

WIDTH = 24  # characters of a value that a message shows
MAX_ROWS = 20  # of a message; a store's metadata may hold anything

Identity = dict[str, Any]


class Unreadable(ValueError):
    """A store's metadata is missing or damaged: what its numbers are made of is not known."""


def identity(
    audio: AudioSettings,
    *,
    weights: str,
    model: Wanted,
    precision: str,
    source: str | None,
    layout: str,
    input_norm: str = NO_INPUT_NORM,
) -> Identity:
    """Every setting that changes the saved numbers or their files, keyed by its option's name.

    A setting that is newer than the first release is left out where it changes nothing, so that
    earlier stores keep their identity. `source` is None in a store to which another list adds.
    """
    new = {"model.input_norm": input_norm, **_settings(audio)}
    first = {f"audio.{key}": new.pop(f"audio.{key}") for key in FIRST_SETTINGS}
    # A path need not be Unicode; JSON must be.
    where = {} if source is None else {SOURCE: printable(source)}
    return {
        **where,
        "model.weights": weights,
        **_of_model(model),
        "precision": precision,
        **first,
        "layout": layout,
        **{key: value for key, value in new.items() if value != LATER_SETTINGS[key]},
    }


def _of_model(wanted: Wanted) -> Identity:
    """What is taken of the model. One layer is a number, several are a list in their order."""
    layers = list(wanted.layers)
    settings: Identity = {"model.layer": layers[0] if len(layers) == 1 else layers}
    if wanted.projected:
        settings["model.projection"] = True
    if not wanted.final_norm:
        settings["model.final_norm"] = FinalNorm.fairseq.name
    return settings


def _settings(audio: AudioSettings) -> dict[str, Any]:
    """Settings as JSON has them, by the options' names."""
    values = {f"audio.{field.name}": getattr(audio, field.name) for field in fields(audio)}
    return {key: _plain(value) for key, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.name
    return list(value) if isinstance(value, tuple) else value


# What a store that does not say it was made with.
LATER_SETTINGS = {
    "model.input_norm": NO_INPUT_NORM,
    **{
        key: value
        for key, value in _settings(AudioSettings()).items()
        if key.removeprefix("audio.") not in FIRST_SETTINGS
    },
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
        """A table of the settings that differ, in the store and in this run, and the ways out."""
        rows = [("", "in the store", "this run")]
        for key, (theirs, ours) in islice(self.differing.items(), MAX_ROWS):
            rows.append((_cut(printable(key)), *shown_apart(theirs, ours)))
        if len(self.differing) > MAX_ROWS:
            rows.append((f"and {len(self.differing) - MAX_ROWS} more", "", ""))
        width = max(len(key) for key, _theirs, _ours in rows)
        table = [f"  {key:<{width}}  {one:>{WIDTH}}  {two:>{WIDTH}}" for key, one, two in rows]
        where = printable(str(directory))
        head = f"{where}: made with other settings; one store holds one kind of features"
        return "\n".join([head, *table, WAYS_OUT])


def compare(store: Identity | None, run: Identity) -> Comparison:
    """Keys whose values differ; none where the store is new.

    A store to which another list adds may name its first one: earlier versions wrote that.
    """
    if store is None:
        return Comparison({})
    if SOURCE not in run:
        store = {key: value for key, value in store.items() if key != SOURCE}
    elif same_place(store.get(SOURCE), run[SOURCE]):
        store = {**store, SOURCE: run[SOURCE]}
    store, run = {**LATER_SETTINGS, **store}, {**LATER_SETTINGS, **run}
    keys = [*run, *(key for key in store if key not in run)]
    return Comparison(
        {key: (store.get(key), run.get(key)) for key in keys if store.get(key) != run.get(key)}
    )


def read(directory: Path) -> dict[str, Any] | None:
    """A store's metadata; None where it has none.

    Raises:
        Unreadable: it is damaged, or no run wrote it.
    """
    path = directory / NAME
    try:
        data = json.loads(read_whole(path).decode("utf8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unreadable(_unreadable(path, str(error.strerror))) from None
    except (ValueError, RecursionError) as error:
        raise Unreadable(_unreadable(path, str(error))) from None
    if not isinstance(data, dict) or not isinstance(data.get("identity"), dict):
        raise Unreadable(_unreadable(path, "no identity in it"))
    if type(data.get("format")) is not int or data["format"] != FORMAT:
        raise Unreadable(_unreadable(path, f"another format than {FORMAT}"))
    return data


def _unreadable(path: Path, what: str) -> str:
    return f"{printable(str(path))}: {printable(what)}; needed the metadata of a store"


def write(
    directory: Path,
    run: Identity,
    made_with: Mapping[str, str],
    stack: ConvStack = HUBERT_STACK,
    *,
    fsync: bool = True,
) -> None:
    """Replaces a store's metadata, whole or not at all."""
    data = {
        "format": FORMAT,
        "identity": run,
        "made_with": dict(made_with),
        "frames": frames(stack),
    }
    text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    replace_whole(directory / NAME, text.encode("utf8", "backslashreplace"), fsync=fsync)


def frames(stack: ConvStack) -> dict[str, Any]:
    """Sample rate, hop and convolutions, from which a reader computes the time of each frame.

    No part of the identity, since the fingerprint of the weights has the convolutions in it.
    """
    return {"sample_rate": stack.sample_rate, "hop": stack.hop, "conv_layers": stack.layers}


def shown_apart(theirs: Any, ours: Any) -> tuple[str, str]:
    """Two values that differ, printable, at most `WIDTH` characters each, and never alike.

    Long ones are shown from where they differ: two paths may share their beginning.
    """
    texts = printable(str(theirs)), printable(str(ours))
    if texts[0] == texts[1]:  # 1 and "1", null and "None"
        texts = printable(repr(theirs)), printable(repr(ours))
    if _look(texts[0]) == _look(texts[1]):  # an accent as one character, or as two
        texts = ascii(theirs), ascii(ours)
    pairs = enumerate(zip(*texts, strict=False))
    same = next((at for at, (one, two) in pairs if one != two), min(map(len, texts)))
    return _cut(texts[0], same), _cut(texts[1], same)


def _look(text: str) -> str:
    """`text` with an accented letter as one character, since both forms look alike."""
    return unicodedata.normalize("NFKC", text)


def _cut(text: str, start: int = 0) -> str:
    """`text` in at most `WIDTH` characters, with the one at `start` among them."""
    if len(text) <= WIDTH:
        return text
    if start < WIDTH - 3:
        return f"{text[: WIDTH - 3]}..."
    tail = text[start - 6 :]
    return f"...{tail}" if len(tail) <= WIDTH - 3 else f"...{tail[: WIDTH - 6]}..."
