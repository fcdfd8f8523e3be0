"""Notes a run's speed, waiting and memory every few seconds.

Into `extract.store.timings`, and with `report.tensorboard` into `extract.store.events` too.
"""

from __future__ import annotations

import mmap
import shlex
import threading
import time
from contextlib import suppress
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch

from extract.config import MODULE_GROUPS, Config
from extract.fields import MISSING
from extract.options import options_of
from extract.run.clock import Clock
from extract.run.tally import Tally
from extract.shard import Shard
from extract.store.events import Events
from extract.store.timings import Timings
from extract.text import typed
from extract.urls import redacted

EVERY_S = 5.0  # between lines
# Of the time that has passed: the lines of a day are some 600, since the intervals grow with it.
EVERY_SHARE = 0.01

_MODEL = "local"  # the choice of `model` that names no model of its own


class Sampler:
    """Adds a line to a shard's timings when one is due; safe to call from several threads.

    Args:
        timings: where lines go.
        tally: what is done.
        clock: where the loop's time goes.
        device: whose memory is noted.
        events: where the same goes for TensorBoard, if anywhere.
    """

    def __init__(
        self,
        timings: Timings,
        tally: Tally,
        clock: Clock,
        device: torch.device,
        events: Events | None = None,
    ) -> None:
        self._timings, self._tally, self._clock, self._device = timings, tally, clock, device
        self._events = events
        self._due_s = 0.0
        self._lock = threading.Lock()  # of _due_s

    def begin(self, config: Config, shard: Shard) -> None:
        """Adds the line of the run's beginning; none of a run that has nothing to do."""
        if not self._tally.total:
            return
        began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        todo, seconds = self._tally.total, round(self._tally.total_s, 3)
        what = {"began": began, "shard": str(shard), "todo": todo, "audio_s": seconds}
        device = {"device": str(self._device), "command": command_of(config)}
        self._timings.begin({**what, **device})
        if self._events is not None:
            self._events.begin()
        self.note()

    def note(self, *, last: bool = False) -> None:
        """Adds a line of the run as it is now, if one is due or it is the last."""
        now = self._tally.elapsed_s
        with self._lock:
            if now < self._due_s and not last:
                return
            self._due_s = now + max(EVERY_S, EVERY_SHARE * now)
        line = self._line(now)
        self._timings.add(line)
        if self._events is not None:
            self._events.add(line, self._tally.counts)

    def _line(self, now: float) -> dict[str, Any]:
        tally, clock = self._tally, self._clock
        seconds = {
            "s": now,
            "saved_s": tally.saved_s,
            "data_s": clock.data_s,
            "encoder_s": clock.encoder_s,
            "writer_s": clock.writer_s,
        }
        rounded: dict[str, Any] = {name: round(value, 3) for name, value in seconds.items()}
        memory = {"host_mb": host_mb(), "device_mb": device_mb(self._device)}
        return {**rounded, "done": tally.done, **memory}


def host_mb() -> float | None:
    """Memory of this process in megabytes, without its workers'; None where no /proc says."""
    with suppress(OSError, ValueError, IndexError):
        pages = int(Path("/proc/self/statm").read_bytes().split()[1])
        return round(pages * mmap.PAGESIZE / 1e6, 1)
    return None


def device_mb(device: torch.device) -> float | None:
    """Memory that torch holds on a GPU in megabytes; None on a CPU."""
    if device.type != "cuda":
        return None
    return round(torch.cuda.memory_reserved(device) / 1e6, 1)


def command_of(config: Config) -> str:
    """The command that makes the same store, for a POSIX shell, without secrets of URLs.

    Options at their defaults are left out. Relative paths are those of the folder that the run was
    started in.
    """
    keys = {f"{name}.{group.key}": name for name, group in MODULE_GROUPS.items()}
    words = [f"{name}={attrgetter(key)(config)}" for key, name in keys.items()]
    words.append(f"model={_MODEL}")
    for name, option in options_of(config).items():
        value = attrgetter(name)(config)
        if name not in keys and value not in (option.default, MISSING):
            words.append(f"{name}={typed(value)}")
    return shlex.join(["python", "-m", "extract", *map(redacted, words)])
