"""The two folders that GPT-SoVITS trains on.

    4-cnhubert/<id>.pt   (1, hidden_size, num_frames), for torch.load with weights_only=True; one
                         layer, since the trainer takes `ssl[0]` of whatever is there
    5-wav32k/<id>        int16 mono WAV at 32 kHz, whatever the extension says; none where the
                         settings want no training audio (`audio=plain`)

Source: GPT_SoVITS/prepare_datasets/2-get-hubert-wav32k.py, which its trainer reads back.

torch, by way of `formats`, is imported where it is needed: `--help` reads the options without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from extract.frames import RECORDING_RATE_HZ
from extract.manifest.folders import WRITTEN
from extract.store.files import StoreFiles
from extract.store.layout import Kept, KeptFile, Layout, LayoutOptions

if TYPE_CHECKING:
    from torch import Tensor

    from extract.values import Encoded

FEATURES, WAVS = WRITTEN


@dataclass
class Options(LayoutOptions):
    """Where features go and how they are kept: in the two folders that GPT-SoVITS trains on."""

    layout: str = "gpt_sovits"


def layout(options: LayoutOptions, directory: Path, files: StoreFiles) -> Layout:
    """The layout of one store."""
    return GptSovits(files)


def names(id: str) -> tuple[str, str]:  # noqa: A002 - the ledger's own word
    """An utterance's features and training audio, below the store."""
    return f"{FEATURES}/{id}.pt", f"{WAVS}/{id}"


class GptSovits(Layout):
    """Two files an utterance. The features appear last: that is the commit."""

    suffixes = (".pt", "")
    folders = (FEATURES, WAVS)
    adds = True  # as GPT-SoVITS's step does: an experiment is a folder, not a list
    replaces_foreign = True  # what that step began is done over

    def __init__(self, files: StoreFiles) -> None:
        self._files = files

    def create(self) -> None:
        """Makes the folders: `Layout.create`."""
        self._files.make_folders(self.folders)

    def put(self, item: Encoded) -> Iterable[Kept]:
        """Writes both files, or the features alone: `Layout.put`."""
        from extract.store.formats import encode_features, encode_wav

        id_ = item.recording.id
        feature, wav = names(id_)
        contents = {feature: encode_features(item.features.values)}
        if len(item.wav32k):
            contents = {wav: encode_wav(item.wav32k), **contents}
        kept = self._files.write_all(id_, contents)
        return [Kept(id_, tuple(reversed(kept)))]

    def close(self, *, abandon: bool = False) -> Iterable[Kept]:
        """Nothing: `put` holds nothing back."""
        return ()

    def discard(self, id: str) -> None:  # noqa: A002
        """Removes both files: `Layout.discard`."""
        for name in names(id):
            self._files.remove(name)

    def kept(self, record: Mapping[str, Any]) -> Kept | None:
        """The files that a line names; None if they are not the files of its id."""
        kept = Kept.of(record) if record.get("files") else _kept_by_0_1_0(record)
        own = [(name, 0) for name in names(record["id"])]
        named = [file[:2] for file in kept.files] if kept else []
        return kept if named in (own, own[:1]) else None

    def intact(self, kept: Kept, *, checksum: bool) -> bool:
        """Whether its files are whole: `Layout.intact`."""
        return all(self._is_whole(file, checksum) for file in kept.files)

    def _is_whole(self, file: KeptFile, checksum: bool) -> bool:
        if not checksum or file[3] is not None:
            return self._files.is_whole(file, checksum=checksum)
        from extract.store.formats import is_readable

        return self._files.is_whole(file, checksum=False) and is_readable(self._files.read(file))

    def read(self, kept: Kept) -> Tensor:
        """The features, (1, num_frames, hidden_size): `Layout.read`."""
        from extract.store.formats import load_features

        return load_features(self._files.existing(kept.files[0][0]))

    def ids_of_files(self) -> Iterator[str]:
        """The ids that have a file in either folder."""
        for folder, suffix in zip(self.folders, self.suffixes, strict=True):
            for name in self._files.names(folder):
                if name.endswith(suffix):
                    yield name.removesuffix(suffix)

    def has_files(self, id: str) -> bool:  # noqa: A002
        """Whether anything exists at the path of the features or of the training audio."""
        return any(map(self._files.exists, names(id)))

    def sweep(self) -> int:
        """Removes temporary files: `Layout.sweep`."""
        return self._files.sweep(self.folders)

    def bytes_per_second(self, width: int, itemsize: int, frame_rate: float) -> float:
        """Bytes of both files: `Layout.bytes_per_second`."""
        return 2 * RECORDING_RATE_HZ + width * itemsize * frame_rate


def _kept_by_0_1_0(record: Mapping[str, Any]) -> Kept | None:
    """The files that a line of version 0.1.0 gives by two sizes and the checksum of the WAV."""
    feature, wav = names(record["id"])
    feature_bytes, wav_bytes = record.get("feature_bytes"), record.get("wav_bytes")
    if type(feature_bytes) is not int or type(wav_bytes) is not int:
        return None
    files = (feature, 0, feature_bytes, None), (wav, 0, wav_bytes, record.get("wav_crc32"))
    return Kept(record["id"], files)
