"""Which runs were cut short while they made archives: what no line names in these is theirs.

A process notes its run before its first archive appears, and the runs of all archives before it
drops a line about them. It removes the note once all of its lines are written. So an archive
without lines, of a run that no note has, is another program's and is kept.
"""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from extract.files import make_folder, read_whole, replace_whole
from extract.manifest.folders import PRIVATE
from extract.store.files import StoreFiles

_NOTE = re.compile(r"archives-\d+-of-\d+")
_RUN = re.compile(r"[0-9a-f]{8}")


class Runs:
    """The notes in a store's private folder, one a shard."""

    def __init__(self, files: StoreFiles) -> None:
        self.mine = secrets.token_hex(4)  # this process's run
        self._files, self._folder = files, files.directory / PRIVATE
        self._lock, self._begun = threading.Lock(), False

    def begin(self) -> None:
        """Notes this process's run, once."""
        with self._lock:
            if not self._begun:
                self.note([self.mine])
                self._begun = True

    def note(self, runs: Iterable[str]) -> None:
        """Adds runs to this shard's note.

        Raises:
            OSError: it cannot be written.
        """
        found = set(self._read(self._note))
        if new := set(runs) - found:
            make_folder(self._folder)
            text = "\n".join(sorted(found | new))
            replace_whole(self._note, text.encode(), fsync=self._files.fsync)

    def unfinished(self, *, of_all: bool) -> set[str]:
        """The runs that this shard's note has, or those of all shards' notes."""
        return {
            run for path in (self._notes() if of_all else [self._note]) for run in self._read(path)
        }

    def end(self) -> None:
        """Removes this shard's note: every utterance in an archive has its line."""
        with self._lock:
            self._note.unlink(missing_ok=True)
            self._begun = False

    def forget_others(self) -> None:
        """Removes the notes of other shards, none of which is at work."""
        for path in self._notes():
            if path != self._note:
                path.unlink(missing_ok=True)

    @property
    def _note(self) -> Path:
        return self._folder / f"archives-{self._files.part}"

    def _notes(self) -> list[Path]:
        if not self._folder.is_dir():
            return []
        return sorted(path for path in self._folder.iterdir() if _NOTE.fullmatch(path.name))

    def _read(self, path: Path) -> Iterator[str]:
        with suppress(OSError):
            yield from _RUN.findall(read_whole(path).decode("ascii", "replace"))
