"""The lines of a store's ledgers, each held against what a line can say."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extract.audit.findings import Findings
from extract.audit.hashes import Hashes
from extract.shard import index_of
from extract.text import count
from extract.values import SAVED, STATUS_OF

_LEDGER = re.compile(r"ledger(?:\.(\d+)-of-(\d+))?\.jsonl")

Record = dict[str, Any]


@dataclass(frozen=True)
class Ledger:
    """A ledger, and which part of the store it is of."""

    path: Path
    index: int
    count: int


def ledgers(directory: Path) -> list[Ledger]:
    """The ledgers in a store."""
    found = ((path, _LEDGER.fullmatch(path.name)) for path in sorted(directory.iterdir()))
    return [Ledger(path, int(match[1] or 0), int(match[2] or 1)) for path, match in found if match]


def records(directory: Path, findings: Findings) -> Iterator[Record]:
    """The records of all lines that are whole, in the ledgers' order."""
    all_ledgers = ledgers(directory)
    counts = Counter(ledger.count for ledger in all_ledgers)
    if len(counts) > 1:
        parts = ", ".join(f"{number} of {of}" for of, number in sorted(counts.items()))
        findings.add("wrong_shard", "ledgers", f"several divisions at once: {parts}")
    for ledger in all_ledgers:
        yield from _records(ledger, findings)


def _records(ledger: Ledger, findings: Findings) -> Iterator[Record]:
    with ledger.path.open("rb") as file:
        for number, line in enumerate(file, 1):
            findings.num_lines += 1
            where = f"{ledger.path.name}, line {number}"
            if not line.endswith(b"\n"):
                findings.add("torn_line", where)
                continue
            try:
                record = json.loads(line)
                id_ = record["id"]
                if not isinstance(id_, str):
                    raise TypeError("id is no text")
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                findings.add("bad_line", where, f"{type(error).__name__}: {error}"[:200])
                continue
            _check(record, ledger, where, findings)
            yield record


def _check(record: Record, ledger: Ledger, where: str, findings: Findings) -> None:
    """Status, reason and shard of a line."""
    id_, status, reason = record["id"], record.get("status"), record.get("reason")
    statuses: Mapping[Any, str] = {None: SAVED, **STATUS_OF}
    if statuses.get(reason if isinstance(reason, str) else None) != status:
        findings.add("bad_reason", where, f"{status!r} with {reason!r}", id=id_)
    if index_of(id_, ledger.count) != ledger.index:
        findings.add("wrong_shard", where, id_, id=id_)


def note_repeated(directory: Path, ids: Hashes, findings: Findings) -> None:
    """Names the ids that have several lines; reads the ledgers again if there are any."""
    repeated = ids.repeated()
    if not len(repeated):
        return
    lines = Counter[str]()
    for record in records(directory, Findings()):
        if ids.of(record["id"]) in repeated:
            lines[record["id"]] += 1
    for id_, number in lines.items():
        findings.add("twice", id_, count(number, "line"), id=id_)
