"""Signals that ask a run to stop: it finishes the batches in flight, then ends in good order."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from extract.systems import ASKING

log = logging.getLogger(__name__)

FINISHING = "finishing what is under way (Ctrl-C again stops at once)"


class Stop:
    """Whether a run was asked to stop; loops call it.

    `stop_on_signals` connects it to signals. Without that it always returns False.

    Args:
        answer: what is said of a signal.
    """

    def __init__(self, answer: str = FINISHING) -> None:
        self.signal_name: str | None = None  # of the first signal
        self.signals: list[str] = []  # names of all that came
        self._answer = answer

    def __call__(self) -> bool:
        """Whether a signal came."""
        return self.signal_name is not None

    def handle(self, signum: int, _frame: FrameType | None) -> None:
        """Notes the signal; a second Ctrl-C raises KeyboardInterrupt at once."""
        name = signal.Signals(signum).name
        self.signals.append(name)
        if self.signal_name is not None:
            if name == "SIGINT":
                raise KeyboardInterrupt
            return
        self.signal_name = name
        log.warning("%s: %s", name, self._answer)


def _signals() -> list[int]:
    """The numbers of the signals in `ASKING` that this system has."""
    return [getattr(signal, name) for name in ASKING if hasattr(signal, name)]


def end_on_signals(exit_code: Callable[[str], int]) -> None:
    """Makes signals end the process at once, until `stop_on_signals` replaces their handlers.

    No work has begun by then, but importing torch takes seconds. Without these handlers SIGUSR1
    would end the process with 138, and Ctrl-C with a traceback.

    Args:
        exit_code: returns the exit code for a signal's name.
    """

    def end(signum: int, _frame: FrameType | None) -> None:
        os._exit(exit_code(signal.Signals(signum).name))

    for number in _signals():
        signal.signal(number, end)


@contextmanager
def before_signals(clean: Callable[[], None]) -> Iterator[None]:
    """Calls `clean` before the handlers that signals have now, while the block runs.

    A handler of `end_on_signals` ends the process, and no `finally` runs.
    """
    found = {number: signal.getsignal(number) for number in _signals()}
    before = {number: handler for number, handler in found.items() if callable(handler)}

    def handle(signum: int, frame: FrameType | None) -> None:
        clean()
        before[signum](signum, frame)

    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def kept_handlers() -> Iterator[None]:
    """Gives signals back the handlers that they had before the block: a library has its own.

    Only the main thread may set handlers; in another one, a library cannot have set any.
    """
    before = {number: signal.getsignal(number) for number in _signals()}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler or signal.SIG_DFL)


@contextmanager
def stop_on_signals(answer: str = FINISHING) -> Iterator[Stop]:
    """Yields a `Stop` that this process's signals set while the block runs."""
    stop = Stop(answer)
    before = {number: signal.signal(number, stop.handle) for number in _signals()}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
