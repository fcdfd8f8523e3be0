"""The bytes of the two files that an utterance becomes, in parts that are written one by one.

A feature file is what `torch.save` writes, without its price in Python for each: a zip archive
around the tensor's bytes. For one dtype and shape only those bytes and their checksum differ, so
what stands around them is cut out of an archive that torch wrote itself, once for each shape. (Its
`serialization_id`, which no reader compares, then names the shape alone.) Where torch writes
another archive than that, `torch.save` writes each file.
"""

import functools
import io
import logging
import struct
import zipfile

import numpy as np
import torch
from torch import Tensor
from zlib_ng import zlib_ng  # its CRC is 15 times as fast as zlib's

from extract.files import Buffer
from extract.frames import RECORDING_RATE_HZ
from extract.text import printable, shortened

log = logging.getLogger(__name__)

_WORDS = {2: torch.int16, 4: torch.int32}  # numpy knows no bfloat16; a copy needs only sizes

Surroundings = tuple[bytes, bytes, list[int]]


@functools.lru_cache(maxsize=1024)  # 2 kB each; a corpus has about a thousand lengths
def _surroundings(dtype: torch.dtype, shape: tuple[int, ...]) -> Surroundings | None:
    """What stands before and after the tensor's bytes, and where in the latter their CRC does.

    None where torch writes another archive than the one known here.
    """
    # By numpy: torch would call up threads of its own for this writer's, and with more of them than
    # cores OpenMP sends the encoder's to sleep at every barrier, from then on.
    zeros = np.zeros(shape, f"i{dtype.itemsize}")
    whole, data = _saved(zeros.data.cast("B"), dtype, shape), bytes(zeros.nbytes)
    # CRC and both sizes: behind the data, after a signature, and in the directory at the end.
    entry = struct.pack("<III", zlib_ng.crc32(data), len(data), len(data))
    end = whole.find(b"PK\x07\x08" + entry)
    before, after = whole[: max(0, end - len(data))], whole[end:]
    places = [after.find(entry), after.rfind(entry)]
    known = end >= len(data) and places[0] < places[1] and whole[len(before) : end] == data
    return (before, after, places) if known else None


@functools.cache
def _is_known() -> bool:
    """Whether an archive put together here is one that torch reads as what it is made of."""
    values = np.arange(6, dtype=np.int16)
    data = values.data.cast("B")
    around = _surroundings(torch.int16, values.shape)
    found = _loaded(b"".join(_put_together(around, data))) if around else None
    if found is not None and found.tolist() == values.tolist():
        return True
    log.warning("torch.save writes another archive than the one known here: slower, equally right")
    return False


def archive(data: memoryview, dtype: torch.dtype, shape: tuple[int, ...]) -> list[Buffer]:
    """A file that `torch.load` reads as a contiguous tensor of `data`'s bytes, in parts."""
    around = _surroundings(dtype, shape) if _is_known() else None
    return _put_together(around, data) if around else [_saved(data, dtype, shape)]


def _put_together(around: Surroundings, data: memoryview) -> list[Buffer]:
    before, after, places = around
    ending = bytearray(after)
    crc = zlib_ng.crc32(data)
    for place in places:
        struct.pack_into("<I", ending, place, crc)
    return [before, data, ending]


def _saved(data: memoryview, dtype: torch.dtype, shape: tuple[int, ...]) -> bytes:
    """What `torch.save` itself writes."""
    words = np.frombuffer(bytearray(data), f"i{dtype.itemsize}").reshape(shape)
    buffer = io.BytesIO()
    torch.save(torch.from_numpy(words).view(dtype), buffer)
    return buffer.getvalue()


def is_readable(whole: bytes) -> bool:
    """Whether a feature file loads and its records have the checksums that it holds."""
    return _loaded(whole) is not None


def _loaded(whole: bytes) -> Tensor | None:
    try:
        with zipfile.ZipFile(io.BytesIO(whole)) as file:
            # torch stores records as they are. Python reads over a size that is too large; torch
            # takes what lies behind the record in memory.
            stored = all(one.file_size == one.compress_size for one in file.infolist())
            if not stored or file.testzip() is not None:
                return None
        found = torch.load(io.BytesIO(whole), weights_only=True)
    except Exception:  # a damaged archive raises whatever its damage leads to
        return None
    return found if isinstance(found, Tensor) else None


def encode_features(features: Tensor) -> list[Buffer]:
    """A feature file's bytes, in parts: of (1, num_frames, hidden_size), channel by channel.

    Features that lie channel by channel, as the encoder gives them, are not copied. Other ones are,
    by numpy, since torch would call up every core from every writer thread (10x slower).
    """
    words = features.view(_WORDS[features.element_size()]).numpy()
    transposed = np.ascontiguousarray(words.swapaxes(1, 2))
    return archive(transposed.data.cast("B"), features.dtype, transposed.shape)


def load_features(path: str) -> Tensor:
    """A feature file's features, (1, num_frames, hidden_size), in the dtype that was saved.

    Raises:
        OSError: there is no such file.
        ValueError: it is damaged, or holds something else; names it.
    """
    try:
        found = torch.load(path, weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a damaged archive raises whatever its damage leads to
        raise ValueError(f"{printable(path)}: cannot be read: {shortened(str(error))}") from error
    if not isinstance(found, Tensor) or found.dim() != 3 or found.shape[0] != 1:
        raise ValueError(f"{printable(path)}: needed a tensor (1, dimensions, frames)")
    return found.mT


def encode_wav(wav32k: Tensor) -> list[Buffer]:
    """A WAV file's bytes, in parts: RIFF header, then int16 mono samples at 32 kHz."""
    samples = wav32k.contiguous().numpy().astype("<i2", copy=False).data.cast("B")
    rate, width = RECORDING_RATE_HZ, 2
    header = struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        *(b"RIFF", 36 + len(samples), b"WAVE"),
        *(b"fmt ", 16, 1, 1, rate, rate * width, width, 8 * width),
        *(b"data", len(samples)),
    )
    return [header, samples]
