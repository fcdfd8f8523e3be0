"""What can be wrong with a store, and what was found."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Final, Literal

Kind = Literal[
    "bad_metadata",
    "bad_line",
    "torn_line",
    "bad_reason",
    "twice",
    "wrong_shard",
    "no_line",
    "no_run",
    "wrong_name",
    "missing_file",
    "wrong_size",
    "wrong_checksum",
    "unreadable",
    "wrong_shape",
    "wrong_dtype",
    "wrong_frames",
    "not_finite",
    "wrong_audio",
    "wrong_units",
    "wrong_index",
    "stray",
    "temporary",
]

KINDS: Final[dict[Kind, str]] = {
    "bad_metadata": "metadata.json is missing, damaged, or of another format",
    "bad_line": "a line of a ledger is no record",
    "torn_line": "a ledger ends in the middle of a line",
    "bad_reason": "a line's status or reason is none, or they do not go together",
    "twice": "an utterance has several lines",
    "wrong_shard": "a line is in the ledger of another shard, or ledgers divide the store twice",
    "no_line": "an utterance of the list has no line: the same command goes on",
    "no_run": "a part of the list that no run was given, of as many parts as other runs say",
    "wrong_name": "a line names files that are not its utterance's",
    "missing_file": "a file that a line names is not there, or is no regular file",
    "wrong_size": "a file has another length than its line says",
    "wrong_checksum": "a file has other bytes than its line says",
    "unreadable": "a file cannot be read as what it is",
    "wrong_shape": "features have another shape, or another width than the store's others",
    "wrong_dtype": "features have another dtype than their line or the store says",
    "wrong_frames": "features have another number of frames than their line or their audio says",
    "not_finite": "features hold NaN or Inf",
    "wrong_audio": "training audio is no mono of 16 bits at 32 kHz, or of another length",
    "wrong_units": "units are no numbers, or have other bytes than their line says",
    "wrong_index": "a list of the store, such as feats.scp, says something else than its ledgers",
    "stray": "a file of the layout's own kind that no line names",
    "temporary": "an unfinished file that a killed run left",
}

MAX_EXAMPLES = 5  # of each kind that are told


@dataclass
class Findings:
    """Breaches by kind, with a few examples of each. Safe to share among threads."""

    num_lines: int = 0
    num_saved: int = 0
    num_read: int = 0  # of the saved ones, whose files were read
    not_audited: str = ""  # why files were not read
    has_list: bool = True  # whether it is known which utterances must have a line
    counts: Counter[Kind] = field(default_factory=Counter)
    examples: dict[Kind, list[str]] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)  # ids of utterances that are to be done again
    _width: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, kind: Kind, where: str, found: str = "", *, id: str | None = None) -> None:  # noqa: A002
        """Notes a breach at a file or line; `id` is that of the utterance that it breaks."""
        with self._lock:
            self.counts[kind] += 1
            examples = self.examples.setdefault(kind, [])
            if len(examples) < MAX_EXAMPLES:
                examples.append(f"{where}: {found}" if found else where)
            if id is not None:
                self.broken.add(id)

    def width_of_all(self, width: int) -> int:
        """The width of the first features that were read, these or others."""
        with self._lock:
            self._width = self._width or width
            return self._width

    def without(self, ignored: set[Kind]) -> int:
        """Breaches of all kinds but those."""
        return sum(number for kind, number in self.counts.items() if kind not in ignored)
