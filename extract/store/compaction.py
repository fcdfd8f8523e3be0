"""Archives and the ledgers' lines brought into agreement: what no line names leaves its archive.

Lines *tile* an archive if their blocks, by offset, follow one another from its first byte to its
ending. Then it holds what they name and nothing else. An archive that they do not tile holds blocks
without lines (a run was killed before it wrote them, or they were dropped), lacks blocks (it was
cut), or its blocks have moved (a run was killed before the lines followed). So each case is seen by
the lines and the archive's length, and settled in the same way:

1. A line holds where the block at its offset has its checksum; else where a block of its id with
   its length and checksum is found; else it is dropped.
2. The archive is replaced by one with the blocks of the lines that hold. It gets its name whole.
3. The lines follow: each ledger is replaced. Then an archive under its former name is removed.

A kill between two steps leaves what step 1 settles. To see that lines that tile an archive are true
of it: blocks keep their order, so the block at offset 0 can only be the first, and so on.

An archive with lines of a ledger on which another process is at work keeps all its offsets: blocks
without lines become blank there, and leave it when a later run is alone.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from extract.store.blocks import Block, Piece, crc_of
from extract.store.layout import Kept, KeptFile, Moved, Records

if TYPE_CHECKING:
    from extract.store.archive_files import ArchiveFiles

MOST_MOVED = 8_000_000_000  # bytes of archives that are there twice until their lines follow

Line = tuple[int, int, int]  # offset, bytes, CRC-32 of a block


class Named:
    """What lines say of one archive, 24 bytes a line."""

    def __init__(self) -> None:
        self.numbers = array("q")
        self.by_me = self.by_others = False

    def add(self, line: Line) -> None:
        """Adds a line."""
        self.numbers.extend(line)

    def lines(self) -> list[Line]:
        """The lines, by offset."""
        found = iter(self.numbers)
        return sorted(zip(found, found, found, strict=True))

    def tile(self, end: int) -> bool:
        """Whether their blocks follow one another from 0 to `end`."""
        at = 0
        for offset, size, _crc in self.lines():
            if offset != at or size <= 0:
                return False
            at += size
        return at == end


class Target(NamedTuple):
    """Where the blocks of an archive are now."""

    name: str
    offsets: dict[Line, int]


GONE = Target("", {})


class Compaction:
    """One pass over the archives of a store.

    Args:
        archives: of the store.
        mine, others, alone: as `Layout.settle` has them.
        write_index: called with the lines of all ledgers once they have followed.
    """

    def __init__(
        self,
        archives: ArchiveFiles,
        mine: Records,
        others: Records,
        *,
        alone: bool,
        write_index: Callable[[Records], None],
    ) -> None:
        self._archives, self._mine, self._others = archives, mine, others
        self._alone, self._write_index = alone, write_index
        self.accounted = set[str]()
        self._moved: dict[str, Target] = {}
        self._num_moved = 0  # bytes
        self._named: dict[str, Named] = {}

    def run(self) -> Iterator[Moved]:
        """Settles each archive; yields as `Layout.settle`."""
        self._read_lines()
        self._note_runs()
        runs = self._archives.runs.unfinished(of_all=self._alone)
        for name in self._archives.names():
            named = self._named.pop(name, None)
            is_noted = self._archives.run_of(name) in runs
            if named is not None:
                if named.by_me or is_noted:  # it may have held lines of mine
                    self._settle(name, named)
                self.accounted.add(name)
            elif is_noted:
                self._moved[name] = GONE
            if self._num_moved > MOST_MOVED:
                yield from self._follow()
        yield from self._follow()
        if self._alone:
            self._archives.runs.forget_others()

    def _read_lines(self) -> None:
        for records, are_mine in ((self._mine, True), (self._others, False)):
            for _id, name, line in self._lines_of(records):
                named = self._named.setdefault(name, Named())
                named.add(line)
                named.by_me |= are_mine
                named.by_others |= not are_mine

    def _lines_of(self, records: Records) -> Iterator[tuple[str, str, Line]]:
        for record in records():
            kept = Kept.of(record)
            for file in kept.files if kept else ():
                name, offset, size, crc = file
                if self._archives.is_place(file) and crc is not None:
                    yield record["id"], name, (offset, size, crc)

    def _note_runs(self) -> None:
        """Notes the runs of archives that may lose lines from now on."""
        mine = {self._archives.run_of(name) for name, some in self._named.items() if some.by_me}
        if mine:
            self._archives.runs.note(mine)

    def _settle(self, name: str, named: Named) -> None:
        size = self._archives.size_of(name)
        end = size - len(self._archives.format.ending)
        if size < 0 or (named.tile(end) and self._archives.ends(name, end)):
            return
        if named.by_others:
            self._blank_out(name, named, end)
        else:
            self._compact(name, named, end)

    def _blank_out(self, name: str, named: Named, end: int) -> None:
        """Makes what no line names blank, and leaves every block where it is."""
        gaps, at = list[Block](), 0
        for offset, size, _crc in named.lines():
            if offset > at:
                gaps.append(Block(None, at, offset - at))
            at = max(at, offset + size)
        if end > at:
            gaps.append(Block(None, at, end - at))
        if not all(self._is_blank(name, gap) for gap in gaps):
            self._archives.blank_out(name, gaps)

    def _is_blank(self, name: str, gap: Block) -> bool:
        """Whether a gap is blank already, or too small for any block."""
        start = self._archives.format.blank(gap.size)
        if gap.size < len(start):
            return True
        with self._archives.opened(name) as file:
            file.seek(gap.offset)
            return file.read(len(start)) == start

    def _compact(self, name: str, named: Named, end: int) -> None:
        """Leaves the blocks of lines that hold, one behind the other."""
        archives, lines = self._archives, named.lines()
        with archives.opened(name) as file:
            places = {line: line[0] for line in lines if _holds(file, line[0], line)}
            if len(places) < len(lines):
                places |= self._found_again(name, file, set(lines) - places.keys())
        blocks = sorted({(place, line[1]) for line, place in places.items()})
        offsets, at = dict[int, int](), 0  # before -> now
        for place, size in blocks:
            offsets[place] = at
            at += size
        if not blocks:
            self._moved[name] = GONE
            return
        target = name
        stay = offsets == {place: place for place, _size in blocks}
        if not stay or at != end or not self._archives.ends(name, end):
            target = archives.new_name() if archives.format.renames else name
            pieces = [Piece(place, size) for place, size in blocks]
            archives.rewrite(name, target, pieces, archives.format.ending)
        now = {line: offsets[place] for line, place in places.items()}
        self._moved[name] = Target(target, now)
        self._num_moved += at

    def _found_again(self, name: str, file: BinaryIO, lost: set[Line]) -> dict[Line, int]:
        """Where the blocks of lines are that are not at their offsets."""
        blocks = {block.id: block for block in self._archives.blocks(name)}
        found: dict[Line, int] = {}
        for id_, archive, line in self._lines_of(self._mine):
            block = blocks.get(id_) if archive == name and line in lost else None
            if block and block.size == line[1] and _holds(file, block.offset, line):
                found[line] = block.offset
        return found

    def _follow(self) -> Iterator[Moved]:
        """Has the lines follow; then removes archives under former names."""
        if not self._moved:
            return
        moved, self._moved, self._num_moved = self._moved, {}, 0

        def place(file: KeptFile) -> KeptFile | None:
            name, offset, size, crc = file
            if name not in moved or crc is None:
                return file
            target, offsets = moved[name]
            now = offsets.get((offset, size, crc))
            return None if now is None else (target, now, size, crc)

        yield place
        self._write_index(self._records)
        for name, target in moved.items():
            self.accounted.add(target.name)
            if target.name != name:
                self._archives.remove(name)

    def _records(self) -> Iterable[Mapping[str, Any]]:
        yield from self._mine()
        yield from self._others()


def _holds(file: BinaryIO, offset: int, line: Line) -> bool:
    """Whether the block at an offset is the one that a line speaks of."""
    _offset, size, crc = line
    with suppress(OSError):
        return offset >= 0 and size > 0 and crc_of(file, offset, size) == crc
    return False
