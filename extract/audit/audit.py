"""`audit`: reads the list, the ledgers and the tree of a store, and notes all that is wrong."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from extract.audit.about import About, about
from extract.audit.findings import Findings
from extract.audit.forms import Form, form
from extract.audit.hashes import Hashes
from extract.audit.ledgers import Record, note_repeated, records
from extract.audit.lists import note_missing
from extract.audit.tree import NamedFiles, note_strays
from extract.audit.utterances import breaches, has_own_names, named_files, units_breach
from extract.values import SAVED

CHUNK = 256  # utterances that are read at a time; memory does not grow with the store
OF_ALL = 1 << 64

_Progress = Callable[[int], None]


def audit(
    directory: Path,
    listed: Path | None = None,
    sample: float = 1.0,
    progress: _Progress = lambda num: None,
) -> Findings:
    """Audits a store, in threads; changes nothing.

    Args:
        directory: the store.
        listed: a file with the ids that must have a line, one a line; None: what the last runs were
            given, by the notes that they left.
        sample: the share of saved utterances whose files are read; all lines and names are.
        progress: called with the number of lines of each chunk.

    Raises:
        OSError: a ledger, the list or a folder cannot be read.
    """
    findings, ids, named = Findings(), Hashes(), NamedFiles()
    settings = about(directory, findings)
    of_layout = _form(settings, findings)

    def examine(record: Record) -> None:
        assert settings is not None
        assert of_layout is not None
        for breach in breaches(directory, record, settings, of_layout, findings.width_of_all):
            findings.add(*breach, id=record["id"])

    with ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1))) as pool:
        for chunk in _chunks(records(directory, findings)):
            wanted = []
            for record in chunk:
                ids.add(record["id"])
                if _is_to_read(record, of_layout, named, findings, sample):
                    wanted.append(record)
            findings.num_read += len(wanted)
            list(pool.map(examine, wanted))
            progress(len(chunk))
    note_repeated(directory, ids, findings)
    note_missing(directory, listed, ids, findings)
    note_strays(directory, of_layout, named, findings)
    return findings


def _form(settings: About | None, findings: Findings) -> Form | None:
    """The form of the store's files; None, and why in the findings, where it is not known."""
    if settings is None:
        findings.not_audited = "without metadata.json it is not known what the files should be"
        return None
    if not settings.has_files:
        return None
    folder, levels = map(settings.identity.get, ("store.folder", "store.subfolders"))
    found = form(settings.layout, str(folder or ""), levels if isinstance(levels, int) else 0)
    if found is None:
        findings.not_audited = f"the layout {settings.layout} is not of this package"
    return found


def _chunks(lines: Iterable[Record]) -> Iterator[list[Record]]:
    iterator = iter(lines)
    while chunk := list(itertools.islice(iterator, CHUNK)):
        yield chunk


def _is_to_read(
    record: Record, of_layout: Form | None, named: NamedFiles, findings: Findings, sample: float
) -> bool:
    """Notes what is wrong with a line, and what it names; returns whether to read its files."""
    if (breach := units_breach(record)) is not None:
        findings.add(*breach, id=record["id"])
    if record.get("status") != SAVED:
        return False
    findings.num_saved += 1
    if of_layout is None:
        return False
    try:
        files = named_files(record, of_layout)
        if not has_own_names(record, files, of_layout):
            raise ValueError(", ".join(name for name, *_rest in files))
    except (ValueError, TypeError) as error:
        findings.add("wrong_name", record["id"], str(error)[:200], id=record["id"])
        return False
    named.add(record["id"], files, record.get("num_frames"), of_layout)
    return Hashes.of(record["id"]) < sample * OF_ALL
