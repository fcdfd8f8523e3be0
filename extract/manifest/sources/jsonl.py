"""A manifest of JSON lines, NeMo's for one: dataset=jsonl dataset.path=FILE.jsonl"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from extract.fields import location
from extract.json_lines import parsed
from extract.manifest.extra import extra_of
from extract.manifest.listed import BadLine, list_lines, listed, of_the_part_read
from extract.manifest.paths import StrPath, canonical, existing_list
from extract.manifest.places import Places
from extract.manifest.source import Output, SourceOptions, read_source
from extract.text import shortened
from extract.urls import file_name
from extract.values import Entry, Failure

if TYPE_CHECKING:
    from extract.manifest.manifest import Manifest

NEEDED = 'a JSON object in each, {"audio_filepath": ...}'


@dataclass
class Options(SourceOptions):
    """A manifest of JSON lines, as NeMo's tools write it."""

    kind: str = "jsonl"
    path: str = location()  # the manifest
    audio_key: str = "audio_filepath"  # the key of a recording's path


def source(options: Options) -> str:
    """The manifest's canonical path; ValueError if there is no such file."""
    return canonical(existing_list(options.path))


def read(options: Options, output: Output) -> Iterator[Entry | Failure]:
    """A recording, or a cut of one, for each line, or a failure: `read_jsonl`."""
    path, places = source(options), Places.of_list(options.path)
    parse = partial(_parse, places, options.audio_key)
    yield from listed(path, list_lines(path, NEEDED), parse, output)


def _parse(places: Places, audio_key: str, line: str) -> Entry:
    values = _object(line)
    written, own_id = values.pop(audio_key, None), _id(values.pop("id", None))
    path = places.find(written) if isinstance(written, str) else ""
    if not path:
        raise BadLine(f"{audio_key}: {_shown(written)}; needed the path of a recording")
    offset_s = _seconds("offset", values.pop("offset", None))
    duration_s = _seconds("duration", values.pop("duration", None))
    if offset_s is None:  # then `duration` is the recording's own
        return Entry(own_id or file_name(path), path, 0.0, None, extra_of(values))
    cut = _name_of_cut(file_name(path), path, offset_s, duration_s)
    return Entry(own_id or cut, path, offset_s, duration_s, extra_of(values))


def _name_of_cut(name: str, path: str, offset_s: float, duration_s: float | None) -> str:
    from extract.manifest.cuts import check_cut, name_of_cut  # NumPy

    if problem := check_cut(offset_s, duration_s):
        raise BadLine(problem, path)
    return name_of_cut(name, offset_s, duration_s) if offset_s or duration_s is not None else name


def _object(line: str) -> dict[str, Any]:
    try:
        values = parsed(line)
    except (ValueError, RecursionError) as error:
        said = f"{type(error).__name__}: {error}".removeprefix("JSONDecodeError: ")
        raise BadLine(f"no JSON{of_the_part_read(line)}: {said}; needed an object") from error
    if not isinstance(values, dict):
        raise BadLine(f"{_shown(values)}; needed a JSON object")
    return values


def _seconds(key: str, value: Any) -> float | None:
    """A time of the manifest; None if it has none."""
    if value is None or type(value) is float:
        return value
    try:
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            return float(value)
    except (ValueError, OverflowError):
        pass
    raise BadLine(f"{key}: {_shown(value)}; needed seconds")


def _id(value: Any) -> str:
    """The id that the manifest gives; "" if it gives none."""
    if value is None or type(value) is str:
        return value or ""
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise BadLine(f"id: {_shown(value)}; needed text or a whole number")
    return str(value)


def _shown(value: Any) -> str:
    if isinstance(value, str | int | float):
        return shortened(repr(value))
    if value is None:
        return "nothing"
    return "an object" if isinstance(value, dict) else "a list"


def read_jsonl(path: StrPath, audio_key: str = "audio_filepath") -> Manifest:
    """The recordings of a manifest of JSON lines, one object a line, as NeMo's tools write it.

    `offset` and `duration`, in seconds, make a cut. Without `offset` the recording is taken whole:
    `duration` is then its own. The id is `id`, else the file's name, for a cut with its ends in
    milliseconds: `a.wav-1500-3500`. Other keys are the entry's `extra`. A relative path starts at
    the working folder, then at the manifest's own. A line that is no such object is a failure.

    Args:
        path: the manifest; any line ends, in UTF-8, UTF-16 with its mark, or GB18030.
        audio_key: the key of a recording's path.

    Raises:
        ValueError: no such file, not readable, an encoding that is none of these, nothing in it,
            or two recordings or cuts of the same id.
    """
    return read_source(Options(kind="jsonl", path=os.fspath(path), audio_key=audio_key), Output())
