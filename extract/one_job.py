"""What one job of the command line does with its config: runs it, or only examines it."""

from __future__ import annotations

import functools
import os
import sys
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from extract import exits
from extract.config import Config, Page
from extract.exits import Exit
from extract.jobs import Ended
from extract.launchers import place

if TYPE_CHECKING:  # what `--help` does not wait for
    from rich.console import Console

    from extract.run.sweep import Sweep


def run(
    config: Config,
    engine: ModuleType,
    console: Console,
    sweep: Sweep | None,
    *,
    is_multirun: bool,
) -> Ended:
    """Runs the engine's shards, shown on the terminal, until a signal asks them to stop."""
    from extract.run.job import run_shard  # torch: after the options are known to be right
    from extract.run.signals import stop_on_signals
    from extract.run.terminal import Terminal

    if int(config.loader.side_by_side) > 1:
        console.is_interactive = False  # bars of several runs would overwrite each other
    unit = functools.partial(run_shard, sweep=sweep) if sweep else run_shard
    with stop_on_signals() as stop:
        try:
            with Terminal(console) as watch, _live(config):
                summaries = engine.run(config, engine.shards(config), unit, watch, stop)
        except ValueError as error:
            return Ended(usage(str(error)))
        except KeyboardInterrupt:
            console.print("stopped at once; the same command goes on from here")
            return Ended(exits.INTERRUPTED)
        if sweep is not None:
            sweep.ended(summary.directory for summary in summaries)
        if stop.signal_name and is_multirun:
            ended = exits.after_signal(stop.signal_name)  # ends the sweep too
            return Ended(ended, summaries, signals=stop.signals)
        is_shown = config.report.page is not Page.none and not stop.signal_name
        stores = [summary.directory for summary in summaries] if is_shown else []
        return Ended(exits.of_run(summaries), summaries, stores)


def _live(config: Config) -> AbstractContextManager[None]:
    """Keeps the store's page up to date while a run is at work, if that is asked for."""
    if config.report.page is not Page.live:
        return nullcontext()
    from extract.report.live import kept_live

    return kept_live(Path(config.store.dir))


def examine(config: Config, console: Console) -> Ended:
    """Examines the job and prints what a run would find, to stdout; writes nothing else."""
    from rich.console import Console

    from extract.run.preflight import preflight
    from extract.run.preflight_table import as_json, report
    from extract.run.signals import stop_on_signals
    from extract.run.terminal import Terminal

    with stop_on_signals() as stop:
        try:
            with Terminal(console) as watch:
                found = preflight(config, watch, stop)
        except ValueError as error:
            return Ended(usage(str(error)))
        except KeyboardInterrupt:
            return Ended(exits.INTERRUPTED)
        if found is None:
            return Ended(exits.after_signal(stop.signal_name or ""))
    if config.preflight == "json":
        sys.stdout.write(as_json(found) + "\n")
    else:
        report(Console(), found)
    return Ended(exits.of_preflight(found))


def say_part(config: Config, console: Console) -> None:
    """Says which part of the job this is, where a launcher's variables say so."""
    with suppress(ValueError):  # they are ambiguous, and the options were given
        found = place(os.environ)
        if found is not None and found.is_part(config.shard.index, config.shard.count):
            console.print(f"part {config.shard.index} of {config.shard.count}: {found.said}")


def stderr_console() -> Console:
    """The terminal for all that is said; stdout is for results."""
    from rich.console import Console

    return Console(stderr=True)


def usage(message: str) -> Exit:
    """Prints a mistake of the user's; returns the exit that it has."""
    stderr_console().print(message, style="red", soft_wrap=True, markup=False, highlight=False)
    return exits.USAGE
