"""A job under each engine: its commands, its tasks, and what is taken away from them."""

import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from extract.run import job as job_module
from extract.run import terminal
from support import command
from support.cluster import Unit, notes
from support.netns import enter
from support.served import Served

TIMEOUT_S = 200
ENDED = (0, 1, 2, 70, 130, 143)  # exit codes of a command that no SIGKILL has ended

Start = Callable[[list[str]], None]


class Commands:
    """Forks commands with everything imported; of a process without threads of Ray's.

    Args:
        namespace: of the network, in which they run.
    """

    def __init__(self, namespace: str | None) -> None:
        if namespace is not None:
            enter(namespace)
        self._started: dict = {}

    def made(self) -> None:
        pass

    def start(self, argv: list[str], log: Path, unit: Unit) -> int:
        with pytest.MonkeyPatch.context() as changes:
            changes.setattr(sys, "argv", ["extract"])
            changes.setenv("EXTRACT_REPORT", "none")
            changes.setattr(job_module, "run_shard", unit)
            changes.setattr(terminal, "EACH_LINE_S", 0)  # no line of progress is left out
            process = command.start(argv, log.parent, log)
        self._started[process.pid] = process
        return process.pid

    def exit_code(self, pid: int) -> int | None:
        """Of a command that has ended, else None."""
        self._started[pid].join(0)
        return self._started[pid].exitcode

    def end(self) -> None:
        for process in self._started.values():
            process.kill()


class Local:
    """`engine=local`: a command for each shard, each with its workers in a process group."""

    name = "local"

    def __init__(self, commands: Served) -> None:
        self.commands = commands

    def options(self, num_shards: int) -> list[list[str]]:
        """Of each command of a job."""
        return [[f"shard.index={n}", f"shard.count={num_shards}"] for n in range(num_shards)]

    def tasks(self, running: Sequence[int]) -> list[int]:
        """The processes that do shards."""
        return list(running)

    def place(self, pid: int, parent: int) -> int:
        """The node of a task."""
        return pid

    def on_one_node(self, start: Start, commands: list[list[str]]) -> Callable[[], None]:
        """Starts a job on one node; returns what adds the others."""
        first, *rest = commands
        start(first)
        return lambda: [start(argv) for argv in rest] and None

    def lose_node(self, task: int) -> bool:
        """Kills a task with all its children at once."""
        os.killpg(task, signal.SIGKILL)
        return True


class OnRay:
    """`engine=ray`: one command, whose tasks are on the nodes of a cluster."""

    name = "ray"

    def __init__(self, commands: Served, nodes: Served) -> None:
        self.commands, self.nodes = commands, nodes

    def options(self, num_shards: int) -> list[list[str]]:
        where = [f"engine.address={self.nodes.made}", "engine.num_cpus=1"]
        return [["engine=ray", *where, f"shard.count={num_shards}"]]

    def tasks(self, running: Sequence[int]) -> list[int]:
        found = {}
        for one in psutil.Process(self.nodes.pid).children(recursive=True):
            with suppress(psutil.Error):
                if "ray::_shard" in " ".join(one.cmdline()):
                    found[one.pid] = one.ppid()
        return [pid for pid, parent in found.items() if parent not in found]

    def place(self, pid: int, parent: int) -> int:
        return parent

    def on_one_node(self, start: Start, commands: list[list[str]]) -> Callable[[], None]:
        [_head, *others] = self.nodes.raylets()
        for raylet in others:
            self.nodes.remove(raylet)
        for argv in commands:
            start(argv)
        return lambda: [self.nodes.add() for _ in others] and None

    def lose_node(self, task: int) -> bool:
        """Removes the node of a task, but for the head, to which the command is connected."""
        parent = parent_of(task)
        if parent not in self.nodes.raylets()[1:]:
            return False
        self.nodes.remove(parent)
        self.nodes.add()
        return True


class Job:
    """Recordings extracted into a store, by as many commands as the engine needs.

    Args:
        engine: where its shards run.
        store: its folder; notes and logs lie beside it.
        options: of every command.
        num_shards: of the job.
    """

    def __init__(self, engine, store: Path, options: list[str], num_shards: int = 2) -> None:
        self.engine, self.store, self.num_shards = engine, store, num_shards
        self.log = store.with_name(f"{store.name}.log")
        self.exit_codes: list[int] = []
        self.num_started = 0  # commands
        self.num_killed = 0  # processes that did a shard
        self._options, self._unit = options, Unit()
        self._running: dict[int, list[str]] = {}
        self._killed: list[list[str]] = []

    def start(self, *more: str, unit: Unit | None = None) -> None:
        """Starts all commands, or the same again."""
        self._unit, self._killed = unit or Unit(), []
        for argv in self._commands(*more):
            self._start(argv)

    def start_on_one_node(self) -> Callable[[], None]:
        """Starts the job on one node; returns what adds the others."""
        self._unit = Unit()
        return self.engine.on_one_node(self._start, self._commands())

    def _commands(self, *more: str) -> list[list[str]]:
        common = [*self._options, f"store.dir={self.store}", *more]
        return [[*common, *options] for options in self.engine.options(self.num_shards)]

    def _start(self, argv: list[str]) -> None:
        pid = self.engine.commands.start(argv, self.log, self._unit)
        self._running[pid] = argv
        self.num_started += 1

    def finish(self) -> list[int]:
        """Starts each command again that SIGKILL has ended, until none is; returns exit codes."""
        while True:
            self.wait_for(lambda: not self._alive())
            if not self._killed:
                return self.exit_codes
            killed, self._killed = self._killed, []
            for argv in killed:
                self._start(argv)

    def signal(self, number: int) -> None:
        """Sends a signal to each command's process group, as a terminal or scheduler does."""
        for pid in self._running:
            os.killpg(pid, number)

    def kill_commands(self) -> int:
        """Kills the commands' main processes; returns how many."""
        self.num_killed += len(self.tasks())
        killed = sum(map(kill, self._alive()))
        self.wait_for(lambda: not self._alive())
        return killed

    def kill_task(self, rng: random.Random) -> int:
        """Kills the process of one shard; returns its id, or 0 if all had ended."""
        pids = self.tasks()
        pid = rng.choice(pids) if pids else 0
        if not pid or not kill(pid):
            return 0
        self.num_killed += 1
        return pid

    def kill_workers(self, rng: random.Random) -> int:
        """Kills the loader's workers of one shard; returns how many."""
        pids = self.tasks()
        return sum(map(kill, children(rng.choice(pids)))) if pids else 0

    def lose_node(self, rng: random.Random) -> int:
        """Takes away the node of a shard at work; returns 0 if there is none to take."""
        pids = self.tasks()
        rng.shuffle(pids)
        lost = any(map(self.engine.lose_node, pids))
        self.num_killed += lost
        return int(lost)

    def tasks(self) -> list[int]:
        """The processes that do shards."""
        return self.engine.tasks(self._alive())

    def saves(self) -> list[str]:
        return [id_ for _pid, _parent, id_ in notes(self._beside("saves"))]

    def forwards(self) -> Counter[str]:
        """How often each utterance was encoded."""
        return Counter(id_ for _pid, _parent, id_ in notes(self._beside("forwards")))

    def at_work(self) -> set[int]:
        """Processes that have saved something and not ended their shard, by what they noted.

        They held the lock of their shard all the time, up to now or to their death.
        """
        saved, ended = (notes(self._beside(suffix)) for suffix in ("saves", "ended"))
        return {pid for pid, *_ in saved} - {pid for pid, *_ in ended}

    def places(self) -> set[int]:
        """The nodes whose processes have saved."""
        return {self.engine.place(pid, parent) for pid, parent, _ in notes(self._beside("saves"))}

    @property
    def hold(self) -> Path:
        """While this file is there, no save ends."""
        return self._beside("hold")

    def forget_notes(self) -> None:
        for suffix in ("saves", "forwards", "ended"):
            self._beside(suffix).unlink(missing_ok=True)

    def _beside(self, suffix: str) -> Path:
        return Path(f"{self.store}.{suffix}")

    def wait_for_saves(self, number: int) -> None:
        """Waits for so many more saves, or until all commands have ended."""
        number += len(self.saves())
        self.wait_for(lambda: len(self.saves()) >= number or not self._alive())

    def wait_for(self, is_so: Callable[[], object]) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not is_so():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.01)

    def _alive(self) -> list[int]:
        for pid in list(self._running):
            code = self.engine.commands.exit_code(pid)
            if code is not None:
                self.exit_codes.append(code)
                ended = self._running.pop(pid)
                if code not in ENDED:
                    self._killed.append(ended)
        return list(self._running)


def kill(pid: int) -> int:
    """Sends SIGKILL; returns whether the process was there."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return 1
    return 0


def children(pid: int) -> list[int]:
    with suppress(psutil.Error):
        return [one.pid for one in psutil.Process(pid).children()]
    return []


def parent_of(pid: int) -> int:
    """0 if the process has ended."""
    with suppress(psutil.Error):
        return psutil.Process(pid).ppid()
    return 0
