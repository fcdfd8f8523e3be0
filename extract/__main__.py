"""`python -m extract`, and the command `extract`."""

import atexit
import gc
import os
import pkgutil
import sys
import threading
from importlib import import_module

from extract import commands
from extract.stopping import end_on_signals
from extract.streams import make_safe


def command() -> int:
    """Runs the command line; returns the exit code, or ends the process with it.

    The first argument may name a module in `extract/commands/`; all else is Hydra's.
    """
    end_on_signals()
    make_safe()
    name, arguments = "".join(sys.argv[1:2]), sys.argv[2:]
    if name in {module.name for module in pkgutil.iter_modules(commands.__path__)}:
        return int(import_module(f"extract.commands.{name}").main(arguments))
    gc.disable()  # until all is imported and loaded: 0.3 s of searching where there is no garbage
    from extract.app import main  # Hydra and what it needs: once signals are heard

    code = main()
    if _all_done():
        _leave(code)
    gc.freeze()  # or Python looks through all of torch for garbage once more: half a second
    return code


def _all_done() -> bool:
    """Whether nobody is left who may want an orderly end: a thread, a profiler of CUDA's."""
    torch = sys.modules.get("torch")
    used_cuda = torch is not None and torch.cuda.is_initialized()
    return threading.active_count() == 1 and not used_cuda


def _leave(code: int) -> None:
    """As Python ends, but torch is not taken apart first: 0.2 s.

    So do multiprocessing's children end, and mypy.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(command())
