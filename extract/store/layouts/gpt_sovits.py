"""The two folders that GPT-SoVITS trains on.

    4-cnhubert/<id>.pt   (1, hidden_size, num_frames), for torch.load with weights_only=True; one
                         layer, since the trainer takes `ssl[0]` of whatever is there
    5-wav32k/<id>        int16 mono WAV at 32 kHz, whatever the extension says; none where no
                         training audio is wanted (`store.audio=none`, `audio=plain`)

Source: GPT_SoVITS/prepare_datasets/2-get-hubert-wav32k.py, which its trainer reads back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extract.manifest.folders import WRITTEN
from extract.store.files import StoreFiles
from extract.store.layout import Kept, KeptFile, Layout, LayoutOptions
from extract.store.per_utterance import TorchFiles

FEATURES, WAVS = WRITTEN


@dataclass
class Options(LayoutOptions):
    """Where features go and how they are kept: in the two folders that GPT-SoVITS trains on."""

    layout: str = "gpt_sovits"


def layout(options: LayoutOptions, directory: Path, files: StoreFiles) -> Layout:
    """The layout of one store."""
    return GptSovits(options, files)


def names(id: str) -> tuple[str, str]:  # noqa: A002 - the ledger's own word
    """An utterance's features and training audio, below the store."""
    return f"{FEATURES}/{id}.pt", f"{WAVS}/{id}"


class GptSovits(TorchFiles):
    """Two files an utterance. The features appear last: that is the commit."""

    suffixes = (".pt", "")
    folders = (FEATURES, WAVS)
    adds = True  # as GPT-SoVITS's step does: an experiment is a folder, not a list
    replaces_foreign = True  # what that step began is done over

    def kept_by_sizes(self, record: Mapping[str, Any]) -> Kept | None:
        """The files of a line of version 0.1.0."""
        return None if record.get("files") else _kept_by_0_1_0(record)

    def is_unchanged(self, file: KeptFile) -> bool:
        """Whether a file has the ledger's checksum, or is readable where 0.1.0 noted none."""
        if file[3] is not None:
            return super().is_unchanged(file)
        from extract.store.formats import is_readable

        return self._files.is_whole(file) and is_readable(self._files.read(file))


def _kept_by_0_1_0(record: Mapping[str, Any]) -> Kept | None:
    """The files that a line of version 0.1.0 gives by two sizes and the checksum of the WAV."""
    feature, wav = names(record["id"])
    feature_bytes, wav_bytes = record.get("feature_bytes"), record.get("wav_bytes")
    if type(feature_bytes) is not int or type(wav_bytes) is not int:
        return None
    files = (feature, 0, feature_bytes, None), (wav, 0, wav_bytes, record.get("wav_crc32"))
    return Kept(record["id"], files)
