"""`python -m extract`, and the command `extract`."""

import gc
import os
import pkgutil
import sys
from importlib import import_module
from pathlib import Path

from extract import commands, exits
from extract.run.signals import end_on_signals
from extract.streams import make_safe


def leave_out_working_folder() -> None:
    """Takes the working folder off the search path of modules, where `python -m` puts it first.

    Tools are run from folders with modules of their own: GPT-SoVITS's has `config`, `tools` and
    more. A package that looks for one of these names would be given theirs. Processes that this
    one starts leave it out too. In a checkout the working folder is where this package is found.
    """
    package = Path(__file__).resolve().parents[1]
    try:
        here = Path.cwd()
    except FileNotFoundError:  # it is gone, which `main` says
        return
    if Path(sys.path[0]) == here != package and not sys.flags.safe_path:
        del sys.path[0]
        os.environ["PYTHONSAFEPATH"] = "1"


def command() -> int:
    """Runs the command line; returns the exit code.

    The first argument may name a module in `extract/commands/`; all else is Hydra's.
    """
    leave_out_working_folder()
    end_on_signals(lambda name: exits.after_signal(name).code)
    name, arguments = "".join(sys.argv[1:2]), sys.argv[2:]
    if name in {module.name for module in pkgutil.iter_modules(commands.__path__)}:
        return int(import_module(f"extract.commands.{name}").main(arguments))

    make_safe()
    from extract.machine import put_off_garbage_collection

    put_off_garbage_collection()  # until all is imported and loaded
    from extract.app import main  # imports Hydra, which takes time: signals are handled by now

    code = main()
    gc.freeze()  # else the collection at exit searches all of torch: half a second
    return code


if __name__ == "__main__":
    sys.exit(command())
