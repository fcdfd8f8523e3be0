"""`metadata.json`: what a store's numbers are made of, so that two kinds never mix in one folder.

The identity holds everything that changes a feature or a WAV, and nothing that does not: no device,
no workers, no batch size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Any

from extract.files import read_whole, replace_whole
from extract.frames import HUBERT_STACK, ConvStack
from extract.manifest.folders import BESIDE, METADATA, Beside
from extract.models.wanted import FinalNorm, Wanted
from extract.store.layout import DType, TrainingAudio
from extract.store.subfolders import KEY as SUBFOLDERS
from extract.text import printable
from extract.urls import redacted
from extract.values import AudioSettings

NAME = METADATA
FORMAT = 1
SOURCE = "dataset.path"
NO_INPUT_NORM = "none"
AS_COMPUTED = DType.auto.name
_NONE: Mapping[str, Any] = {}
QUANTIZER = "quantizer"
FIRST_SETTINGS = ("max_peak", "maxx", "alpha", "min_duration_s", "max_duration_s", "resampler")
GATES = (
    "max_peak",
    "min_duration_s",
    "max_duration_s",
)  # decide which recordings are saved, not their numbers

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
    dtype: str | None = None,
    training_audio: bool = True,
    settings: Mapping[str, Any] = _NONE,
    quantizer: str | None = None,
    features: bool = True,
) -> Identity:
    """Every setting that changes the saved numbers or their files, keyed by its option's name.

    A setting that is newer than the first release is left out where it changes nothing, so that
    earlier stores keep their identity.

    Args:
        audio: the settings of the group `audio`.
        weights: fingerprint of the encoder's.
        model: what is taken of it.
        precision: the dtype in which features are computed.
        source: the one name of what is read.
        layout: the layout's name.
        input_norm: what becomes of waveforms before the encoder.
        dtype: in which features are saved; None: as they are computed.
        training_audio: whether it is saved, if `audio` has it made.
        settings: `Layout.settings`.
        quantizer: its fingerprint.
        features: whether they are saved, or units alone.
    """
    later = {"model.input_norm": input_norm, QUANTIZER: quantizer, "features": features}
    new = {**later, **_settings(audio)}
    new["store.dtype"] = AS_COMPUTED if dtype in (None, precision) else dtype
    has_audio = training_audio or not audio.has_training_audio
    new["store.audio"] = (TrainingAudio.wav32k if has_audio else TrainingAudio.none).name
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
        **settings,
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
    "store.dtype": AS_COMPUTED,
    "store.audio": TrainingAudio.wav32k.name,
    SUBFOLDERS: 0,
    QUANTIZER: None,
    "features": True,
    **{
        key: value
        for key, value in _settings(AudioSettings()).items()
        if key.removeprefix("audio.") not in FIRST_SETTINGS
    },
}


def read(directory: Path, url: str = "") -> dict[str, Any] | None:
    """A store's metadata; None where it has none.

    Args:
        directory: of the store, or of a copy of what is at `url`.
        url: of the store, if it is at one, for messages.

    Raises:
        Unreadable: it is damaged, or no run wrote it.
    """
    path = directory / NAME
    where = printable(f"{redacted(url)}/{NAME}" if url else str(path))
    try:
        data = json.loads(read_whole(path).decode("utf8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unreadable(_unreadable(where, str(error.strerror))) from None
    except (ValueError, RecursionError) as error:
        raise Unreadable(_unreadable(where, str(error))) from None
    if not isinstance(data, dict) or not isinstance(data.get("identity"), dict):
        raise Unreadable(_unreadable(where, "no identity in it"))
    if type(data.get("format")) is not int or data["format"] != FORMAT:
        raise Unreadable(_unreadable(where, f"another format than {FORMAT}"))
    return data


def _unreadable(where: str, what: str) -> str:
    return f"{where}: {printable(what)}; needed the metadata of a store"


def write(
    directory: Path,
    run: Identity,
    made_with: Mapping[str, str],
    stack: ConvStack = HUBERT_STACK,
    *,
    beside: Beside | None = None,
    fsync: bool = True,
) -> None:
    """Replaces a store's metadata, whole or not at all.

    `beside` tells sources which files are not recordings, if these may lie beside the store's.
    """
    data: dict[str, Any] = {
        "format": FORMAT,
        "identity": run,
        "made_with": dict(made_with),
        "frames": frames(stack),
    }
    if beside is not None:
        data[BESIDE] = beside._asdict()
    _replace(directory, data, fsync=fsync)


def change(directory: Path, settings: Identity, *, fsync: bool = True) -> None:
    """Puts settings into a store's identity and leaves all else in its metadata."""
    data = read(directory)
    assert data is not None
    data["identity"] |= settings
    _replace(directory, data, fsync=fsync)


def _replace(directory: Path, data: Mapping[str, Any], *, fsync: bool) -> None:
    text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    replace_whole(directory / NAME, text.encode("utf8", "backslashreplace"), fsync=fsync)


def frames(stack: ConvStack) -> dict[str, Any]:
    """Sample rate, hop and convolutions, from which a reader computes the time of each frame.

    No part of the identity, since the fingerprint of the weights has the convolutions in it.
    """
    return {"sample_rate": stack.sample_rate, "hop": stack.hop, "conv_layers": stack.layers}
