"""A ledger's line of a saved utterance in brief: what resuming asks of it, by one expression.

Nearly every line of a finished store has the form that this version writes: keys in one order, no
escape, no units, no `extra`. Parsing it as JSON and checking each value takes twice the time. All
other lines are for `extract.store.ledger.parse`, which is the one to say what a line may be.
"""

from __future__ import annotations

import re
from typing import Any

from extract.store.layout import KeptFile, KeptFiles
from extract.values import SAVED

_TEXT = r'"([^"\\\x00-\x1f\ud800-\udfff]*+)"'
_WHOLE, _TIME = (rf"(?!0\d)\d{{1,{digits}}}+" for digits in (18, 19))
_REAL = rf"{_WHOLE}(?:\.\d{{1,30}}+)?(?:e-\d\d)?"
_FILE = rf"\[{_TEXT},({_WHOLE}),({_WHOLE}),({_WHOLE})\]"
_LINE = re.compile(
    rf'{{"id":{_TEXT},"path":{_TEXT},"status":"{SAVED}","reason":null,"detail":null,'
    rf'"peak":{_REAL},"duration_s":({_REAL}),"num_frames":{_WHOLE},"dtype":"\w+",'
    rf'"retried_fp32":(?:true|false),"clipped_samples":({_WHOLE}|null),'
    rf'"source_size":({_WHOLE}),"source_mtime_ns":({_TIME}),'
    rf'"files":\[{_FILE}(?:,{_FILE})?\]}}\n',
    re.ASCII,
)


def brief(line: bytes) -> dict[str, Any] | None:
    """The keys of a line's record that resuming asks of; None where `ledger.parse` has to look.

    The id is not checked: a caller looks it up among those that were.
    """
    try:
        found = _LINE.fullmatch(line.decode())
    except UnicodeDecodeError:
        return None
    if found is None:
        return None
    id_, path, duration, clipped, size, time, name, start, length, crc, *second = found.groups()
    files: tuple[KeptFile, ...] = (_file(name, start, length, crc),)
    if second[0] is not None:
        files += (_file(*second),)
    return {
        "id": id_,
        "path": path,
        "status": SAVED,
        "duration_s": float(duration),
        "clipped_samples": None if clipped == "null" else int(clipped),
        "source_size": int(size),
        "source_mtime_ns": int(time),
        "files": KeptFiles(files),
    }


def _file(name: str, start: str, length: str, crc: str) -> KeptFile:
    return name, int(start), int(length), int(crc)
