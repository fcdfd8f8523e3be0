"""`python -m extract`, and the command `extract`."""

import gc
import sys

from extract.app import main


def command() -> int:
    """Runs the command line; returns the exit code."""
    gc.disable()  # until all is imported and loaded: 0.3 s of searching where there is no garbage
    code = main()
    gc.freeze()  # or Python looks through all of torch for garbage once more: half a second
    return code


if __name__ == "__main__":
    sys.exit(command())
