"""The features that RVC trains on: store=rvc store.dir=EXPERIMENT

    3_feature768/<id>.npy   (num_frames, 768) float32; 3_feature256 of version 1, by store.folder

Source: infer/modules/train/extract_feature_print.py, which its trainer reads with np.load.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from extract.fields import checked
from extract.manifest.ids import check_id
from extract.store.files import StoreFiles
from extract.store.layout import Layout, LayoutOptions, TrainingAudio
from extract.store.per_utterance import NumpyFiles

NEEDED = "a folder's name, which starts with no dot"


def is_folder(name: Any) -> bool:
    """Whether the value of an option names a folder right below the store."""
    return isinstance(name, str) and not (check_id(name) or name.startswith(".") or "/" in name)


@dataclass
class Options(LayoutOptions):
    """Where features go and how they are kept: in the folder of an experiment of RVC's."""

    layout: str = "rvc"
    audio: TrainingAudio = TrainingAudio.none
    folder: str = field(default="3_feature768", metadata=checked(NEEDED, is_folder))  # below `dir`


def layout(options: Options, directory: Path, files: StoreFiles) -> Layout:
    """The layout of one store."""
    return Rvc(options, files)


class Rvc(NumpyFiles):
    """The features in one folder of the experiment, whose recordings lie in another."""

    suffixes = (".npy",)
    dtypes = ("float32",)
    keeps_audio = False
    lies_beside = True
    replaces_foreign = True

    def __init__(self, options: Options, files: StoreFiles) -> None:
        super().__init__(options, files)
        self.folders = (options.folder,)
        self.settings = {"store.folder": options.folder}
