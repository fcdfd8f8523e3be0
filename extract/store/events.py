"""`.extract/tensorboard/`: a run's speed, waiting, memory and outcomes as TensorBoard reads them.

    tensorboard --logdir outputs

Each run of a shard has a folder of its own there, since TensorBoard takes a folder for one curve. A
step is a recording with an outcome; the clock is the run's. Losing these files costs nothing else.
"""

from __future__ import annotations

import io
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from extract.extras import missing
from extract.files import APPEND, make_folder
from extract.manifest.folders import PRIVATE
from extract.shard import Shard
from extract.systems import open_no_link
from extract.text import printable
from extract.values import FAILED, REJECTED, SAVED

log = logging.getLogger(__name__)

FOLDER = f"{PRIVATE}/tensorboard"  # below the store; a run's: `20261126T061500Z-0-of-1`
MIN_PASSED_S = 0.5  # a speed over less time than this is noise

Outcomes = Mapping[tuple[str, str], int]  # (status, reason or ""): number of recordings


def require_tensorboard() -> None:
    """Imports what writes events: half a second, 15 MB.

    Raises:
        ValueError: the package is not installed.
    """
    try:
        for module in ("summary.writer.record_writer", "compat.proto.event_pb2"):
            import_module(f"tensorboard.{module}")
    except ModuleNotFoundError as error:
        raise ValueError(f"report.tensorboard=true: {missing(error.name)}") from error


class Events:
    """The events of one shard's run. Safe to share among threads.

    An event is one call of the system. The first one that cannot be written is logged, and the run
    goes on without events.

    Args:
        directory: the store.
        shard: the part whose run it is.
    """

    def __init__(self, directory: Path, shard: Shard) -> None:
        self._directory, self._shard = directory, shard
        self._path: Path | None = None  # None: nothing is written, or no more
        self._before: Mapping[str, Any] = {}  # the line that speeds are reckoned from
        self._lock = threading.Lock()  # of _before, and of the events' order

    def begin(self) -> None:
        """Makes the run's folder and its file."""
        now = time.time()
        began = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        folder = self._directory / FOLDER / f"{began}-{self._shard}"
        try:
            make_folder(folder.parent)
            make_folder(folder)
            self._path = folder / f"events.out.tfevents.{now:.0f}.{os.getpid()}"
            self._append(file_version="brain.Event:2")
        except (OSError, ValueError) as error:
            self._give_up(error)

    def add(self, line: Mapping[str, Any], outcomes: Outcomes) -> None:
        """Adds an event.

        Args:
            line: what `extract.store.timings` has of the same moment.
            outcomes: of the run until then.
        """
        if self._path is None:
            return
        with self._lock:
            numbers = {**dict(self._speeds(line)), **dict(_numbers(line, outcomes))}
            try:
                self._append(step=line["done"], numbers=numbers)
            except OSError as error:
                self._give_up(error)

    def _speeds(self, line: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
        """What grew, and how fast, since the last event that was long enough ago."""
        before, passed = self._before, line["s"] - self._before.get("s", 0.0)
        if not before or passed < MIN_PASSED_S:
            self._before = before or line
            return
        self._before = line
        grown = {key: line[key] - before[key] for key in before if line[key] is not None}
        yield "speed/times_real_time", grown["saved_s"] / passed
        yield "speed/utterances_per_s", grown["done"] / passed
        for stage in ("data", "encoder", "writer"):
            yield f"waiting/{stage}_percent", 100 * grown[f"{stage}_s"] / passed

    def _append(self, step: int = 0, numbers: Mapping[str, float] | None = None, **of: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        if numbers is not None:
            values = [Summary.Value(tag=tag, simple_value=one) for tag, one in numbers.items()]
            of["summary"] = Summary(value=values)
        data = io.BytesIO()
        RecordWriter(data).write(Event(wall_time=time.time(), step=step, **of).SerializeToString())
        assert self._path is not None
        descriptor = open_no_link(self._path, APPEND, 0o644)
        try:
            os.write(descriptor, data.getvalue())
        finally:
            os.close(descriptor)

    def _give_up(self, error: OSError | ValueError) -> None:
        self._path = None
        said = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) else str(error)
        log.warning("no more events for TensorBoard: %s; the run goes on", printable(said))


def _numbers(line: Mapping[str, Any], outcomes: Outcomes) -> Iterator[tuple[str, float]]:
    """Memory, and how many recordings have which outcome for which reason."""
    for of in ("host", "device"):
        if line[f"{of}_mb"] is not None:
            yield f"memory/{of}_mb", line[f"{of}_mb"]
    for status in (SAVED, REJECTED, FAILED):
        its = {reason: number for (of, reason), number in outcomes.items() if of == status}
        yield f"outcomes/{status}", sum(its.values())
        for reason, number in its.items():
            if reason:
                yield f"{status}/{reason}", number
