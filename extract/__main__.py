"""`python -m extract`, and the command `extract`."""

import gc
import pkgutil
import sys
from importlib import import_module

from extract import commands, exits
from extract.run.signals import end_on_signals
from extract.streams import make_safe


def command() -> int:
    """Runs the command line; returns the exit code.

    The first argument may name a module in `extract/commands/`; all else is Hydra's.
    """
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
