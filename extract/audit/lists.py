"""Which utterances must have a line: by a list, or by the notes that runs left of theirs."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from extract.audit.findings import Findings
from extract.audit.hashes import Hashes, Known

_NOTE = re.compile(r"(listed(?:-[0-9a-f]{8})?)-(\d+)-of-(\d+)")
_BLOCK = 1 << 20  # bytes


def note_missing(directory: Path, listed: Path | None, ids: Hashes, findings: Findings) -> None:
    """Names what has no line in any ledger though a list or a run's note has it.

    Also names the parts that have no note, where other parts of the same list have one.

    Args:
        directory: the store.
        listed: a file of ids, one a line; None: the notes.
        ids: of all lines.
        findings: takes what is missing.
    """
    known = Known(ids)
    if listed is not None:
        _note((line.removesuffix("\r") for line in _ids(listed, b"\n")), known, findings)
        return
    parts = defaultdict[tuple[str, int], set[int]](set)
    for path in sorted((directory / ".extract").glob("listed-*")):
        if match := _NOTE.fullmatch(path.name):
            parts[match[1], int(match[3])].add(int(match[2]))
            _note(_ids(path, b"\0"), known, findings)
    for (_name, count), indices in sorted(parts.items()):
        for index in sorted({*range(count)} - indices):
            findings.add("no_run", f"part {index} of {count}")
    findings.has_list = bool(parts)


def _note(ids: Iterator[str], known: Known, findings: Findings) -> None:
    for id_ in ids:
        if id_ and id_ not in known:
            findings.add("no_line", id_)


def _ids(path: Path, end: bytes) -> Iterator[str]:
    """The ids in a file, of which each ends with `end`."""
    left = b""
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            *whole, left = (left + block).split(end)
            yield from (id_.decode("utf8", "surrogateescape") for id_ in whole)
    yield left.decode("utf8", "surrogateescape")
