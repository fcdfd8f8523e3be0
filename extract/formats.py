"""The bytes of the two files that an utterance becomes, in parts that are written one by one.

A feature file is what `torch.save` writes, without its price in Python for each: a zip archive
around the tensor's bytes. For one dtype and shape only those bytes and their checksum differ, so
what stands around them is cut out of an archive that torch wrote itself, once for each shape. (Its
`serialization_id`, which no reader compares, then names the shape alone.)
"""

import functools
import io
import struct

import numpy as np
import torch
from torch import Tensor
from zlib_ng import zlib_ng  # its CRC is 15 times as fast as zlib's

from extract.frames import RECORDING_RATE_HZ

_WORDS = {2: torch.int16, 4: torch.int32}  # numpy knows no bfloat16; a copy needs only sizes

Buffer = bytes | bytearray | memoryview


@functools.lru_cache(maxsize=1024)  # 2 kB each; a corpus has about a thousand lengths
def _surroundings(dtype: torch.dtype, shape: tuple[int, ...]) -> tuple[bytes, bytes, list[int]]:
    """What stands before and after the tensor's bytes, and where in the latter their CRC does."""
    # By numpy: torch would call up threads of its own for this writer's, and with more of them than
    # cores OpenMP sends the encoder's to sleep at every barrier, from then on.
    tensor = torch.from_numpy(np.zeros(shape, f"i{dtype.itemsize}")).view(dtype)
    buffer = io.BytesIO()
    torch.save(tensor, buffer)
    whole, data = buffer.getvalue(), bytes(tensor.nbytes)
    # CRC and both sizes: behind the data, after a signature, and in the directory at the end.
    entry = struct.pack("<III", zlib_ng.crc32(data), len(data), len(data))
    end = whole.index(b"PK\x07\x08" + entry)
    before, after = whole[: end - len(data)], whole[end:]
    places = [after.index(entry), after.rindex(entry)]
    assert places[0] < places[1], "torch.save writes another archive than the one known here"
    return before, after, places


def archive(data: memoryview, dtype: torch.dtype, shape: tuple[int, ...]) -> list[Buffer]:
    """A file that `torch.load` reads as a contiguous tensor of `data`'s bytes, in parts."""
    before, after, places = _surroundings(dtype, shape)
    ending = bytearray(after)
    crc = zlib_ng.crc32(data)
    for place in places:
        struct.pack_into("<I", ending, place, crc)
    return [before, data, ending]


def encode_features(features: Tensor) -> list[Buffer]:
    """A feature file's bytes, in parts: (num_frames, hidden_size) -> (1, hidden_size, num_frames).

    Features that lie channel by channel, as the encoder gives them, are not copied. Other ones are,
    by numpy, since torch would call up every core from every writer thread (10x slower).
    """
    words = features.view(_WORDS[features.element_size()]).numpy()
    transposed = np.ascontiguousarray(words.T)
    return archive(transposed.data.cast("B"), features.dtype, (1, *transposed.shape))


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


def num_bytes(parts: list[Buffer]) -> int:
    """Length of a file given in parts."""
    return sum(map(len, parts))


def crc32(parts: list[Buffer]) -> int:
    """Checksum of a file given in parts."""
    return functools.reduce(lambda crc, part: zlib_ng.crc32(part, crc), parts, 0)
