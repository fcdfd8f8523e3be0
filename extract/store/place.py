"""Where a store is kept: in its folder, or at a URL, with a folder in which it is worked on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Protocol

from extract.shard import Shard
from extract.store.layout import Kept


class Place(Protocol):
    """What a run asks of the place where its store is kept."""

    def opening(self, shard: Shard, alone: bool) -> AbstractContextManager[bool]:
        """Brings the folder up to date for the block, in which the store is opened.

        Args:
            shard: whose lock on the folder this process holds.
            alone: whether no other process works in the folder.

        Yields:
            Whether no other process works in the store.

        Raises:
            StoreBusy: another process works on the shard, or shards the store in another way.
            StoreUnusable: the place cannot be reached.
        """

    def starting(self) -> AbstractContextManager[None]:
        """Holds the start-up lock; what was rewritten in the block is published at its end."""

    def publish(self, kept: Iterable[Kept] = (), *, last: bool = False) -> None:
        """Publishes finished archives, and then the lines about them.

        Args:
            kept: utterances whose lines are in the ledger now, all of an archive together.
            last: nothing follows: all lines are published.

        Raises:
            StoreUnusable: that failed; what was to be published stays in the folder.
        """

    def note(self, name: str, is_gone: Callable[[str], bool], *, is_new: bool) -> None:
        """Publishes a note of `.extract/`, and takes others back.

        Args:
            name: of the note, in the folder now.
            is_gone: whether the note of a name holds no longer.
            is_new: whether this run wrote it.

        Raises:
            StoreUnusable: that failed.
        """

    def close(self) -> None:
        """Gives up what `opening` took."""


class Here(Place):
    """A store that is its folder: nothing is to be brought anywhere."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def opening(self, shard: Shard, alone: bool) -> AbstractContextManager[bool]:
        """Yields `alone`."""
        return nullcontext(alone)

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Holds the folder's start-up lock."""
        from extract.store.lock import starting  # `show` reads stores without filelock

        with starting(self._directory):
            yield

    def publish(self, kept: Iterable[Kept] = (), *, last: bool = False) -> None:
        """Nothing: what is in the folder is published."""

    def note(self, name: str, is_gone: Callable[[str], bool], *, is_new: bool) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""
