"""A Kaldi folder, wav.scp and perhaps segments: dataset=kaldi dataset.path=DIR"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from extract.fields import location
from extract.manifest.listed import BadLine, list_lines, listed
from extract.manifest.paths import StrPath, canonical, existing_folder, existing_list
from extract.manifest.places import Places
from extract.manifest.source import Output, SourceOptions, read_source
from extract.text import count, printable, shortened
from extract.values import Entry, Failure

if TYPE_CHECKING:
    from extract.manifest.manifest import Manifest


@dataclass
class Options(SourceOptions):
    """A Kaldi data folder."""

    kind: str = "kaldi"
    path: str = location()  # the folder, with wav.scp and perhaps segments


def source(options: Options) -> str:
    """The folder's canonical path; ValueError if there is no such folder."""
    return canonical(existing_folder(options.path))


def read(options: Options, output: Output) -> Iterator[Entry | Failure]:
    """A recording for each line of `wav.scp`, or a cut for each of `segments`: `read_kaldi`."""
    folder = source(options)
    wav_scp, segments = existing_list(f"{folder}/wav.scp"), f"{folder}/segments"
    places, lines = Places.of_list(wav_scp), list_lines(wav_scp, "utterance and path in each")
    if not os.path.lexists(segments):
        yield from listed(wav_scp, lines, partial(_recording, places), output)
        return
    cuts = list_lines(existing_list(segments), "utterance, recording, start and end in each")
    cut = partial(_cut, places, _recordings(wav_scp, lines))
    yield from listed(segments, cuts, cut, output)


def _recording(places: Places, line: str) -> Entry:
    name, written = _named(line)
    return Entry(name, _path(places, written))


def _named(line: str) -> tuple[str, str]:
    """The name at the start of a line of `wav.scp`, and what stands behind it."""
    name, *rest = line.split(maxsplit=1) or [""]
    return name, rest[0].strip() if rest else ""


def _path(places: Places, written: str) -> str:
    if written.endswith("|") or written == "-":
        found = "a command" if written != "-" else "standard input"
        raise BadLine(f"{found}: {shortened(written)}; needed the path of a file", written)
    path = places.find(written)
    if not path:
        raise BadLine(f"no path: {shortened(written)!r}; needed that of a file", written)
    return path


def _recordings(wav_scp: str, lines: Iterator[tuple[int, str]]) -> dict[str, str]:
    """What stands behind each recording's name in `wav.scp`; held for the time of reading."""
    found: dict[str, str] = {}
    for number, line in lines:
        name, written = _named(line)
        if found.setdefault(name, written) != written:
            raise ValueError(
                f"{printable(wav_scp)}: line {number}: {shortened(name)} is listed again with "
                "another path; each recording needs a name of its own"
            )
    return found


def _cut(places: Places, recordings: dict[str, str], line: str) -> Entry:
    from extract.manifest.cuts import check_cut  # NumPy

    fields = line.split()
    if len(fields) != 4:
        found = count(len(fields), "field")
        raise BadLine(f"{found}; 4 are needed: utterance, recording, start and end in seconds")
    utterance, name, *ends = fields
    if name not in recordings:
        raise BadLine(f"{shortened(name)} is not in wav.scp; needed a recording that is")
    path = _path(places, recordings[name])
    try:
        start_s, end_s = map(float, ends)
    except ValueError as error:
        found = shortened(" ".join(ends))
        raise BadLine(f"{found}; needed start and end in seconds", path) from error
    duration_s = None if end_s == -1 else end_s - start_s  # -1 stands for the recording's end
    if problem := check_cut(start_s, duration_s):
        raise BadLine(problem, path)
    return Entry(utterance, path, start_s, duration_s)


def read_kaldi(path: StrPath) -> Manifest:
    """The utterances of a Kaldi data folder, under Kaldi's own names and in Kaldi's order.

    With a file `segments` each of its lines, `utterance recording start end` in seconds, is a cut
    of a recording of `wav.scp`; an end of -1 is the recording's. Recordings that no segment names
    are then no utterances. Without it each line of `wav.scp` is one, `utterance path`. Relative
    paths start at the working folder, as Kaldi's do, then at the data folder. A command in the
    place of a path (`sph2pipe ... |`) is not run: it is a failure.

    Args:
        path: the folder with `wav.scp`.

    Raises:
        ValueError: no such folder, no `wav.scp` in it, a file that is not readable, or two
            utterances of one name.
    """
    return read_source(Options(kind="kaldi", path=os.fspath(path)), Output())
