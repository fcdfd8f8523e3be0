"""Layouts that keep an utterance in files of its own: its features, and perhaps training audio.

A layout of this kind says where the files are and what is in the one of the features. The folders
and suffixes come in pairs, the features' first; the second pair is the training audio's.

torch, by way of `formats`, is imported where it is needed: `--help` reads the options without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from extract.files import Buffer
from extract.frames import RECORDING_RATE_HZ
from extract.manifest.folders import METADATA, PRIVATE
from extract.shard import LEDGER_NAME
from extract.store.files import StoreFiles, WriteFailed
from extract.store.layout import Kept, KeptFile, Layout, LayoutOptions, TrainingAudio
from extract.store.reused import NotReusable, Reused, SameFile
from extract.store.subfolders import AUTO, KEY, folder_of, id_below
from extract.text import printable

if TYPE_CHECKING:
    from torch import Tensor

    from extract.values import Encoded


class PerUtterance(Layout):
    """One file an utterance, or two. The features appear last: that is the commit.

    Args:
        options: of the store.
        files: of the store.
    """

    links = True

    def __init__(self, options: LayoutOptions, files: StoreFiles) -> None:
        self._files = files
        self._has_audio = self.keeps_audio and options.audio is TrainingAudio.wav32k
        self._subfolders = options.subfolders
        if self._subfolders not in (0, AUTO):
            self.settings = {KEY: self._subfolders}

    def encode(self, features: Tensor) -> list[Buffer]:
        """The bytes of a feature file, in parts: of (layers, num_frames, hidden_size)."""
        raise NotImplementedError

    def load(self, path: str, *, mapped: bool = False) -> Tensor:
        """The features in a file: `Layout.read`, or `Layout.map`."""
        raise NotImplementedError

    def names(self, id: str) -> tuple[str, ...]:  # noqa: A002 - the ledger's own word
        """An utterance's files below the store: its features, and its training audio."""
        below = self._below(id)
        return tuple(f"{start}{below}{end}" for start, end in self._ends)

    def _below(self, id: str) -> str:  # noqa: A002
        """The id behind its sub-folder, if there are any."""
        return f"{folder_of(id, self._levels)}{id}" if self._subfolders else id

    @cached_property
    def _ends(self) -> list[tuple[str, str]]:
        """What stands before and behind an id in the name of each of its files."""
        pairs = zip(self.folders, self.suffixes, strict=True)
        return [(folder and f"{folder}/", suffix) for folder, suffix in pairs]

    @property
    def _levels(self) -> int:
        assert self._subfolders != AUTO, "`extract.store.opened.settled` comes first"
        return int(self._subfolders)

    def create(self) -> None:
        """Makes the folders: `Layout.create`."""
        self._files.make_folders(self.folders)

    def put(self, item: Encoded) -> Iterable[Kept]:
        """Writes the files: `Layout.put`. Without training audio removes what there was of it."""
        return self._write(item, self.encode(item.features.values))

    def take(self, item: Reused) -> Iterable[Kept]:
        """Links the file of the features, or copies it: `Layout.take`."""
        assert isinstance(item.donor, PerUtterance)
        name, _offset, size, crc = item.kept.files[0]
        try:
            path = item.donor._files.existing(name)
        except OSError as error:
            raise NotReusable(f"{item.recording.id}: {error}") from None
        if crc is None:  # in a line of version 0.1.0
            raise NotReusable(f"{item.recording.id}: no checksum in its line")
        return self._write(item, SameFile(path, size, crc))

    def _write(self, item: Encoded | Reused, features: list[Buffer] | SameFile) -> Iterable[Kept]:
        from extract.store.formats import encode_wav

        id_ = item.recording.id
        feature, *audio = self.names(id_)
        self._refuse_own_names(id_, feature)
        contents: dict[str, list[Buffer] | SameFile] = {feature: features}
        if self._has_audio and len(item.wav32k):
            contents = {audio[0]: encode_wav(item.wav32k), **contents}
        kept = self._files.write_all(id_, contents)
        for name in audio:
            if name not in contents:
                self._files.remove(name)
        return [Kept(id_, tuple(reversed(kept)))]

    def _refuse_own_names(self, id_: str, feature: str) -> None:
        """WriteFailed if a file would lie in a folder that the store has for something else."""
        first, _, below = feature.partition("/")
        is_own = below and (first == METADATA or LEDGER_NAME.fullmatch(first))
        if "" in self.folders and (is_own or PRIVATE in feature.split("/")[:-1]):
            raise WriteFailed(f"{id_}: one of its folders has a name that the store itself uses")

    def close(self, *, abandon: bool = False) -> Iterable[Kept]:
        """Nothing: `put` holds nothing back."""
        return ()

    def discard(self, id: str) -> None:  # noqa: A002
        """Removes its files: `Layout.discard`."""
        for name in self.names(id):
            self._files.remove(name)

    def kept(self, record: Mapping[str, Any]) -> Kept | None:
        """The files that a line names; None if they are not the files of its id."""
        kept = Kept.of(record)
        if kept is None:
            return self.kept_by_sizes(record)
        ends, below = self._ends, self._below(kept.id)
        for (name, offset, _size, _crc), (start, end) in zip(kept.files, ends, strict=False):
            if offset or name != f"{start}{below}{end}":
                return None
        return kept if len(kept.files) in (1, len(ends)) else None

    def kept_by_sizes(self, record: Mapping[str, Any]) -> Kept | None:
        """The files of a line that names none; None unless an earlier version wrote such lines."""
        return None

    def intact(self, kept: Kept, *, checksum: bool) -> bool:
        """Whether its files are whole: `Layout.intact`."""
        return all(map(self.is_unchanged if checksum else self._files.is_whole, kept.files))

    def is_unchanged(self, file: KeptFile) -> bool:
        """Whether a file has the bytes whose checksum the ledger holds.

        Raises:
            OSError, ValueError: it cannot be examined.
        """
        return self._files.is_whole(file, checksum=True)

    def read(self, kept: Kept) -> Tensor:
        """The features: `Layout.read`."""
        return self.load(self._files.existing(kept.files[0][0]))

    def map(self, kept: Kept) -> Tensor:
        """The features, memory-mapped: `Layout.map`."""
        return self.load(self._files.existing(kept.files[0][0]), mapped=True)

    def read_audio(self, kept: Kept) -> Tensor | None:
        """The training audio: `Layout.read_audio`."""
        from extract.store.loading import load_wav

        if len(kept.files) == 1:
            return None
        try:
            return load_wav(self._files.read(kept.files[1]))
        except ValueError as error:
            path = printable(self._files.path(kept.files[1][0]))
            raise ValueError(f"{path}: cannot be read: {error}") from None

    def ids_of_files(self) -> Iterator[str]:
        """The ids that have a file in one of the folders."""
        levels = self._levels
        for folder, suffix in zip(self.folders, self.suffixes, strict=True):
            for name in self._files.names(folder):
                id_ = id_below(name.removesuffix(suffix), levels)
                if id_ is not None and name.endswith(suffix):
                    yield id_

    def has_files(self, id: str) -> bool:  # noqa: A002
        """Whether anything exists at the path of one of its files."""
        return any(map(self._files.exists, self.names(id)))

    def sweep(self) -> int:
        """Removes temporary files: `Layout.sweep`."""
        return self._files.sweep(self.folders)

    def bytes_per_second(self, width: int, itemsize: int, frame_rate: float) -> float:
        """Bytes of its files: `Layout.bytes_per_second`."""
        return self._has_audio * 2 * RECORDING_RATE_HZ + width * itemsize * frame_rate


class TorchFiles(PerUtterance):
    """Features as `torch.save` writes (1, hidden_size, num_frames)."""

    def encode(self, features: Tensor) -> list[Buffer]:
        """The bytes of one layer's features, in parts: `extract.store.formats.encode_features`."""
        from extract.store.formats import encode_features

        return encode_features(features)

    def load(self, path: str, *, mapped: bool = False) -> Tensor:
        """The features, (1, num_frames, hidden_size): `Layout.read`."""
        from extract.store.loading import load_features

        return load_features(path, mapped=mapped)


class NumpyFiles(PerUtterance):
    """Features as `np.save` writes (num_frames, hidden_size); several layers stand before that."""

    dtypes: tuple[str, ...] = ("float32", "float16")  # NumPy has no bfloat16
    maps_frames = True

    def encode(self, features: Tensor) -> list[Buffer]:
        """The bytes of the features, in parts: `extract.store.formats.encode_npy`."""
        from extract.store.formats import encode_npy

        return encode_npy(features)

    def load(self, path: str, *, mapped: bool = False) -> Tensor:
        """The features, (layers, num_frames, hidden_size): `Layout.read`."""
        from extract.store.loading import load_npy

        return load_npy(path, mapped=mapped)
