"""`Observer`, which a run calls while it works, and `Unit`, which engines call for each shard."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from extract.config import Config
from extract.run.clock import Clock
from extract.run.signals import Stop
from extract.run.summary import Summary
from extract.shard import Shard
from extract.store.ledger import Record


class Observer(Protocol):
    """Told by `run_shard` what happens: progress, records, the end of a shard.

    In this order: `reading` many times, `planned` once, `recorded` for each record, `ended` once;
    `said` at any time. `ended` alone where the store cannot be used, and none of them where
    `run_shard` raises before there is work.

    The writer threads call `recorded`, several at a time, and save nothing until it returns; the
    thread that called `run_shard` calls all others. What an observer raises ends the run.
    """

    def said(self, text: str) -> None:
        """Shows a line: what was chosen, how much there is to do."""
        ...

    def reading(self, done: int, total: int) -> None:
        """Headers of `done` recordings are read, out of at most `total`."""
        ...

    def progress(self, text: str) -> None:
        """Shows how far several shards are, in place of the text before; often called.

        An engine that runs shards elsewhere calls it instead of `planned` and `recorded`.
        """
        ...

    def planned(self, todo: int, seconds: float, clock: Clock) -> None:
        """The work begins.

        Args:
            todo: records that will come: of recordings, and of failures of their source.
            seconds: of audio to be saved, according to headers or the list.
            clock: where the loop's time goes; the loop goes on updating it.
        """
        ...

    def recorded(self, record: Record) -> None:
        """A recording has its line in the ledger. Safe to call from several threads at once."""
        ...

    def ended(self, summary: Summary) -> None:
        """The last call for this shard. An exception that ended the shard is raised after it."""
        ...


class Silent:
    """An observer that ignores every call; a subclass overrides those that it needs."""

    def said(self, text: str) -> None:
        """Does nothing."""

    def reading(self, done: int, total: int) -> None:
        """Does nothing."""

    def progress(self, text: str) -> None:
        """Does nothing."""

    def planned(self, todo: int, seconds: float, clock: Clock) -> None:
        """Does nothing."""

    def recorded(self, record: Record) -> None:
        """Does nothing."""

    def ended(self, summary: Summary) -> None:
        """Does nothing."""


# `extract.run.job.run_shard`; in a sweep with what its jobs share
Unit = Callable[[Config, Shard, Observer, Stop], Summary]
