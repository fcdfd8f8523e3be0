"""How the tasks of a cluster tell what they do: an actor that counts, and the line made of it."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from extract.run.clock import Clock
from extract.run.observer import Silent
from extract.run.signals import Stop
from extract.run.tally import hms
from extract.shard import Shard
from extract.store.ledger import Record
from extract.values import FAILED, SAVED

REPORT_S = 1.0


@dataclass
class Counts:
    """What a shard has done in this attempt, of what it has to do."""

    todo: int = 0
    todo_s: float = 0.0
    done: int = 0
    failed: int = 0
    saved_s: float = 0.0


@dataclass
class State:
    """All shards, as far as they have told."""

    running: dict[int, str] = field(default_factory=dict)  # shard -> node
    retried: int = 0
    counts: dict[int, Counts] = field(default_factory=dict)

    def total(self, name: str) -> float:
        """A count, of all shards."""
        return float(sum(getattr(one, name) for one in self.counts.values()))


class Board:
    """The actor. Tasks tell it what they do, and learn whether they are to stop."""

    def __init__(self) -> None:
        self._state, self._signal_name = State(), ""
        self._begun = set[int]()

    def begin(self, shard: int, node: str) -> str:
        """A task has begun, perhaps again; returns the signal that asks it to stop, or ""."""
        self._state.retried += shard in self._begun
        self._begun.add(shard)
        self._state.running[shard] = node
        return self._signal_name

    def report(self, shard: int, node: str, counts: Counts) -> str:
        """What a task has done; returns the signal that asks it to stop, or "".

        An actor that was started again, since its node died, learns from this what runs.
        """
        self._begun.add(shard)
        self._state.running[shard] = node
        self._state.counts[shard] = counts
        return self._signal_name

    def end(self, shard: int, counts: Counts) -> None:
        """A task has ended."""
        self._state.counts[shard] = counts
        self._state.running.pop(shard, None)

    def stop(self, signal_name: str) -> None:
        """Asks all tasks to stop."""
        self._signal_name = signal_name

    def state(self) -> State:
        """What all tasks have told."""
        return self._state


class Reporter(Silent):
    """A task's observer: counts, and tells the board once a second, from a thread of its own.

    Only that thread waits for the board. While a task's main thread waits in `ray.get`, Ray gives
    the task's cores to another task, and the node then has more at work than it has cores for.

    Args:
        board: the actor's handle.
        shard: the task's.
        stop: set when the board says so.
    """

    def __init__(self, board: Any, shard: Shard, stop: Stop) -> None:
        self._board, self._shard, self._stop = board, shard, stop
        self._counts, self._lock, self._over = Counts(), threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._tell, daemon=True)

    def __enter__(self) -> Reporter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def planned(self, todo: int, seconds: float, clock: Clock) -> None:
        """Notes what there is to do."""
        self._counts.todo, self._counts.todo_s = todo, seconds

    def recorded(self, record: Record) -> None:
        """Counts a record; from any thread."""
        with self._lock:
            self._counts.done += 1
            self._counts.failed += record.status == FAILED
            self._counts.saved_s += (record.status == SAVED) * (record.duration_s or 0.0)

    def _tell(self) -> None:
        node = socket.gethostname()
        self._obey(self._board.begin, node)
        while not self._over.wait(REPORT_S):
            self._obey(self._board.report, node, self._counts)
        self._obey(self._board.end, self._counts)

    def _obey(self, method: Any, *arguments: Any) -> None:
        """Tells the board; a board that is gone for a moment hinders no work."""
        import ray

        with suppress(ray.exceptions.RayError):
            name = ray.get(method.remote(self._shard.index, *arguments))
            if name and self._stop.signal_name is None:
                self._stop.signal_name = name


class Progress:
    """The one line that shows a cluster at work.

    Args:
        num_shards: of the job.
    """

    def __init__(self, num_shards: int) -> None:
        self.stopping = False
        self._num_shards, self._left, self._state = num_shards, num_shards, State()
        self._start = time.monotonic()

    def update(self, state: State, num_left: int) -> None:
        """What the board says now, and how many shards have not ended."""
        self._state, self._left = state, num_left

    def line(self) -> str:
        """Hours, speed, failures, shards, nodes."""
        state, elapsed = self._state, time.monotonic() - self._start
        nodes = Counter(state.running.values())
        saved_s, done = state.total("saved_s"), int(state.total("done"))
        ended = self._num_shards - self._left
        where = ", ".join(f"{node} {number}" for node, number in sorted(nodes.items()))
        parts = [
            f"{saved_s / 3600:.2f} h saved",
            f"{saved_s / max(elapsed, 1e-3):,.0f}x real time",
            f"{done:,} recordings, {int(state.total('failed')):,} failed",
            f"shards: {ended} of {self._num_shards} done, {len(state.running)} running",
            *([f"{state.retried} started again"] if state.retried else []),
            *([where] if where else []),
            hms(elapsed),
            *(["stopping"] if self.stopping else []),
        ]
        return "; ".join(parts)
