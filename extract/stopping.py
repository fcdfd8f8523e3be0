"""Signals that ask a run to stop: the batch in flight is finished, then the run ends well."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

log = logging.getLogger(__name__)

# SIGUSR1 is what Slurm sends before it preempts or a time limit ends a job (sbatch --signal).
ASKING = ("SIGINT", "SIGTERM", "SIGUSR1")


class Stop:
    """Whether the run was asked to stop; callable, so that loops can ask it."""

    def __init__(self) -> None:
        self.signal_name: str | None = None

    def __call__(self) -> bool:
        """Whether a signal came."""
        return self.signal_name is not None

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 143 after a signal from the system; 0 if none came."""
        if self.signal_name is None:
            return 0
        return 130 if self.signal_name == "SIGINT" else 143

    def handle(self, signum: int, _frame: FrameType | None) -> None:
        """Notes the signal; a second Ctrl-C raises KeyboardInterrupt at once."""
        name = signal.Signals(signum).name
        if self.signal_name is not None:
            if name == "SIGINT":
                raise KeyboardInterrupt
            return
        self.signal_name = name
        log.warning("%s: finishing what is under way (Ctrl-C again stops at once)", name)


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """A `Stop` that hears this process's signals while the block runs."""
    stop = Stop()
    signals = [getattr(signal, name) for name in ASKING if hasattr(signal, name)]
    before = {number: signal.signal(number, stop.handle) for number in signals}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
