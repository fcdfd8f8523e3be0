"""Tar files for `webdataset`: `shards/*.tar`, each with many utterances, in any order.

    KEY.json   {"id", "duration" (s), "num_frames", "dtype", "source" (the recording), "extra"}
    KEY.npy    features, (num_frames, hidden_size); (layers, num_frames, hidden_size) of several
    KEY.wav    int16 mono at 32 kHz, where training audio is wanted

webdataset groups files by their names up to the first dot, and reads no `__name__`. So KEY is the
id with its dots as in a URL, `%2E`, and so the first of two underscores at its beginning
(`extract.store.keys`). Headers hold no time and no user: the same features give the same bytes.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from extract.fields import location, number
from extract.files import Buffer
from extract.frames import RECORDING_RATE_HZ
from extract.store.archives import Archives
from extract.store.blocks import Block
from extract.store.files import StoreFiles, num_bytes
from extract.store.keys import escaping, id_of, key_of
from extract.store.layout import Kept, Layout, LayoutOptions, TrainingAudio

if TYPE_CHECKING:
    from torch import Tensor

    from extract.values import Encoded

FOLDER = "shards"
UNIT = tarfile.BLOCKSIZE  # bytes: a header takes one, and contents are filled up to whole ones
REMOVED = "__removed__"  # webdataset reads no such file

_ESCAPING = escaping(r"\.|\A_(?=_)")


@dataclass
class Options(LayoutOptions):
    """Tar files for `webdataset`: features, training audio and JSON of each utterance."""

    layout: str = "webdataset"
    shard_mb: float = number(256.0, above=0)  # megabytes of a tar; a killed run loses less than one
    # Where a store at a URL (store.dir=s3://...) is worked on: holds what is not sent yet; null = a
    # folder of that URL's own in the user's cache
    scratch: str | None = location(None)


def layout(options: Options, directory: Path, files: StoreFiles) -> Layout:
    """The layout of one store."""
    return WebDataset(options, files)


class Tar:
    """The format of a tar: the files of one utterance after those of another."""

    suffix = ".tar"
    ending = bytes(2 * UNIT)
    renames = False

    def block(self, item: Encoded) -> list[Buffer]:
        """Its files with their headers: `Format.block`."""
        from extract.store.formats import encode_wav

        contents: dict[str, list[Buffer]] = {
            ".json": [about(item)],
            ".npy": encode_array(item.features.values),
        }
        if len(item.wav32k):
            contents[".wav"] = encode_wav(item.wav32k)
        name = key(item.recording.id)
        return [part for end, data in contents.items() for part in _member(name + end, data)]

    def start(self, id: str) -> bytes:  # noqa: A002 - the ledger's own word
        """The name in its first header: `Format.start`."""
        head = _header(f"{key(id)}.json", 0)
        return head[: len(head) - UNIT + 100]

    def features(self, block: bytes) -> Tensor:
        """The array, (layers, num_frames, hidden_size): `Format.features`."""
        import numpy as np
        import torch

        try:
            [data] = contents(block, ".npy")
            values = np.load(io.BytesIO(data))
        except (tarfile.TarError, EOFError) as error:
            raise ValueError(f"no array: {error}") from error
        return torch.from_numpy(values if values.ndim == 3 else values[None])

    def scan(self, file: BinaryIO) -> Iterator[Block]:
        """Runs of files with one key: `Format.scan`."""
        end, last = file.seek(0, os.SEEK_END), Block(None, 0, 0)
        file.seek(0)
        with suppress(tarfile.TarError), tarfile.open(fileobj=file, mode="r:") as tar:
            for member in iter(tar.next, None):
                after = member.offset_data + _filled(member.size)
                if after > end:
                    break
                id_ = _id_of_member(member.name)
                if id_ is None or id_ != last.id:
                    yield from [last] if last.size else []
                    last = Block(id_, member.offset, 0)
                last = last._replace(size=after - last.offset)
        if last.size:
            yield last

    def blank(self, size: int) -> bytes:
        """The header of a file that `webdataset` does not read: `Format.blank`."""
        return _header(REMOVED, max(0, size - UNIT))


def contents(block: bytes, suffix: str) -> list[bytes]:
    """The files in an utterance's block whose names end with `suffix`.

    Raises:
        TarError: the block is damaged.
    """
    with tarfile.open(fileobj=io.BytesIO(block), mode="r:") as tar:
        found = [tar.extractfile(one) for one in tar if one.name.endswith(suffix)]
        return [file.read() for file in found if file]


def key(id: str) -> str:  # noqa: A002
    """An utterance's name in a tar, to which `.npy` and so on are added."""
    return key_of(id, _ESCAPING)


def about(item: Encoded) -> bytes:
    """What the JSON of an utterance says."""
    recording, values = item.recording, item.features.values
    said = {
        "id": recording.id,
        "duration": recording.duration_s,
        "num_frames": values.shape[1],
        "dtype": str(values.dtype).removeprefix("torch."),
        "source": recording.path,
        "extra": json.loads(recording.extra) if recording.extra else None,
    }
    return json.dumps(said, ensure_ascii=False).encode("utf8", "backslashreplace")


def encode_array(values: Tensor) -> list[Buffer]:
    """What `np.save` writes of (layers, num_frames, hidden_size), in parts; without one layer."""
    import numpy as np

    array = values.numpy()
    array = np.ascontiguousarray(array[0] if len(array) == 1 else array)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    return [header.getvalue(), array.data.cast("B")]


def _id_of_member(name: str) -> str | None:
    """The id of a file in a tar, as webdataset forms keys; None if it belongs to no utterance."""
    folder, slash, base = name.rpartition("/")
    stem, dot, _end = base.partition(".")
    return id_of(folder + slash + stem) if stem and dot else None


def _member(name: str, data: list[Buffer]) -> list[Buffer]:
    size = num_bytes(data)
    return [_header(name, size), *data, bytes(_filled(size) - size)]


def _header(name: str, size: int) -> bytes:
    """A file's header: 512 bytes; more of a name that is long or not ASCII."""
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


def _filled(size: int) -> int:
    return -(-size // UNIT) * UNIT


class WebDataset(Archives):
    """Tar files."""

    suffixes = (".json", ".npy", ".wav")
    folders = (FOLDER,)
    takes_url = True
    takes_layers = True
    dtypes = ("float32", "float16")

    def __init__(self, options: Options, files: StoreFiles) -> None:
        super().__init__(Tar(), files, options.shard_mb)
        self._has_audio = options.audio is not TrainingAudio.none

    def read_audio(self, kept: Kept) -> Tensor | None:
        """The training audio: `Layout.read_audio`."""
        from extract.store.loading import load_wav

        block = self.block_of(kept)
        try:
            found = contents(block, ".wav")
            return load_wav(found[0]) if found else None
        except (tarfile.TarError, ValueError) as error:
            raise ValueError(f"{self.where(kept)} is damaged: {error}") from error

    def bytes_per_second(self, width: int, itemsize: int, frame_rate: float) -> float:
        """Bytes of features and audio: `Layout.bytes_per_second`."""
        return self._has_audio * 2 * RECORDING_RATE_HZ + width * itemsize * frame_rate
