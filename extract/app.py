"""The command line: the only place that knows Hydra. Config in, exit code out."""

from __future__ import annotations

import functools
import logging
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from extract.config import SCHEMAS, Config, run_name

PACKAGE = Path(__file__).resolve().parent
# Hydra 1.4 and its OmegaConf 2.4 warn of arguments and names that 1.3 and 2.3 need.
HYDRA_1_3 = hydra.__version__.startswith("1.3.")
EXIT_USAGE, EXIT_CRASHED, EXIT_INTERRUPTED = 2, 70, 130
EXIT_NO_MEMORY = 1
EXITS_INTERRUPTED = (130, 143)
# Of Linux's loader, of torch's allocator, of the system, of oneDNN, of Python's threads.
OUT_OF_MEMORY = (
    "failed to map segment",
    "can't allocate memory",
    "Cannot allocate memory",
    "could not create a primitive",
    "can't start new thread",
)


def conf_dir() -> str:
    """Where the options are: inside the installed package, or beside it in a checkout."""
    installed = PACKAGE / "conf"
    return str(installed if installed.is_dir() else PACKAGE.parent / "conf")


def stem(path: str) -> str:
    """What a folder or a file is called; a file without its ending, a `v1.0` with all of it."""
    found = Path(str(path)).resolve()
    return found.name if found.is_dir() else found.stem


@functools.cache  # Hydra 1.4 warns of a name that is stored twice
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
    add: Any = OmegaConf.register_new_resolver if HYDRA_1_3 else OmegaConf.register_resolver
    for name, resolver in resolvers.items():
        add(name, resolver, replace=True)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code (README, `Exit codes`)."""
    register()
    codes: list[int] = []

    base = {"version_base": "1.3"} if HYDRA_1_3 else {}

    @hydra.main(**base, config_path=conf_dir(), config_name="config")
    def job(config: DictConfig) -> None:
        codes.append(EXIT_CRASHED)  # until it is known better
        codes[-1] = _within_memory(config)
        if codes[-1] in EXITS_INTERRUPTED:
            raise KeyboardInterrupt  # or Hydra would go on with the next job of a sweep

    if argv is not None:
        sys.argv[1:] = argv
    if {"--help", "-h"} & set(sys.argv) and not any(a.startswith("dataset=") for a in sys.argv):
        sys.argv.append("dataset=demo")  # help shows a config, and a config needs a dataset
    try:
        job()
    except SystemExit as error:  # Hydra has said what is wrong with the command line
        return max(codes, default=EXIT_USAGE if error.code else 0)
    except KeyboardInterrupt:
        return max(codes, default=EXIT_INTERRUPTED)
    return max(codes, default=0)


def _within_memory(config: DictConfig) -> int:
    """The job's exit code; a sentence instead of a traceback where this process has no memory left.

    A limit does that: ulimit -v, a batch system's, sometimes a container's.
    """
    try:
        return _job(config)
    except (MemoryError, ImportError, OSError, RuntimeError) as error:
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        if not isinstance(error, MemoryError) and not any(word in said for word in OUT_OF_MEMORY):
            raise
    sys.stderr.write(
        f"stopped: out of memory ({said}); needed a higher limit (ulimit -v, the batch system's "
        "or the container's), or a lower loader.batch_seconds or loader.num_workers\n"
        "The same command goes on from here.\n"
    )
    return EXIT_NO_MEMORY


def _job(config: DictConfig) -> int:
    from rich.console import Console
    from rich.logging import RichHandler

    console = Console(stderr=True)
    handler = RichHandler(console=console, show_time=False, show_path=False, markup=False)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler], force=True)
    try:
        settings = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        return _usage(console, str(error))
    assert isinstance(settings, Config)

    from extract.job import run_job  # torch: after the options are known to be right
    from extract.stopping import stop_on_signals

    with stop_on_signals() as stop:
        try:
            code = run_job(settings, console, stop)
            in_a_sweep = HydraConfig.get().mode is RunMode.MULTIRUN
            return stop.exit_code if stop() and in_a_sweep else code
        except ValueError as error:
            return _usage(console, str(error))
        except KeyboardInterrupt:
            console.print("stopped at once; the same command goes on from here")
            return EXIT_INTERRUPTED


def _usage(console: Any, message: str) -> int:
    console.print(message, style="red", soft_wrap=True, markup=False, highlight=False)
    return EXIT_USAGE
