"""The command line: the only place that knows Hydra. Config in, exit code out."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from extract.config import SCHEMAS, Config, run_name

if TYPE_CHECKING:  # what `--help` does not wait for
    from rich.console import Console

    from extract.summary import Job, Summary

PACKAGE = Path(__file__).resolve().parent
EXIT_USAGE, EXIT_CRASHED, EXIT_INTERRUPTED = 2, 70, 130
EXITS_INTERRUPTED = (130, 143)


def conf_dir() -> str:
    """Where the options are: inside the installed package, or beside it in a checkout."""
    installed = PACKAGE / "conf"
    return str(installed if installed.is_dir() else PACKAGE.parent / "conf")


def stem(path: str) -> str:
    """What a folder or a file is called; a file without its ending, a `v1.0` with all of it."""
    found = Path(str(path)).resolve()
    return found.name if found.is_dir() else found.stem


def register() -> None:
    """Tells Hydra the schemas and the names that `conf/` makes use of."""
    store = ConfigStore.instance()
    for name, schema in SCHEMAS.items():
        store.store(name, schema, group="schema")
    resolvers: dict[str, Any] = {
        "stem": stem,
        "demo_dir": lambda: str(PACKAGE / "demo"),
        "run_name": lambda *, _root_: run_name(_root_),
    }
    for name, resolver in resolvers.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code (README, `Exit codes`)."""
    register()
    jobs: list[Job] = []

    @hydra.main(version_base="1.3", config_path=conf_dir(), config_name="config")
    def job(config: DictConfig) -> None:
        from extract.summary import Summary  # rich, for which `--help` does not wait

        overrides = HydraConfig.get().overrides.task
        jobs.append((overrides, Summary(exit_code=EXIT_CRASHED)))  # until it is known better
        jobs[-1] = overrides, _job(config)
        if jobs[-1][1].exit_code in EXITS_INTERRUPTED:
            raise KeyboardInterrupt  # or Hydra would go on with the next job of a sweep

    if argv is not None:
        sys.argv[1:] = argv
    if {"--help", "-h"} & set(sys.argv) and not any(a.startswith("dataset=") for a in sys.argv):
        sys.argv.append("dataset=demo")  # help shows a config, and a config needs a dataset
    without_a_job = 0
    try:
        job()
    except SystemExit as error:  # Hydra has said what is wrong with the command line
        without_a_job = EXIT_USAGE if error.code else 0
    except KeyboardInterrupt:
        without_a_job = EXIT_INTERRUPTED
    if len(jobs) > 1:
        from extract.summary import sweep_table

        sweep_table(_console(), jobs)
    return max((summary.exit_code for _overrides, summary in jobs), default=without_a_job)


def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True)


def _job(config: DictConfig) -> Summary:
    from rich.logging import RichHandler

    from extract.summary import Summary

    console = _console()
    handler = RichHandler(console=console, show_time=False, show_path=False, markup=False)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler], force=True)
    try:
        settings = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        return Summary(exit_code=_usage(console, str(error)))
    assert isinstance(settings, Config)

    from extract.job import run_job  # torch: after the options are known to be right
    from extract.stopping import stop_on_signals

    with stop_on_signals() as stop:
        try:
            summary = run_job(settings, console, stop)
            in_a_sweep = HydraConfig.get().mode is RunMode.MULTIRUN
            return replace(summary, exit_code=stop.exit_code) if stop() and in_a_sweep else summary
        except ValueError as error:
            return Summary(exit_code=_usage(console, str(error)))
        except KeyboardInterrupt:
            console.print("stopped at once; the same command goes on from here")
            return Summary(exit_code=EXIT_INTERRUPTED)


def _usage(console: Console, message: str) -> int:
    console.print(message, style="red", soft_wrap=True, markup=False, highlight=False)
    return EXIT_USAGE
