"""An object in a process of its own: its imports, threads and children leave the tests alone."""

import multiprocessing
import os
import sys
from collections.abc import Callable


class Served:
    """Makes an object in a new process; calls its methods there, one at a time, in the main thread.

    What starts from there finds the package and `support` by PYTHONPATH.
    """

    def __init__(self, factory: Callable, *arguments) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, factory, arguments))
        self._process.start()
        self.made = self._answer()

    @property
    def pid(self) -> int:
        return self._process.pid

    def __getattr__(self, name: str) -> Callable:
        return lambda *arguments: self._call(name, arguments)

    def stop(self) -> None:
        self._pipe.send(None)
        self._process.join()

    def _call(self, name: str, arguments: tuple):
        self._pipe.send((name, arguments))
        return self._answer()

    def _answer(self):
        error, value = self._pipe.recv()
        if error is not None:
            raise error
        return value


def _serve(pipe, factory: Callable, arguments: tuple) -> None:
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    try:
        served = factory(*arguments)
        pipe.send((None, served.made()))
        for name, given in iter(pipe.recv, None):
            try:
                pipe.send((None, getattr(served, name)(*given)))
            except Exception as error:
                pipe.send((RuntimeError(f"{name}: {error!r}"), None))
        served.end()
    except Exception as error:
        pipe.send((RuntimeError(repr(error)), None))
