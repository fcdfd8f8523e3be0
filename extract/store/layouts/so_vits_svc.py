"""The features that so-vits-svc trains on, beside the recordings: store=so_vits_svc

    <id>.soft.pt   (1, hidden_size, num_frames) float32, for torch.load with weights_only=True

Source: preprocess_hubert_f0.py, which its trainer reads back as `<recording>.soft.pt`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from extract.fields import location
from extract.store.files import StoreFiles
from extract.store.layout import Layout, LayoutOptions, TrainingAudio
from extract.store.per_utterance import TorchFiles


@dataclass
class Options(LayoutOptions):
    """Where features go and how they are kept: beside the recordings, as so-vits-svc has them."""

    dir: str = location("${dataset.path}")  # the output folder
    layout: str = "so_vits_svc"
    audio: TrainingAudio = TrainingAudio.none


def layout(options: LayoutOptions, directory: Path, files: StoreFiles) -> Layout:
    """The layout of one store."""
    return SoVitsSvc(options, files)


class SoVitsSvc(TorchFiles):
    """The features in the store's own folder, which is that of the recordings."""

    suffixes = (".soft.pt",)
    folders = ("",)
    dtypes = ("float32",)
    keeps_audio = False
    lies_beside = True
    replaces_foreign = True
