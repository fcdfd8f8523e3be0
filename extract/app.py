"""The command line: Hydra composes a config, the engine runs it, and an exit code comes out."""

from __future__ import annotations

import functools
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from extract import completion, exits
from extract.config import Config, Page
from extract.exits import Exit
from extract.hydra_setup import VERSION_BASE, chosen_by, conf_dir, not_set, register
from extract.jobs import Ended, Jobs, Sent, no_launcher, of_launcher, sent
from extract.one_job import examine, run, say_part, stderr_console, usage
from extract.options import ChoiceError, check, expand_home
from extract.words import (
    SHOWS_CONFIG,
    SHOWS_HELP,
    SHOWS_INFO,
    chooses_dataset,
    is_asked,
    is_sweep,
    prepared,
    quoted,
)

if TYPE_CHECKING:  # what `--help` does not wait for
    from rich.console import Console

    from extract.run.sweep import Sweep

# What an error says when memory runs out: from Linux's loader, torch's allocator, the C library,
# oneDNN and Python's threads.
OUT_OF_MEMORY = (
    "failed to map segment",
    "can't allocate memory",
    "Cannot allocate memory",
    "could not create a primitive",
    "can't start new thread",
)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code (docs/faults.md, `Exit codes`)."""
    register()
    jobs = Jobs()
    sweep: Sweep | None = None

    @hydra.main(config_path=conf_dir(), config_name="config", **VERSION_BASE)
    def job(config: DictConfig) -> Sent | None:
        overrides = HydraConfig.get().overrides.task
        crashed = Ended(exits.CRASHED, shown=_shown(config))
        if not jobs.is_here:  # jobs in other processes share nothing
            return sent(overrides, functools.partial(_within_memory, config, None), crashed)
        jobs.append((overrides, crashed))  # if the job raises
        jobs[-1] = overrides, _guarded(config, sweep)
        if jobs[-1][1].exit in (exits.INTERRUPTED, exits.TERMINATED):
            raise KeyboardInterrupt  # or Hydra would go on with the next job of a sweep
        return None

    words = list(sys.argv[1:] if argv is None else argv)
    if is_asked(words, completion.COMPLETES):
        completion.complete(words, job)
        return exits.DONE.code
    if refusal := _refusal(words):
        return usage(refusal).code
    if is_asked(words, SHOWS_HELP | SHOWS_CONFIG) and not chooses_dataset(words):
        words.append("dataset=demo")  # what is shown is composed, which needs a dataset
        if is_asked(words, SHOWS_CONFIG):
            sys.stderr.write("with dataset=demo, since no dataset is chosen:\n")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors; `_failed` prints them
    without_a_job = exits.DONE
    try:
        with _sweep_folder(prepared(words)) as sys.argv[1:], _sweeping(words) as sweep:
            if is_asked(words, SHOWS_INFO):
                sys.stdout.write(chosen_by(sys.argv[1:]))
            job()
    except SystemExit as error:  # argparse has said what is wrong with the command line
        without_a_job = exits.USAGE if error.code else exits.DONE
    except KeyboardInterrupt:
        without_a_job = exits.INTERRUPTED
    except Exception as error:
        without_a_job = _failed(error, composed=bool(jobs))
    return _concluded(jobs, without_a_job)


def _concluded(jobs: Jobs, without_a_job: Exit) -> int:
    """Prints a sweep's table and makes the pages, once no job is at work; returns the exit code."""
    jobs.collect()
    logs = [ended.log for _overrides, ended in jobs]
    if len(jobs) > 1 or any(logs):
        from extract.run.tables import sweep_logs, sweep_table

        rows = [(overrides, ended.summaries, str(ended.exit)) for overrides, ended in jobs]
        sweep_table(stderr_console(), rows)
        sweep_logs(stderr_console(), rows, logs)
    ends = [without_a_job, *(ended.exit for _overrides, ended in jobs)]
    if not {exits.INTERRUPTED, exits.TERMINATED} & {*ends}:
        stores = [store for _overrides, ended in jobs for store in ended.shown]
        ends.append(_pages(stores, is_sweep=len(jobs) > 1))
    return max(end.code for end in ends)


def _failed(error: Exception, *, composed: bool) -> Exit:
    """Prints the error that ended the command line; returns the exit to use if no job has one."""
    if isinstance(error, HydraException | OmegaConfBaseException | ChoiceError) and not composed:
        return usage(no_launcher(_message(error)))
    if (found := of_launcher(error)) is not None:
        return found
    traceback.print_exception(error)
    return exits.CRASHED


def _refusal(words: Sequence[str]) -> str:
    """Why a command line is refused before Hydra sees it; "" if it is not."""
    if not _has_working_folder():
        return "the working folder is gone; go to another one (cd) and run this again"
    if is_asked(words, SHOWS_CONFIG) and is_sweep(words):
        return "--cfg and --info show one run: leave out -m, and give each option one value"
    return ""


def _has_working_folder() -> bool:
    try:
        return Path.cwd().is_dir()
    except FileNotFoundError:
        return False


@contextmanager
def _sweep_folder(words: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yields the words; a sweep's with a temporary folder as `hydra.sweep.dir`.

    Hydra's own launcher writes only `multirun.yaml` there. Each store's metadata holds the same
    settings, and the working folder need not be writable. Other launchers and sweepers keep files
    of their own there, so they get the folder that `conf/config.yaml` names.
    """
    its_own = ("hydra.sweep.dir=", "hydra/launcher=", "hydra/sweeper=")
    if not is_sweep(words) or any(word.lstrip("+").startswith(its_own) for word in words):
        yield words
        return
    with TemporaryDirectory(prefix="extract-", ignore_cleanup_errors=True) as folder:
        yield [f"hydra.sweep.dir={quoted(folder)}", *words]


def _sweeping(words: Sequence[str]) -> AbstractContextManager[Sweep | None]:
    """What the jobs share, for the time of the command; None where one job runs."""
    if not is_sweep(words):
        return nullcontext()
    from extract.run.sweep import sweeping  # NumPy, for which `--help` does not wait

    return sweeping()


def _guarded(config: DictConfig, sweep: Sweep | None) -> Ended:
    """Runs the job; prints an error of this program at once, and lets go of it.

    Hydra would hold the error of a sweep's job until all jobs have run, and the error all that the
    job had allocated. Then it would raise the first one alone.
    """
    try:
        return _within_memory(config, sweep)
    except (Exception, SystemExit) as error:
        traceback.print_exception(error)
        return Ended(exits.CRASHED, shown=_shown(config))


def _within_memory(config: DictConfig, sweep: Sweep | None) -> Ended:
    """Runs the job; if allocating memory fails, prints a sentence instead of a traceback.

    It fails under a limit: ulimit -v, a batch system's, some containers'.
    """
    try:
        return _job(config, sweep)
    except (MemoryError, ImportError, OSError, RuntimeError) as error:
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        if not isinstance(error, MemoryError) and not any(word in said for word in OUT_OF_MEMORY):
            raise
    sys.stderr.write(
        f"stopped: out of memory ({said}); needed a higher limit (ulimit -v, the batch system's "
        "or the container's), or a lower loader.batch_seconds or loader.num_workers\n"
        "The same command goes on from here.\n"
    )
    return Ended(exits.NO_MEMORY, shown=_shown(config))


def _shown(config: DictConfig) -> Sequence[Path]:
    """The store of a job without a summary, if a page is wanted and the options name a store."""
    with suppress(OmegaConfBaseException):
        if config.report.page is not Page.none:
            return [Path(os.path.expanduser(config.store.dir))]  # noqa: PTH111 - as `expand_home`
    return ()


def _job(config: DictConfig, sweep: Sweep | None) -> Ended:
    from extract import choices  # 30 ms, for which `--help` does not wait

    console = stderr_console()
    _log_to(console)
    try:
        if missing := not_set(config):
            return Ended(usage(_not_set_message(missing)))
        settings = OmegaConf.to_object(config)
        assert isinstance(settings, Config)
        expand_home(settings)
        check(settings)
        engine = choices.find("engines", settings.engine.kind)
        say_part(settings, console)
    except (OmegaConfBaseException, ValueError) as error:
        return Ended(usage(str(error)))
    if settings.preflight:
        return examine(settings, console)
    is_multirun = HydraConfig.get().mode is RunMode.MULTIRUN
    return run(settings, engine, console, sweep, is_multirun=is_multirun)


def _log_to(console: Console) -> None:
    from rich.logging import RichHandler

    handler = RichHandler(console=console, show_time=False, show_path=False, markup=False)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler], force=True)


def _pages(stores: Sequence[Path], *, is_sweep: bool) -> Exit:
    """Makes the pages of all jobs. What goes wrong with one is said, and changes no exit code."""
    if not stores:
        return exits.DONE
    from extract.report.child import make
    from extract.run.signals import stop_on_signals

    console = stderr_console()
    try:
        with stop_on_signals("no report is made; all else is as the run left it") as stop:
            for line in make(stores, stop, is_sweep=is_sweep):
                console.print(line, soft_wrap=True, markup=False, highlight=False)
    except KeyboardInterrupt:
        return exits.INTERRUPTED
    except Exception as error:  # a fault of this program: all that the run saved is whole
        console.print(f"no report: {type(error).__name__}: {error}", markup=False)
    return exits.after_signal(stop.signal_name) if stop.signal_name else exits.DONE


def _not_set_message(missing: Sequence[str]) -> str:
    """What is said of environment variables that are not there."""
    said = f"{', '.join(missing)}: not in the environment, which this config reads."
    if HydraConfig.get().job.config_name == "gpt_sovits":
        said += (
            " --config-name gpt_sovits is for GPT-SoVITS's WebUI, which sets them; without it, name"
            " the list: dataset=gpt_sovits dataset.path=LIST"
        )
    return said


def _message(error: Exception) -> str:
    """The message of an error of Hydra's, with the error of OmegaConf's that caused it."""
    cause = error.__cause__
    return f"{error}\n{cause}" if isinstance(cause, OmegaConfBaseException) else str(error)
