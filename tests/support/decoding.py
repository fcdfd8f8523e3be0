"""Decodes the file at a path: opens it, then calls the package's function of the same name."""

import math
import os
from pathlib import Path

from extract.audio import decode as decode_module
from extract.audio import prepare as prepare_module
from extract.audio.faults import opened
from extract.audio.prepare import Prepared
from extract.audio.spans import WHOLE, Samples, Span
from extract.opener import LocalFiles, Opener
from extract.text import printable
from extract.values import AudioSettings

FILES = LocalFiles()


def decode(
    path: str | Path,
    max_duration_s: float = math.inf,
    span: Span = WHOLE,
    opener: Opener = FILES,
) -> Samples:
    where = printable(os.fspath(path))
    with opened(opener, os.fspath(path), where) as file:
        return decode_module.decode(file, where, max_duration_s, span).samples


def probe_duration_s(path: str | Path, opener: Opener = FILES) -> float:
    where = printable(os.fspath(path))
    with opened(opener, os.fspath(path), where) as file:
        return decode_module.probe_duration_s(file, where)


def prepare(
    path: str | Path, settings: AudioSettings, span: Span = WHOLE, opener: Opener = FILES
) -> Prepared:
    where = printable(os.fspath(path))
    with opened(opener, os.fspath(path), where) as file:
        return prepare_module.prepare(file, where, settings, span)
