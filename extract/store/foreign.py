"""Files in a store that no ledger names: another program's, or those a killed run had just written.

A run leaves a note in the store when it begins and removes it when it has finished. Without a note,
a file that no ledger names is foreign: another program made it. With a note, a run was cut short
and may have left files without lines. Only the files that the note lists are then foreign, since
they were there before that run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Set
from pathlib import Path

from extract.files import read_whole, replace_whole
from extract.manifest.ids import check_id
from extract.shard import Shard
from extract.store.lock import PRIVATE
from extract.store.store import Store

_NOTE = re.compile(r"unfinished-\d+-of-\d+")
_OWNER = re.compile(r"owner-\d+-of-\d+\.json")  # what a killed run of 0.1.0 left instead of a note
_MAX_NOTE = 1 << 30  # bytes: ids of some ten million files


def foreign_ids(store: Store, named: Set[str], *, is_new: bool) -> set[str]:
    """The ids whose files in the store another program made.

    Args:
        store: the store.
        named: the ids whose files a ledger names.
        is_new: whether no run ever began here; notes are then ignored.
    """
    notes = [] if is_new else [*_files(store.directory, _NOTE), *_files(store.directory, _OWNER)]
    if not notes:
        return {id_ for id_ in store.layout.ids_of_files() if id_ not in named}
    listed = {id_ for note in notes for id_ in _listed(note)} - named
    return {id_ for id_ in listed if not check_id(id_) and store.layout.has_files(id_)}


def left_without_lines(store: Store, ids: Iterable[str]) -> Iterator[str]:
    """Those of `ids` that have no line, and whose files in the store a killed run had just written.

    Call it once the files that lines name are gone.
    """
    notes = [*_files(store.directory, _NOTE), *_files(store.directory, _OWNER)]
    if notes:
        listed = {id_ for note in notes for id_ in _listed(note)}
        yield from (id_ for id_ in ids if id_ not in listed and store.layout.has_files(id_))


def begin(directory: Path, shard: Shard, foreign: Set[str], *, alone: bool) -> None:
    """Leaves the note that `shard` begins, which lists the foreign files that it found.

    A note left under another sharding is copied to every shard of this one: the files without lines
    may belong to any of them.
    """
    left = [*_files(directory, _NOTE), *_files(directory, _OWNER)] if alone else []
    mine = _note(directory, shard)
    notes = {mine}
    for name in (path.name.removesuffix(".json") for path in left):
        same = [some for some in shard.all() if name.endswith(f"-{some}")]
        notes.update(_note(directory, some) for some in same or shard.all())
    text = "\n".join(sorted(id_ for id_ in foreign if not check_id(id_))).encode()
    for note in notes:
        replace_whole(note, text, fsync=note == mine)
    for path in left:
        if path not in notes:
            path.unlink()


def end(directory: Path, shard: Shard) -> None:
    """Removes the note of a shard that has done all it had to do."""
    _note(directory, shard).unlink(missing_ok=True)


def _note(directory: Path, shard: Shard) -> Path:
    return directory / PRIVATE / f"unfinished-{shard}"


def _files(directory: Path, name: re.Pattern[str]) -> Iterator[Path]:
    private = directory / PRIVATE
    for path in sorted(private.iterdir()) if private.is_dir() else ():
        if name.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            yield path


def _listed(note: Path) -> list[str]:
    return read_whole(note, _MAX_NOTE).decode("utf8", "replace").split("\n")
