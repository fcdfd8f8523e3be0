"""Makes pages in a process of its own, at low priority, so that no page harms a run.

The process is started once for a whole command. Its stdin takes the job, a JSON object; its stdout
gives a line of JSON for each page as it is made: `{"store": ..., "page": ...}`, or `problem` where
there is none; `sweep` instead of `store` where the page is of the stores of a folder.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from extract.manifest.folders import SWEEP_PAGE
from extract.report.place import is_current, page_of
from extract.report.sweep import place
from extract.report.sweep.place import grouped
from extract.store.ledger import ledger_paths
from extract.systems import end_with_parent
from extract.text import shown

NICE = 10  # of 19, the lowest priority
POLL_S = 0.2  # between looks at a signal and at the time
# A page that takes longer hangs. One of a million utterances, whose ledger has some 300 MB, takes
# half a minute alone on its core.
LONGEST_S, BYTES_PER_S = 120.0, 2e6
KILLED_S = 5.0  # a killed process is gone by then, unless its disk hangs
MAX_SAID = 3  # lines of pages, and of problems
MAX_TEXT = 300  # characters of a problem

Said = Mapping[str, Any]  # a line of the process


def make(
    stores: Sequence[Path],
    stop: Callable[[], bool],
    *,
    is_sweep: bool = False,
    live: bool = False,
) -> list[str]:
    """Makes the pages of stores and waits for them; returns what to say of them.

    A page that is newer than its store's ledgers is left as it is. Nothing that goes wrong with a
    page raises.

    Args:
        stores: their folders. One without a ledger has no page.
        stop: asked while a page is made; once it returns True the process is killed.
        is_sweep: also make a page of the stores of each folder that holds several.
        live: the stores' runs are at work, which the pages say.
    """
    wanted = [store for store in dict.fromkeys(stores) if ledger_paths(store)]
    old = [store for store in wanted if not is_current(store)]
    groups = grouped(wanted) if is_sweep else {}
    sweeps = {above: group for above, group in groups.items() if not place.is_current(above, group)}
    job = {
        "stores": _absolute(old),
        "sweeps": [[str(above.absolute()), _absolute(group)] for above, group in sweeps.items()],
        "live": live,
    }
    longest_s = _longest([*old, *chain(*sweeps.values())])
    said, ending = _run(job, longest_s, stop) if old or sweeps else ([], "")
    reports = [one for one in said if "store" in one]
    problems = [f"no report: {one['problem']}" for one in reports if "problem" in one]
    ending = ending or "its process ended without saying why"
    if len(reports) < len(old):
        problems.append(f"no report: {ending}")
    made = [f"report: {page_of(store)}" for store in wanted if is_current(store)]
    return [
        *_few(made, "reports"),
        *_few(problems, "reports that could not be made"),
        *_few([*_of_sweeps(groups, sweeps, said, ending)], "pages of sweeps"),
    ]


def _absolute(stores: Iterable[Path]) -> list[str]:
    return [str(store.absolute()) for store in stores]


def _of_sweeps(
    folders: Iterable[Path], old: Container[Path], said: Sequence[Said], ending: str
) -> Iterator[str]:
    """What to say of the page of each folder."""
    found = {one["sweep"]: one for one in said if "sweep" in one}
    for folder in folders:
        one = found.get(str(folder.absolute()), {"problem": ending})
        is_there = folder not in old or "page" in one
        yield f"sweep: {folder / SWEEP_PAGE}" if is_there else f"no sweep: {one['problem']}"


def _longest(stores: Sequence[Path]) -> float:
    """Seconds in which the pages are made, or their process hangs."""
    sizes = 0
    for path in (path for store in stores for path in ledger_paths(store)):
        with suppress(OSError):
            sizes += path.stat().st_size
    return LONGEST_S * len(stores) + sizes / BYTES_PER_S


def _few(lines: Sequence[str], what: str) -> list[str]:
    """The first lines, and how many more there are."""
    more = len(lines) - MAX_SAID
    return [*lines[:MAX_SAID], *[f"{what}: {more} more"] * (more > 0)]


def _run(
    job: Mapping[str, Any], longest_s: float, stop: Callable[[], bool]
) -> tuple[list[Said], str]:
    """Runs the process; returns what it said, and why it ended early if it did."""
    try:
        process = _started()
    except OSError as error:  # no memory, no more processes
        return [], f"{type(error).__name__}: {error}"
    try:
        out, err, ending = _awaited(process, json.dumps(job), longest_s, stop)
    finally:
        process.kill()
    if not ending and process.returncode:
        ending = _death(process.returncode, err)
    return [*_lines(out)], ending


def _started() -> subprocess.Popen[str]:
    """The process. It finds modules where this one does, whatever the working folder holds."""
    path = os.pathsep.join(filter(None, sys.path))
    own = {"PYTHONPATH": path, "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
    priority = getattr(subprocess, "BELOW_NORMAL_PRIORITY_CLASS", 0)  # of Windows
    return subprocess.Popen(
        [sys.executable, "-m", "extract.report.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **own, "PYTHONIOENCODING": "utf-8:backslashreplace"},
        encoding="utf-8",
        errors="backslashreplace",
        creationflags=priority,
    )


def _awaited(
    process: subprocess.Popen[str], job: str, longest_s: float, stop: Callable[[], bool]
) -> tuple[str, str, str]:
    """What the process wrote to stdout and stderr, and why it was killed if it was."""
    deadline = time.monotonic() + longest_s
    ending = ""
    unsent: str | None = job
    while not ending:
        try:
            return *process.communicate(unsent, timeout=POLL_S), ""
        except subprocess.TimeoutExpired:
            unsent = None  # `communicate` goes on with what it was given first
            if stop():
                ending = "stopped by a signal"
            elif time.monotonic() > deadline:
                ending = f"not done after {longest_s:.0f} s"
    process.kill()
    with suppress(subprocess.TimeoutExpired):
        return *process.communicate(timeout=KILLED_S), ending
    return "", "", ending


def _death(code: int, err: str) -> str:
    """How the process died, with the last line that it wrote to stderr."""
    died = f"its process ended with {code}"
    with suppress(ValueError):
        died = f"its process was killed by {signal.Signals(-code).name}"
    return ": ".join(filter(None, (died, *err.strip().splitlines()[-1:])))


def _lines(out: str) -> Iterator[Said]:
    """The lines of JSON in what the process wrote; libraries may have written others."""
    for line in out.splitlines():
        with suppress(ValueError):
            one = json.loads(line)
            if isinstance(one, dict) and {"store", "sweep"} & one.keys():
                yield one


def main() -> None:
    """The process: reads the job from stdin, and makes its pages one after the other."""
    if hasattr(os, "nice"):
        os.nice(NICE)
    end_with_parent(os.getppid())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to both; the parent acts
    job = json.load(sys.stdin)
    for line in lines(job):
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def lines(job: Mapping[str, Any]) -> Iterator[Said]:
    """Makes the pages of a job, one after the other; a line for each."""
    for store in job["stores"]:
        yield {"store": store, **_made(partial(_report, store, live=job["live"]))}
    for folder, stores in job["sweeps"]:
        yield {"sweep": folder, **_made(partial(_sweep, stores, folder))}


def _report(store: str, *, live: bool) -> Path:
    from extract.report.run import write  # NumPy, PyAV, torch: at low priority by now

    return write(Path(store), live=live)


def _sweep(stores: Sequence[str], folder: str) -> Path:
    from extract.report.sweep.write import write

    return write([Path(store) for store in stores], Path(folder))


def _made(write: Callable[[], Path]) -> dict[str, str]:
    try:
        return {"page": str(write())}
    except ValueError as error:
        said = str(error)
    except Exception as error:  # also a fault of this program: the features are saved
        said = f"{type(error).__name__}: {error}"
    return {"problem": shown(said, MAX_TEXT)}


if __name__ == "__main__":
    main()
