"""Counts faults of this program, apart from damaged recordings: the first is logged, many stop."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from extract.text import printable

log = logging.getLogger(__name__)

INTERNAL_ERROR: Final = "internal_error"  # the ledger's reason
GIVE_UP_AFTER = 20  # faults, if a stage began with them and read no recording
MAX_MESSAGE = 500  # characters of an exception's message that the ledger keeps

_PACKAGE = str(Path(__file__).parent)


def last_line(error: BaseException) -> str:
    """`TypeError: its message (decode.py:12)`: an exception, and the line that it came from.

    The line is the innermost one of this package on the traceback.
    """
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if frame.filename.startswith(_PACKAGE)]
    said = printable(f"{type(error).__qualname__}: {error}"[:MAX_MESSAGE])
    return said + "".join(f" ({Path(at.filename).name}:{at.lineno})" for at in ours[-1:])


class InternalErrors:
    """Counts the faults of this program that a run meets while it reads recordings."""

    def __init__(self) -> None:
        self.num = 0
        self.give_up = False  # a stage began with `GIVE_UP_AFTER` faults
        self.begin()

    def begin(self) -> None:
        """Begins a stage. Headers and samples are two stages, since different code reads them."""
        self._num_of_stage, self._any_read = 0, False

    def note(self, faults: Sequence[str], num_read: int) -> None:
        """Adds the outcomes of some recordings; logs the first fault, and the decision to give up.

        Args:
            faults: one line for each recording that ended in a fault of this program.
            num_read: how many others were read as they should be.
        """
        if faults and not self.num:
            log.error(
                "%s: a fault of this program, not of the recording; please report it", faults[0]
            )
        self.num += len(faults)
        self._num_of_stage += len(faults)
        self._any_read = self._any_read or num_read > 0
        in_vain = not self._any_read and self._num_of_stage >= GIVE_UP_AFTER
        if in_vain and not self.give_up:
            self.give_up = True
            log.error(
                "%d faults of this program, and not one recording was read: stopping",
                self._num_of_stage,
            )
