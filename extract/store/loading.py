"""Reads the files that `extract.store.formats` wrote, whole or memory-mapped.

`np.load` and `torch.load` spend longer on the heads of small files than on their numbers. A head
depends on dtype and shape alone, and a corpus has about a thousand lengths. So NumPy and torch
parse each head once; a file that begins with the same bytes, and is as long, is of the same shape.
"""

from __future__ import annotations

import functools
import io
import mmap
import zipfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from extract.store.formats import WAV_HEADER, wav_header
from extract.text import printable, shortened

MAX_HEADS = 4096  # of torch's archives that are remembered, less than 1 kB each

Bytes = NDArray[np.uint8]
T = TypeVar("T")


class Head(NamedTuple):
    """What a known head says of the file that it begins."""

    num_bytes: int  # of the file
    start: int  # where the tensor's numbers begin
    dtype: torch.dtype
    shape: torch.Size


_heads: dict[bytes, Head] = {}
_starts: set[int] = set()  # their lengths: one, unless several versions of torch wrote the files


def load_features(path: str, *, mapped: bool = False) -> Tensor:
    """A file of `torch.save`'s: its features, (1, num_frames, hidden_size), in the dtype saved.

    Args:
        path: the file.
        mapped: map it into memory, copy on write, instead of reading it.

    Raises:
        OSError: there is no such file.
        ValueError: it is damaged, or holds something else; names it.
    """
    found = _parsed(path, mapped, partial(_archived, path, mapped))
    if not isinstance(found, Tensor) or found.dim() != 3 or found.shape[0] != 1:
        raise ValueError(f"{printable(path)}: needed a tensor (1, dimensions, frames)")
    return found.mT


def _parsed(path: str, mapped: bool, parse: Callable[[Bytes], T]) -> T:
    """What `parse` makes of the bytes of a file.

    Raises:
        OSError: there is no such file.
        ValueError: it is damaged; names it.
    """
    try:
        return parse(_bytes_of(path, mapped))
    except OSError:
        raise
    except Exception as error:  # a damaged file raises whatever its damage leads to
        raise ValueError(f"{printable(path)}: cannot be read: {shortened(str(error))}") from error


def _archived(path: str, mapped: bool, whole: Bytes) -> object:
    """What `torch.save` put into an archive, read by torch unless its head is known."""
    found: object = _as_known(whole)
    if found is None:
        found = torch.load(path, weights_only=True, mmap=mapped)
        _learn(whole, found)
    return found


def _as_known(whole: Bytes) -> Tensor | None:
    """The tensor of an archive whose head is known."""
    for start in tuple(_starts):
        head = _heads.get(whole[:start].tobytes())
        if head is not None and head.num_bytes == len(whole):
            size = head.shape.numel() * head.dtype.itemsize
            numbers = torch.from_numpy(whole[head.start : head.start + size])
            return numbers.view(head.dtype).view(head.shape)
    return None


def _learn(whole: Bytes, found: object) -> None:
    """Remembers the head of an archive that torch has read, if its numbers follow right behind."""
    if not isinstance(found, Tensor) or not found.is_contiguous():
        return
    start = 0
    with suppress(zipfile.BadZipFile):  # torch's format before its version 1.6
        start = _start_of_numbers(whole)
    numbers = found.reshape(-1).view(torch.uint8).numpy()
    if not start or not np.array_equal(whole[start : start + len(numbers)], numbers):
        return
    if len(_heads) >= MAX_HEADS:
        _heads.clear()
    _heads[whole[:start].tobytes()] = Head(len(whole), start, found.dtype, found.shape)
    _starts.add(start)


def _start_of_numbers(whole: Bytes) -> int:
    """Where the one tensor of an archive begins; 0 if it has none, or several."""
    with zipfile.ZipFile(io.BytesIO(whole.tobytes())) as archive:
        found = [one for one in archive.infolist() if one.filename.endswith("/data/0")]
        if len(found) != 1 or found[0].compress_type != zipfile.ZIP_STORED:
            return 0
        at = found[0].header_offset + 26  # of a local header's lengths of name and extra field
        name, extra = np.frombuffer(whole[at : at + 4].tobytes(), "<u2").tolist()
        return int(at + 4 + name + extra)


def load_npy(path: str, *, mapped: bool = False) -> Tensor:
    """A .npy file's features, (layers, num_frames, hidden_size), in the dtype that was saved.

    Args:
        path: the file.
        mapped: map it into memory, copy on write, instead of reading it.

    Raises:
        OSError: there is no such file.
        ValueError: it is damaged, or holds something else; names it.
    """
    found = _parsed(path, mapped, _array)
    if found.dtype.kind != "f" or found.ndim not in (2, 3):
        needed = "an array ([layers,] frames, dimensions) of floats"
        raise ValueError(f"{printable(path)}: needed {needed}")
    return torch.from_numpy(found if found.ndim == 3 else found[None])


def _array(whole: Bytes) -> NDArray[Any]:
    """The array of a .npy file, of the file's own memory."""
    end = 10 + int.from_bytes(whole[8:10].tobytes(), "little")  # of a header of version 1.0
    shape, fortran_order, dtype = _npy_header(whole[:end].tobytes())
    found = np.frombuffer(whole[end:], dtype).reshape(shape, order="F" if fortran_order else "C")
    return found if found.dtype.isnative else found.astype(dtype.newbyteorder("="))


@functools.lru_cache(maxsize=4096)  # 128 bytes each
def _npy_header(head: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, order and dtype in the head of a .npy file."""
    file = io.BytesIO(head)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("another version of the format than 1.0")
    found: tuple[tuple[int, ...], bool, np.dtype[Any]] = np.lib.format.read_array_header_1_0(file)
    if found[2].hasobject:
        raise ValueError("it holds objects, which only pickle reads")
    return found


def load_wav(data: bytes) -> Tensor:
    """The samples of what `encode_wav` wrote: (num_samples,) int16, mono at 32 kHz.

    Raises:
        ValueError: it is no such file, or was cut.
    """
    head, samples = data[:WAV_HEADER], data[WAV_HEADER:]
    if len(samples) % 2 or head != wav_header(len(samples)):
        raise ValueError("no whole WAV file of int16, mono at 32 kHz")
    return torch.from_numpy(np.frombuffer(samples, "<i2").astype(np.int16))


def _bytes_of(path: str, mapped: bool) -> Bytes:
    """A file's bytes, writable: read, or mapped so that what is written stays in this process."""
    with open(path, "rb", buffering=0) as file:
        if mapped:
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), np.uint8)
        whole = np.empty(file.seek(0, io.SEEK_END), np.uint8)
        file.seek(0)
        left = whole.data
        while left and (num_read := file.readinto(left)):
            left = left[num_read:]
        return whole[: len(whole) - len(left)]
