"""A NumPy file an utterance: store=npy

    <id>.npy          (num_frames, hidden_size), or (layers, num_frames, hidden_size) where
                      model.layer names several; C order, float32 or float16
    wav32k/<id>.wav   int16 mono WAV at 32 kHz, with store.audio=wav32k

What readers of feature files commonly take: `np.load(path)`, also with `mmap_mode="r"`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from extract.store.files import StoreFiles
from extract.store.layout import Layout, LayoutOptions, TrainingAudio
from extract.store.per_utterance import NumpyFiles


@dataclass
class Options(LayoutOptions):
    """Where features go and how they are kept: in a NumPy file for each utterance."""

    layout: str = "npy"
    audio: TrainingAudio = TrainingAudio.none


def layout(options: LayoutOptions, directory: Path, files: StoreFiles) -> Layout:
    """The layout of one store."""
    return Npy(options, files)


class Npy(NumpyFiles):
    """The features in the store's own folder, which may be that of the recordings."""

    suffixes = (".npy", ".wav")
    folders = ("", "wav32k")
    takes_layers = True
    takes_subfolders = True
    lies_beside = True

    def create(self) -> None:
        """Makes the folders that will hold something: `Layout.create`."""
        self._files.make_folders(self.folders if self._has_audio else self.folders[:1])
