"""Signals that ask a run to stop: the batch in flight is finished, then the run ends well."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

log = logging.getLogger(__name__)

# SIGUSR1 is what Slurm sends before it preempts or a time limit ends a job (sbatch --signal).
ASKING = ("SIGINT", "SIGTERM", "SIGUSR1")


class Stop:
    """Whether a run was asked to stop; callable, so that loops can ask it.

    One that hears no signals never says so.
    """

    def __init__(self) -> None:
        self.signal_name: str | None = None

    def __call__(self) -> bool:
        """Whether a signal came."""
        return self.signal_name is not None

    def handle(self, signum: int, _frame: FrameType | None) -> None:
        """Notes the signal; a second Ctrl-C raises KeyboardInterrupt at once."""
        name = signal.Signals(signum).name
        if self.signal_name is not None:
            if name == "SIGINT":
                raise KeyboardInterrupt
            return
        self.signal_name = name
        log.warning("%s: finishing what is under way (Ctrl-C again stops at once)", name)


def _signals() -> list[int]:
    """Those of ASKING that this system has."""
    return [getattr(signal, name) for name in ASKING if hasattr(signal, name)]


def end_on_signals(exit_code: Callable[[str], int]) -> None:
    """Until a run listens, a signal ends the process at once: nothing has been made yet.

    The import of torch takes seconds. Without a handler SIGUSR1 would end it with 138, and Ctrl-C
    with a traceback.

    Args:
        exit_code: the process's, after the signal of a name.
    """

    def end(signum: int, _frame: FrameType | None) -> None:
        os._exit(exit_code(signal.Signals(signum).name))

    for number in _signals():
        signal.signal(number, end)


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """A `Stop` that hears this process's signals while the block runs."""
    stop = Stop()
    before = {number: signal.signal(number, stop.handle) for number in _signals()}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
