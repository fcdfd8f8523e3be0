"""The bytes of the files that an utterance becomes, in parts that are written one by one.

A feature file of torch's has the bytes that `torch.save` writes: a zip archive around those of the
tensor. For one dtype and shape only the tensor's bytes and their checksum differ. So `torch.save`,
which spends long in Python, writes one archive for each shape, and all files of that shape reuse
what stands around its tensor. (They share its `serialization_id`, which no reader compares.) If
torch writes an archive of another structure, `torch.save` writes every file.
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

log = logging.getLogger(__name__)

_WORDS = {2: torch.int16, 4: torch.int32}  # numpy has no bfloat16; copying needs only the size

Surroundings = tuple[bytes, bytes, list[int]]


@functools.lru_cache(maxsize=1024)  # 2 kB each; a corpus has about a thousand lengths
def _surroundings(dtype: torch.dtype, shape: tuple[int, ...]) -> Surroundings | None:
    """An archive's bytes before the tensor's, those after, and where in these the CRC stands.

    None if torch writes an archive of another structure.
    """
    # By numpy: torch would start a team of OpenMP threads for this writer thread. With more OpenMP
    # threads than cores, the encoder's threads sleep at every barrier from then on.
    zeros = np.zeros(shape, f"i{dtype.itemsize}")
    whole, data = _saved(zeros.data.cast("B"), dtype, shape), bytes(zeros.nbytes)
    # The CRC and both sizes stand twice: behind the data, after a signature, and in the archive's
    # central directory.
    entry = struct.pack("<III", zlib_ng.crc32(data), len(data), len(data))
    end = whole.find(b"PK\x07\x08" + entry)
    before, after = whole[: max(0, end - len(data))], whole[end:]
    places = [after.find(entry), after.rfind(entry)]
    known = end >= len(data) and places[0] < places[1] and whole[len(before) : end] == data
    return (before, after, places) if known else None


@functools.cache
def _is_known() -> bool:
    """Whether torch reads an archive that was put together here, and finds the values put in."""
    values = np.arange(6, dtype=np.int16)
    data = values.data.cast("B")
    around = _surroundings(torch.int16, values.shape)
    found = _loaded(b"".join(_put_together(around, data))) if around else None
    if found is not None and found.tolist() == values.tolist():
        return True
    log.warning("torch.save writes a new kind of archive: saving is slower, the files are as good")
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
    """A feature file as `torch.save` itself writes it."""
    words = np.frombuffer(bytearray(data), f"i{dtype.itemsize}").reshape(shape)
    buffer = io.BytesIO()
    torch.save(torch.from_numpy(words).view(dtype), buffer)
    return buffer.getvalue()


def is_readable(whole: bytes) -> bool:
    """Whether torch loads a feature file, and all checksums in its archive are right."""
    return _loaded(whole) is not None


def _loaded(whole: bytes) -> Tensor | None:
    try:
        with zipfile.ZipFile(io.BytesIO(whole)) as file:
            if not _is_consistent(file, whole) or file.testzip() is not None:
                return None
        found = torch.load(io.BytesIO(whole), weights_only=True)
    except Exception:  # a damaged archive raises whatever its damage leads to
        return None
    return found if isinstance(found, Tensor) else None


def _is_consistent(file: zipfile.ZipFile, whole: bytes) -> bool:
    """Whether all that an archive says of its records agrees, as torch writes it.

    zipfile and torch's reader believe different fields. Of one that is damaged torch's reader
    follows a length or an offset out of the file, and what it does then depends on its memory.
    """
    records = file.infolist()
    alike = {
        (
            *(one.flag_bits, one.compress_type, one.create_version, one.create_system),
            *(one.extract_version, one.volume, one.internal_attr, one.external_attr),
            *(one.date_time, one.extra, one.comment, one.file_size - one.compress_size),
        )
        for one in records
    }
    end = len(whole) - 22
    directory = len(records), end - file.start_dir, file.start_dir  # number, bytes, offset
    if whole[end - 20 : end - 16] == b"PK\6\7":  # the long form of the same stands before the end
        long = end - 20 - 56
        directory = len(records), long - file.start_dir, file.start_dir
        made_by = whole[long + 12 : long + 16]
        if whole[long:end] != struct.pack(
            "<4sQ4sIIQQQQ4sIQI",
            *(b"PK\6\6", 44, made_by, 0, 0, len(records), *directory),
            *(b"PK\6\7", 0, long, 1),
        ):
            return False
    short = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, len(records), *directory, 0)
    return len(alike) == 1 and whole[end:] == short


def encode_features(features: Tensor) -> list[Buffer]:
    """A feature file's bytes, in parts: of (1, num_frames, hidden_size), channel by channel.

    Features that lie channel by channel, as the encoder gives them, are not copied. Others are
    copied by numpy: torch would start threads on all cores for each writer thread (10x slower).
    """
    words = features.view(_WORDS[features.element_size()]).numpy()
    transposed = np.ascontiguousarray(words.swapaxes(1, 2))
    return archive(transposed.data.cast("B"), features.dtype, transposed.shape)


def encode_npy(features: Tensor) -> list[Buffer]:
    """A .npy file's bytes, in parts: of (layers, num_frames, hidden_size), frame by frame.

    The array is (num_frames, hidden_size) if there is one layer, else (layers, num_frames,
    hidden_size). `features` is not of bfloat16, which NumPy has not.
    """
    values = features.numpy()
    array = np.ascontiguousarray(values[0] if len(values) == 1 else values)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    return [header.getvalue(), array.data.cast("B")]


def encode_wav(wav32k: Tensor) -> list[Buffer]:
    """A WAV file's bytes, in parts: RIFF header, then int16 mono samples at 32 kHz."""
    samples = wav32k.contiguous().numpy().astype("<i2", copy=False).data.cast("B")
    return [wav_header(len(samples)), samples]


WAV_HEADER = 44  # bytes


def wav_header(num_bytes: int) -> bytes:
    """What a WAV file of so many bytes of int16 mono samples at 32 kHz begins with."""
    rate, width = RECORDING_RATE_HZ, 2
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        *(b"RIFF", 36 + num_bytes, b"WAVE"),
        *(b"fmt ", 16, 1, 1, rate, rate * width, width, 8 * width),
        *(b"data", num_bytes),
    )
