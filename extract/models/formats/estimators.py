"""Reads an array out of a scikit-learn model that joblib or pickle dumped, and runs none of it.

A dumped `MiniBatchKMeans` is a pickle that names scikit-learn's class, NumPy's arrays and, if
joblib wrote it, joblib's `NumpyArrayWrapper`. Here none of these is imported: classes of this
module stand for them. A file that names anything else is refused.

joblib's format: the bytes of an array follow its wrapper in the middle of the pickle, behind a byte
that says how many bytes of padding come first. joblib 1.1 and earlier wrote no padding, and their
wrapper has no `numpy_array_alignment_bytes`. The whole may be compressed.

Source: joblib's numpy_pickle.py, `NumpyArrayWrapper.read_array`, and compressor.py.
"""

from __future__ import annotations

import bz2
import io
import lzma
import math
import os
import pickle
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from extract.models.formats.files import start_of
from extract.models.formats.pickles import PICKLE, Refused
from extract.text import shortened

MAX_BYTES = 1 << 30  # of a file once decompressed: 500 centres of 768 numbers take 1.5 MB

_COMPRESSED: dict[bytes, Callable[[], Any]] = {  # the first bytes: what undoes it
    b"\x78": zlib.decompressobj,
    b"\x1f\x8b": lambda: zlib.decompressobj(wbits=31),  # gzip
    b"BZ": bz2.BZ2Decompressor,
    b"\xfd7zXZ": lzma.LZMADecompressor,
    b"\x5d\x00": lzma.LZMADecompressor,
}
_PLAIN_DTYPE = re.compile(r"[biufcUSmM]\d+")
_AS_NUMPY_2 = ("numpy.core.", "numpy._core.")  # the name of a package until NumPy 1.26, and since


def read_array(path: Path, name: str) -> NDArray[Any]:
    """The array `name` of the model that a file holds, or the array that it holds itself.

    Raises:
        ValueError: it cannot be read, is damaged, has no such array, or names code (`Refused`).
    """
    start = start_of(path, 16)
    try:
        with path.open("rb", buffering=0) as file:
            there = _decompressed(file, start)
            found = _Reader(there, path.name).load()
            held = getattr(found, name, found)
            if isinstance(held, _Array | _Following):
                return held.array(there)
    except Refused:
        raise
    except Exception as error:  # a damaged file makes the unpickler raise almost anything
        problem = shortened(f"{type(error).__name__}: {error}")
        raise ValueError(
            f"{path.name} does not load: {problem}; if it is damaged, get it again"
        ) from None
    raise ValueError(f"{path.name}: no array {name} in it; needed a k-means model, or its centres")


def is_dump(start: bytes) -> bool:
    """Whether a file that starts so is a pickle, or one that joblib compressed."""
    return start.startswith((PICKLE, *_COMPRESSED))


def _decompressed(file: BinaryIO, start: bytes) -> BinaryIO:
    """The file, or what it holds compressed. Reading it takes no more bytes than are asked for."""
    for first, undo in _COMPRESSED.items():
        if start.startswith(first):
            data = undo().decompress(file.read(MAX_BYTES), MAX_BYTES + 1)
            if len(data) > MAX_BYTES:
                raise ValueError(f"more than {MAX_BYTES:,} bytes once decompressed")
            return io.BytesIO(data)
    return file


class _Reader(pickle.Unpickler):
    """Makes objects of the classes below, whatever classes the pickle names.

    Args:
        file: at the start of the pickle; no `peek`, so that it stands behind each operation read.
        name: of the file, for messages.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        super().__init__(file)
        self._name = name
        self._wrapper = type("Following", (_Following,), {"file": file})

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a class or function that the pickle names.

        Raises:
            Refused: it is none of scikit-learn's, NumPy's arrays or joblib's.
        """
        full = f"{module}.{name}".replace(*_AS_NUMPY_2)
        if full == "joblib.numpy_pickle.NumpyArrayWrapper":
            return self._wrapper
        if full in _STANDS_FOR:
            return _STANDS_FOR[full]
        if full.startswith(("sklearn.", "numpy.random.")):
            return _Object
        raise Refused(
            f"{self._name} is a pickle with more in it than arrays: it names {shortened(full)}, and"
            " running a file's code is refused; where it can be trusted, save the model's"
            " cluster_centers_ by numpy.save"
        )


class _Object:
    """Stands for any object; has the attributes that the pickle gives it."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


class _DType:
    """Stands for `numpy.dtype`."""

    def __init__(self, name: str, *_: object) -> None:
        self._name = name
        self._order: Any = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._order = state[1]

    def plain(self) -> np.dtype[Any]:
        """The dtype; ValueError if its items are objects or structures."""
        if not _PLAIN_DTYPE.fullmatch(self._name):
            raise ValueError(f"an array of {self._name}; needed one of numbers")
        return np.dtype(self._name).newbyteorder(self._order)


class _Array:
    """Stands for an array whose bytes are in the pickle itself."""

    def __init__(self, *_: object) -> None:
        self._parts: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, shape, dtype, is_fortran, data = state
        self._parts = data, dtype, shape, "F" if is_fortran else "C"

    @classmethod
    def of_buffer(cls, *parts: Any) -> _Array:
        """What protocol 5 writes: bytes, dtype, shape, order."""
        array = cls()
        array._parts = parts
        return array

    def array(self, _file: BinaryIO) -> NDArray[Any]:
        """The array, in memory of its own."""
        data, dtype, shape, order = self._parts
        return np.frombuffer(data, dtype.plain()).reshape(shape, order=order).copy()


class _Following(_Object):
    """Stands for joblib's wrapper; the bytes of the array follow it in `file`."""

    file: BinaryIO
    shape: tuple[int, ...]
    order: str
    dtype: _DType

    def __setstate__(self, state: object) -> None:
        super().__setstate__(state)
        if getattr(self, "numpy_array_alignment_bytes", None) is not None:
            self.file.seek(self.file.read(1)[0], os.SEEK_CUR)
        self._at = self.file.tell()
        self._num_bytes = math.prod(self.shape) * self.dtype.plain().itemsize
        self.file.seek(self._num_bytes, os.SEEK_CUR)

    def array(self, file: BinaryIO) -> NDArray[Any]:
        """The array, read anew from the file."""
        file.seek(self._at)
        data = file.read(min(self._num_bytes, MAX_BYTES))
        return _Array.of_buffer(data, self.dtype, self.shape, self.order).array(file)


_STANDS_FOR: dict[str, Any] = {
    "numpy.ndarray": _Array,
    "numpy.dtype": _DType,
    "numpy._core.multiarray._reconstruct": _Array,
    "numpy._core.multiarray.scalar": _Object,
    "numpy._core.numeric._frombuffer": _Array.of_buffer,
    "_codecs.encode": lambda text, _encoding: text.encode("latin1"),  # bytes, until protocol 3
}
