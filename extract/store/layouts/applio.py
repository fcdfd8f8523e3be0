"""Features as Applio trains on them, and the embedder that they are of: preset=applio.

    extracted/<id>.npy  (num_frames, dimensions) float32, for np.load
    model_info.json     `embedder_model`, beside what Applio notes there itself

Source: Applio, `rvc/train/extract/extract.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extract.files import read_whole, replace_whole
from extract.store.files import StoreFiles
from extract.store.layout import Kept, Layout, LayoutOptions, TrainingAudio
from extract.store.per_utterance import NumpyFiles
from extract.text import printable, shortened
from extract.write_errors import StoreUnusable, explained

MODEL_INFO, KEY = "model_info.json", "embedder_model"
EMBEDDERS = (  # the names by which Applio knows its own, whose folders may have "_" for "-"
    *("contentvec", "spin", "spin-v2"),
    *("chinese-hubert-base", "japanese-hubert-base", "korean-hubert-base"),
)


@dataclass
class Options(LayoutOptions):
    """Where features go and how they are kept: in the folder that Applio trains on."""

    layout: str = "applio"
    audio: TrainingAudio = TrainingAudio.none
    # What `model_info.json` says of the model: one of Applio's embedders, or the path of a custom
    # one. A folder named like one of Applio's is that one
    embedder_model: str = "${model.path}"


def layout(options: Options, directory: Path, files: StoreFiles) -> Layout:
    """The layout of one store."""
    return Applio(options, directory, files)


def embedder(path: str) -> str:
    """The name that Applio gives an embedder; of a custom one, its path."""
    name = Path(path).name.replace("_", "-")
    return name if name in EMBEDDERS else path


class Applio(NumpyFiles):
    """The features in one folder of the experiment, and a file that names the embedder."""

    suffixes = (".npy",)
    folders = ("extracted",)
    dtypes = ("float32",)
    keeps_audio = False
    lies_beside = True
    replaces_foreign = True

    def __init__(self, options: Options, directory: Path, files: StoreFiles) -> None:
        super().__init__(options, files)
        self._embedder, self._info = embedder(options.embedder_model), directory / MODEL_INFO

    def create(self) -> None:
        """Makes the folder: `Layout.create`. The embedder is noted only once a run may write here.

        Raises:
            ValueError: also where `model_info.json` is not what Applio writes.
        """
        _read(self._info)
        super().create()

    def close(self, *, abandon: bool = False) -> Iterable[Kept]:
        """Notes the embedder, as all that is kept here is of it: `Layout.close`."""
        if not abandon:
            try:
                info = _read(self._info)
            except ValueError as error:
                raise StoreUnusable(str(error)) from None
            if info.get(KEY) != self._embedder:
                text = json.dumps({**info, KEY: self._embedder}, indent=4)
                with explained(self._info.parent):
                    replace_whole(self._info, text.encode(), fsync=self._files.fsync)
        return super().close(abandon=abandon)


def _read(path: Path) -> dict[str, Any]:
    """What `model_info.json` says; ValueError if it is damaged."""
    try:
        found = json.loads(read_whole(path))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        found = error
    if not isinstance(found, dict):
        shown = f"{printable(str(path))}: cannot be read: {shortened(str(found))}"
        raise ValueError(f"{shown}; needed a JSON object, as Applio writes it, or no file")
    return found
