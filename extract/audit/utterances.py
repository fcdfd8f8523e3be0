"""The files of one saved utterance, held against its line and the store's metadata."""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from extract.audit.about import About
from extract.audit.findings import Kind
from extract.audit.forms import Array, Audio, Form, InArchives, OneFile, read_wave

Named = tuple[str, int, int, int | None]  # a file below the store, offset, bytes, crc32
Breach = tuple[Kind, str, str]


def named_files(record: Mapping[str, Any], form: Form) -> list[Named]:
    """The files that a line names; those of 0.1.0 follow from the id.

    Raises:
        ValueError, TypeError: it names none.
    """
    files = record.get("files")
    if files is None and isinstance(form, OneFile) and "feature_bytes" in record:
        sizes = (record["feature_bytes"], None), (record.get("wav_bytes"), record.get("wav_crc32"))
        pairs = zip(form.names(record["id"]), sizes, strict=True)
        return [(name, 0, size, crc) for name, (size, crc) in pairs if size is not None]
    if not files:
        raise ValueError("no files")
    return [(str(name), int(at), int(size), crc) for name, at, size, crc in files]


def has_own_names(record: Mapping[str, Any], files: list[Named], form: Form) -> bool:
    """Whether the files are those of the line's id, or can hold it."""
    names = [name for name, *_rest in files]
    if isinstance(form, InArchives):
        (folder, slash, base), number = names[0].partition("/"), len(names)
        return number == 1 and folder == form.folder and bool(slash) and base.endswith(form.suffix)
    own = form.names(record["id"])
    return names in (own, own[:1])


def breaches(
    directory: Path,
    record: Mapping[str, Any],
    about: About,
    form: Form,
    width_of_all: Callable[[int], int],
) -> Iterator[Breach]:
    """What is wrong with the files of a saved line: kind, file, and what was found."""
    array: Array | None = None
    audio: Audio | None = None
    for position, (name, at, size, crc) in enumerate(named_files(record, form)):
        data, breach = _content(directory, name, at, size, crc, form)
        if breach is not None:
            yield breach
        if data is None:
            continue
        try:
            if isinstance(form, InArchives):
                array, audio = form.read(data, record["id"])
            elif position == 0:
                array = form.read(data)
            else:
                audio = read_wave(data)
        except Exception as error:  # of torch, NumPy, tarfile, wave: anything, of damaged bytes
            yield "unreadable", name, f"{type(error).__name__}: {error}".splitlines()[0][:200]
    if array is not None:
        yield from _of_features(record, array, about)
        if (width := array.shape[2]) != (common := width_of_all(width)):
            yield "wrong_shape", record["id"], f"{width} dimensions; others have {common}"
    if audio is not None:
        yield from _of_audio(record, audio, about)
    elif about.has_audio and array is not None:
        yield "wrong_audio", record["id"], "none that can be read"


def _content(
    directory: Path, name: str, at: int, size: int, crc: int | None, form: Form
) -> tuple[bytes | None, Breach | None]:
    """The bytes that a line speaks of."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    try:
        if not stat.S_ISREG((directory / name).lstat().st_mode):
            return None, ("missing_file", name, "no regular file")
        descriptor = os.open(directory / name, flags)
    except OSError as error:
        return None, ("missing_file", name, str(error.strerror))
    with open(descriptor, "rb") as file:
        about = os.fstat(file.fileno())
        is_short = about.st_size < at + size
        if is_short or (isinstance(form, OneFile) and about.st_size != size):
            return None, (
                "wrong_size",
                name,
                f"{about.st_size} bytes; its line says {size} at {at}",
            )
        file.seek(at)
        data = file.read(size)
    if crc is not None and zlib.crc32(data) != crc:
        return data, ("wrong_checksum", name, "")
    return data, None


def _of_features(record: Mapping[str, Any], array: Array, about: About) -> Iterator[Breach]:
    id_, (layers, frames, width) = record["id"], array.shape
    said, duration_s = record.get("num_frames"), record.get("duration_s")
    if not array.finite:
        yield "not_finite", id_, ""
    if layers != about.layers or width == 0:
        yield "wrong_shape", id_, f"{array.shape}; needed {about.layers} layer(s)"
    if array.dtype not in about.dtypes() or not _is_said(array.dtype, record, about):
        yield "wrong_dtype", id_, f"{array.dtype}; its line says {record.get('dtype')}"
    if not isinstance(said, int) or not isinstance(duration_s, int | float):
        yield "wrong_frames", id_, f"its line says {said!r} frames of {duration_s!r} s"
    elif frames not in about.frames_in_file(said, duration_s):
        yield "wrong_frames", id_, f"{frames} frames; its line says {said}"
    elif said not in about.frames(duration_s):
        yield "wrong_frames", id_, f"{said} frames of {duration_s} s"


def _is_said(dtype: str, record: Mapping[str, Any], about: About) -> bool:
    """Whether a line says that dtype. webdataset's files hold bfloat16 as float32."""
    return record.get("dtype") == dtype or dtype == "float32"


def _of_audio(record: Mapping[str, Any], audio: Audio, about: About) -> Iterator[Breach]:
    duration_s, clipped = record.get("duration_s"), record.get("clipped_samples")
    if isinstance(duration_s, int | float) and audio.num_samples not in about.samples(duration_s):
        yield "wrong_audio", record["id"], f"{audio.num_samples} samples of {duration_s} s"
    if isinstance(clipped, int) and audio.num_at_full_scale < clipped:
        found = f"{audio.num_at_full_scale} samples at full scale; its line says {clipped}"
        yield "wrong_audio", record["id"], found


def units_breach(record: Mapping[str, Any]) -> Breach | None:
    """What is wrong with the units in a line."""
    text = record.get("units")
    if text is None:
        return None
    if not isinstance(text, str) or zlib.crc32(text.encode()) != record.get("units_crc32"):
        return "wrong_units", record["id"], "another checksum than its line says"
    if not all(unit.isascii() and unit.isdecimal() for unit in text.split(" ") if text):
        return "wrong_units", record["id"], "they are no numbers"
    return None
