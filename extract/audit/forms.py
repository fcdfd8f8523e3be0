"""Where each built-in layout has an utterance's files, and how these are read: code of its own.

torch, NumPy, `wave` and `tarfile` read what they define. Kaldi's matrices are read by their bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import tarfile
import wave
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO
from urllib.parse import unquote

import numpy as np

from extract.frames import RECORDING_RATE_HZ

REMOVED = "__removed__"  # a blank place in a tar
_MATRIX, _SIZES = b"\0BFM ", struct.Struct("<bibi")


class Unreadable(ValueError):
    """Bytes are not what they should be."""


@dataclass(frozen=True)
class Array:
    """What is audited of an utterance's features."""

    shape: tuple[int, int, int]  # layers, frames, dimensions
    dtype: str
    finite: bool


@dataclass(frozen=True)
class Audio:
    """What is audited of training audio."""

    num_samples: int
    num_at_full_scale: int


@dataclass(frozen=True)
class OneFile:
    """A layout with one file of features an utterance, and perhaps one of training audio."""

    folder: str
    suffix: str
    read: Callable[[bytes], Array]
    audio_folder: str | None = None
    audio_suffix: str = ""
    levels: int = 0  # of sub-folders by the id's SHA-256

    def names(self, id: str) -> list[str]:  # noqa: A002 - the ledger's own word
        """Its files below the store, the features first."""
        digits = hashlib.sha256(id.encode("utf8", "replace")).hexdigest()
        below = "/".join([*(digits[2 * level :][:2] for level in range(self.levels)), id])
        names = [f"{self.folder}/{below}{self.suffix}".lstrip("/")]
        if self.audio_folder is not None:
            names.append(f"{self.audio_folder}/{below}{self.audio_suffix}")
        return names


@dataclass(frozen=True)
class InArchives:
    """A layout with many utterances in one file."""

    folder: str
    suffix: str
    read: Callable[[bytes, str], tuple[Array, Audio | None]]  # a block, and the id to find there
    blocks: Callable[[BinaryIO], Iterator[tuple[int, str]]]  # offset and name of each in an archive


Form = OneFile | InArchives


def form(layout: str, folder: str, levels: int) -> Form | None:
    """The form of a built-in layout; None of any other.

    Args:
        layout: its name.
        folder: `store.folder`, for the layout that has it.
        levels: `store.subfolders`, likewise.
    """
    forms: dict[str, Form] = {
        "gpt_sovits": OneFile("4-cnhubert", ".pt", read_torch, "5-wav32k"),
        "npy": OneFile("", ".npy", read_numpy, "wav32k", ".wav", levels),
        "rvc": OneFile(folder or "3_feature768", ".npy", read_numpy),
        "applio": OneFile("extracted", ".npy", read_numpy),
        "so_vits_svc": OneFile("", ".soft.pt", read_torch),
        "ddsp_svc": OneFile("units", ".npy", read_numpy),
        "kaldi": InArchives("arks", ".ark", read_matrix, matrices),
        "webdataset": InArchives("shards", ".tar", read_sample, samples),
    }
    return forms.get(layout)


def read_torch(data: bytes) -> Array:
    """(1, dimensions, frames), as `torch.load` reads it."""
    import torch

    values: Any = torch.load(io.BytesIO(data), weights_only=True)
    if not isinstance(values, torch.Tensor) or values.dim() != 3 or len(values) != 1:
        raise Unreadable(f"no tensor (1, dimensions, frames): {getattr(values, 'shape', values)!r}")
    _one, width, frames = values.shape
    dtype = str(values.dtype).removeprefix("torch.")
    return Array((1, frames, width), dtype, bool(values.isfinite().all()))


def read_numpy(data: bytes) -> Array:
    """(frames, dimensions), or (layers, frames, dimensions), as `np.load` reads it."""
    values = np.load(io.BytesIO(data), allow_pickle=False)
    if values.ndim not in (2, 3):
        raise Unreadable(f"no array (frames, dimensions): {values.shape}")
    layers, frames, width = values.shape if values.ndim == 3 else (1, *values.shape)
    return Array((layers, frames, width), str(values.dtype), bool(np.isfinite(values).all()))


def read_wave(data: bytes) -> Audio:
    """Mono of 16 bits at 32 kHz."""
    with wave.open(io.BytesIO(data)) as file:
        found = file.getnchannels(), file.getsampwidth(), file.getframerate()
        num_samples = file.getnframes()
        samples = np.frombuffer(file.readframes(num_samples), "<i2")
    if found != (1, 2, RECORDING_RATE_HZ) or len(samples) != num_samples:
        raise Unreadable(
            f"channels, bytes and rate {found}, {len(samples)} of {num_samples} samples"
        )
    return Audio(num_samples, int(((samples == 32767) | (samples == -32768)).sum()))


def read_matrix(block: bytes, id: str) -> tuple[Array, None]:  # noqa: A002
    """`<key> `, then a binary matrix of float32."""
    key, _blank, rest = block.partition(b" ")
    if unquote(key.decode("utf8", "replace")) != id:
        raise Unreadable(f"the key {key!r} is another utterance's")
    rows, columns, start = _sizes(rest)
    values = np.frombuffer(rest[start:], "<f4")
    if len(values) != rows * columns:
        raise Unreadable(f"{len(values)} numbers; needed {rows} x {columns}")
    return Array((1, rows, columns), "float32", bool(np.isfinite(values).all())), None


def matrices(file: BinaryIO) -> Iterator[tuple[int, str]]:
    """Offset and key of each matrix in an ark; a place that was left has a key of backslashes."""
    end, at = file.seek(0, io.SEEK_END), 0
    while at < end:
        file.seek(at)
        key, blank, rest = file.read(1 << 14).partition(b" ")
        if not blank:
            raise Unreadable(f"no key at {at}")
        rows, columns, start = _sizes(rest)
        if key.strip(b"\\"):
            yield at, key.decode("utf8", "replace")
        at += len(key) + 1 + start + 4 * rows * columns
    if at != end:
        raise Unreadable("it ends in the middle of a matrix")


def _sizes(head: bytes) -> tuple[int, int, int]:
    """Rows, columns, and where the numbers begin."""
    start = len(_MATRIX) + _SIZES.size
    if not head.startswith(_MATRIX) or len(head) < start:
        raise Unreadable("no binary matrix of float32")
    of_rows, rows, of_columns, columns = _SIZES.unpack_from(head, len(_MATRIX))
    if (of_rows, of_columns) != (4, 4) or rows < 0 or columns < 0:
        raise Unreadable("no sizes of a matrix")
    return rows, columns, start


def read_sample(block: bytes, id: str) -> tuple[Array, Audio | None]:  # noqa: A002
    """The files of one utterance in a tar."""
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(block), mode="r:") as tar:
        for member in tar:
            data = tar.extractfile(member)
            key, _dot, ending = member.name.rpartition(".")
            found[ending] = data.read() if data else b""
            if unquote(key) != id:
                raise Unreadable(f"{member.name} is another utterance's")
    if not {"json", "npy"} <= found.keys() <= {"json", "npy", "wav"}:
        raise Unreadable(f"it holds {', '.join(sorted(found)) or 'nothing'}; needed json and npy")
    if json.loads(found["json"])["id"].encode("utf8", "replace") != id.encode("utf8", "replace"):
        raise Unreadable("its JSON is another utterance's")
    return read_numpy(found["npy"]), read_wave(found["wav"]) if "wav" in found else None


def samples(file: BinaryIO) -> Iterator[tuple[int, str]]:
    """Offset and key of each utterance in a tar."""
    last = None
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for member in iter(tar.next, None):
            key = member.name.rpartition(".")[0]
            if member.name != REMOVED and key != last:
                yield member.offset, key
            last = key
            tar.members.clear()  # type: ignore[attr-defined]  # else it keeps all
