"""The file that `torch.save` writes for one tensor, without its price in Python for each.

It is a zip archive around the tensor's bytes. For one dtype and shape only those bytes and their
checksum differ, so what stands around them is cut out of an archive that torch wrote itself, once
for each shape. (Its `serialization_id`, which no reader compares, then names the shape alone.)
"""

import io
import struct
import zlib
from functools import lru_cache

import torch

Buffer = bytes | bytearray | memoryview


@lru_cache(maxsize=1024)  # 2 kB each; a corpus has about a thousand lengths
def _surroundings(dtype: torch.dtype, shape: tuple[int, ...]) -> tuple[bytes, bytes, list[int]]:
    """What stands before and after the tensor's bytes, and where in the latter their CRC does."""
    tensor = torch.zeros(shape, dtype=dtype)
    buffer = io.BytesIO()
    torch.save(tensor, buffer)
    whole, data = buffer.getvalue(), bytes(tensor.nbytes)
    # CRC and both sizes: behind the data, after a signature, and in the directory at the end.
    entry = struct.pack("<III", zlib.crc32(data), len(data), len(data))
    end = whole.index(b"PK\x07\x08" + entry)
    before, after = whole[: end - len(data)], whole[end:]
    places = [after.index(entry), after.rindex(entry)]
    assert places[0] < places[1], "torch.save writes another archive than the one known here"
    return before, after, places


def archive(data: memoryview, dtype: torch.dtype, shape: tuple[int, ...]) -> list[Buffer]:
    """A file that `torch.load` reads as a contiguous tensor of `data`'s bytes, in parts."""
    before, after, places = _surroundings(dtype, shape)
    ending = bytearray(after)
    crc = zlib.crc32(data)
    for place in places:
        struct.pack_into("<I", ending, place, crc)
    return [before, data, ending]
