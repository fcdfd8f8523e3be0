"""What is in an archive: blocks of a format, one an utterance; and copies without some of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Protocol

from zlib_ng import zlib_ng  # its CRC is 15 times as fast as zlib's

from extract.files import Buffer

if TYPE_CHECKING:
    from torch import Tensor

    from extract.values import Encoded

COPIED_AT_ONCE = 1 << 20  # bytes


class Block(NamedTuple):
    """One utterance in an archive."""

    id: str | None  # None: it belongs to no utterance
    offset: int
    size: int  # bytes


class Piece(NamedTuple):
    """A part of an archive that is copied, or is blank in the copy."""

    offset: int
    size: int
    is_blank: bool = False


class Format(Protocol):
    """A kind of archive: blocks one behind the other, and an ending.

    A block begins with bytes that are its utterance's alone.
    """

    suffix: str
    """Of an archive's name."""

    ending: bytes
    """Behind the last block."""

    renames: bool
    """Whether an archive whose blocks move gets another name, since its readers hold offsets. Else
    it is replaced under its own, so that no reader finds an utterance twice."""

    def block(self, item: Encoded) -> list[Buffer]:
        """The bytes of an utterance, in parts."""

    def start(self, id: str) -> bytes:  # noqa: A002 - the ledger's own word
        """The first bytes of an utterance's block."""

    def features(self, block: bytes) -> Tensor:
        """The features in a block: (layers, num_frames, hidden_size).

        Raises:
            ValueError: it is damaged.
        """

    def scan(self, file: BinaryIO) -> Iterator[Block]:
        """The blocks of an archive in their order, up to the first that is damaged or cut."""

    def blank(self, size: int) -> bytes:
        """The start of a block of `size` bytes that is no utterance's; zeros follow."""


def copied(
    source: BinaryIO, pieces: Iterable[Piece], blank: Callable[[int], bytes]
) -> Iterator[bytes]:
    """The bytes of a copy.

    Args:
        source: an archive.
        pieces: what the copy holds, in order.
        blank: the start of a blank block of so many bytes; zeros follow.

    Raises:
        OSError: the archive ends within a piece, or cannot be read.
    """
    for offset, size, is_blank in pieces:
        if is_blank:
            start = blank(size)[:size]
            yield start
            yield from (bytes(part) for part in _portions(size - len(start)))
        else:
            yield from _read(source, offset, size)


def crc_of(source: BinaryIO, offset: int, size: int) -> int:
    """CRC-32 of a part of an archive.

    Raises:
        OSError: as `copied`.
    """
    crc = 0
    for data in _read(source, offset, size):
        crc = zlib_ng.crc32(data, crc)
    return crc


def without(places: Iterable[Block], end: int) -> list[Piece]:
    """All of an archive of `end` bytes, with these blocks blank."""
    pieces, at = list[Piece](), 0
    for _id, offset, size in sorted(places, key=lambda block: block.offset):
        pieces += [Piece(at, offset - at), Piece(offset, size, is_blank=True)]
        at = offset + size
    return [piece for piece in [*pieces, Piece(at, end - at)] if piece.size]


def _read(source: BinaryIO, offset: int, size: int) -> Iterator[bytes]:
    source.seek(offset)
    for portion in _portions(size):
        data = source.read(portion)
        if len(data) < portion:
            raise OSError(f"{source.name}: ends within a block")
        yield data


def _portions(size: int) -> Iterator[int]:
    while size > 0:
        yield min(size, COPIED_AT_ONCE)
        size -= COPIED_AT_ONCE
