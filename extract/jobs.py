"""The jobs of one command: how each ended, in this process or in one that a launcher started.

Hydra's own launcher runs a sweep's jobs in the command's process. Another launcher pickles the
job's function, starts processes, on this machine or on others, and brings back what they return.
"""

from __future__ import annotations

import atexit
import os
import re
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from extract import exits
from extract.exits import Exit
from extract.extras import missing
from extract.text import count

if TYPE_CHECKING:  # what `--help` does not wait for
    from extract.run.summary import Summary

OF_SUBMITIT = "SUBMITIT_EXECUTOR"  # a variable that submitit sets in its jobs
_NOT_FOUND = re.compile(r"Could not find 'hydra/launcher/(submitit_\w+)'")
HEAD, TAIL = 2, 10  # lines that are shown of a launcher's error, which ends with the job's log


@dataclass(frozen=True)
class Ended:
    """How one job of the command line ended."""

    exit: Exit
    summaries: Sequence[Summary] = ()  # one for each shard; none if no work began
    shown: Sequence[Path] = ()  # stores that are to have a page
    signals: Sequence[str] = ()  # that asked the job to stop: `SIGUSR2`
    log: str = ""  # the file in which a launcher's process wrote what it said


Job = tuple[Sequence[str], Ended]  # a job's overrides, and how it ended

_arrived: list[Job] = []  # ends that launchers have brought to this process


class Jobs(list[Job]):
    """How the jobs of a command ended, in their order.

    A launcher pickles it with the job's function; in another process it is a `_Copy`.
    """

    is_here = True  # whether this is the command's own process

    def __init__(self) -> None:
        super().__init__()
        if self.is_here:
            _arrived.clear()

    def __reduce__(self) -> Any:
        return _Copy, ()

    def collect(self) -> None:
        """Adds the jobs that ended in other processes."""
        self += _arrived
        _arrived.clear()


class _Copy(Jobs):
    """What becomes of `Jobs` in a process that a launcher started: nothing added to it is seen."""

    is_here = False


@dataclass(frozen=True)
class Sent:
    """What a job returns in a launcher's process.

    Hydra drops what jobs return. So this adds itself to the command's jobs where the launcher
    unpickles it.
    """

    job: Job

    def __reduce__(self) -> Any:
        return _arrive, (self.job,)


def _arrive(job: Job) -> Sent:
    _arrived.append(job)
    return Sent(job)


def sent(overrides: Iterable[str], work: Callable[[], Ended], crashed: Ended) -> Sent:
    """Runs a job in a launcher's process; returns what the job returns there.

    Of a job that a signal interrupted, the launcher's own handler is given the signal at the end,
    when nothing is under way any more. That of submitit starts a preempted job again
    (`scontrol requeue`) and ends this process, or raises an error that says why it does not.
    Before the work has handlers of its own, that of submitit is called at once.

    Args:
        overrides: of the job.
        work: the job; a SystemExit is submitit's, and ends this process.
        crashed: how the job ended if it raises an error, which is printed.
    """
    try:
        ended = work()
    except Exception as error:
        traceback.print_exception(error)
        ended = crashed
    if any(one.interrupted for one in ended.summaries):
        _hand_on(ended.signals)
    elif ended.summaries:  # a signal that came when all was done interrupted nothing
        ended = replace(ended, exit=exits.of_run(ended.summaries))
    if OF_SUBMITIT in os.environ and ended.exit.code:
        # submitit ends with 0 after any job that returns. Batch systems look at the code.
        atexit.register(os._exit, ended.exit.code)
    return Sent((tuple(overrides), replace(ended, log=_log())))


def _hand_on(names: Iterable[str]) -> None:
    """Calls the handlers that a launcher set before the job; Python's own ends nothing here."""
    for name in names:
        number = signal.Signals[name]
        handler = signal.getsignal(number)
        if callable(handler) and handler is not signal.default_int_handler:
            try:
                handler(number, None)
            except Exception as error:  # submitit's, of a job that it does not start again
                sys.stderr.write(f"{error}\n")


def _log() -> str:
    """The file that submitit writes this job's stderr to; "" for another launcher's job."""
    if OF_SUBMITIT not in os.environ:
        return ""
    from submitit import JobEnvironment

    return _log_at(JobEnvironment().paths)


def _log_at(paths: Any) -> str:
    """Of a job's files, as submitit names them, the one that holds what it said last."""
    return str(paths.stderr if paths.stderr.exists() else paths.stdout)


def no_launcher(message: str) -> str:
    """What to say in place of Hydra's message if that is about a launcher that is not installed."""
    found = _NOT_FOUND.search(message)
    if found is None:
        return message
    return f"hydra/launcher={found[1]}: {missing('hydra_submitit_launcher')}"


def of_launcher(error: Exception) -> Exit | None:
    """The exit of a command whose launcher raised an error, which it prints; None for others.

    submitit raises a RuntimeError where there is no Slurm, where `sbatch` refuses the jobs, and
    for the first job that brought back no result. The ends of the jobs after that one are awaited.
    """
    frames = [frame for frame, _line in traceback.walk_tb(error.__traceback__)]
    module = str(frames[-1].f_globals.get("__name__")) if frames else ""
    if not isinstance(error, RuntimeError) or not module.startswith("submitit."):
        return None
    _say(error)
    is_of_a_job = type(error).__name__ in ("UncompletedJobError", "FailedJobError")
    if not is_of_a_job or isinstance(error.__cause__, subprocess.CalledProcessError):
        return exits.USAGE
    found = "not all jobs have a result"
    try:
        _await_others(frames)
    except KeyboardInterrupt:
        found = "jobs may still be at work"
    sys.stderr.write(f"{found}; once all have ended, the same command goes on\n")
    return exits.TERMINATED


def _say(error: Exception) -> None:
    lines = str(error).splitlines()
    if len(lines) > HEAD + TAIL:
        lines[HEAD:-TAIL] = ["..."]
    sys.stderr.write("\n".join([*lines, ""]))


def _await_others(frames: Iterable[FrameType]) -> None:
    """Collects the ends of the jobs behind the one whose missing result was an error, and its own.

    The launcher keeps its jobs to itself: they are in the frame that raised the error. A launcher
    in which they have other names leaves the command with those that ended before.
    """
    names = {"job_overrides", "jobs", "initial_job_idx"}
    launch = next((frame.f_locals for frame in frames if names <= {*frame.f_locals}), None)
    if launch is None:
        return
    before = len(_arrived) - launch["initial_job_idx"]  # each job brought one end
    left = [*zip(launch["job_overrides"], launch["jobs"], strict=True)][before:]
    if len(left) > 1:
        sys.stderr.write(f"waiting for {count(len(left) - 1, 'other job')}\n")
    _arrived.append(_without_result(*left[0]))
    for overrides, job in left[1:]:
        if (found := job.exception()) is not None:  # a result adds itself to `_arrived`
            _say(found)
            _arrived.append(_without_result(overrides, job))


def _without_result(overrides: Iterable[str], job: Any) -> Job:
    return tuple(overrides), Ended(exits.TERMINATED, log=_log_at(job.paths))
