"""Reads a model's files without trusting them: JSON, and tensors as safetensors or a pickle.

A file's first bytes decide how it is read, never its name. Every fault is a ValueError that says
what the file is and what helps. No code in a file is run.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from extract.models.formats import pickles
from extract.text import shortened

MAX_JSON_BYTES = 1 << 24

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_AGAIN = "download it again"


def file_in(folder: str, name: str) -> Path | None:
    """The file `name` in `folder`; None if there is none; ValueError if the folder hides it."""
    path = Path(folder) / name
    try:
        path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error.strerror}") from None
    return path if path.is_file() else None


def read_json(path: Path) -> dict[str, Any]:
    """The settings in a JSON file such as `config.json`.

    Raises:
        ValueError: it cannot be read, or holds no settings.
    """
    text = start_of(path, MAX_JSON_BYTES + 1)
    if len(text) > MAX_JSON_BYTES:
        raise ValueError(f"{path.name} has more than {MAX_JSON_BYTES:,} bytes; {_AGAIN}")
    try:
        settings = json.loads(text)
    except RecursionError:
        raise ValueError(f"{path.name} is nested too deeply to be read") from None
    except ValueError as error:
        problem = shortened(str(error))
        raise ValueError(f"{path.name} is no JSON: {problem}; mend it or {_AGAIN}") from None
    if not isinstance(settings, dict):
        found = type(settings).__name__
        raise ValueError(f"{path.name} is a {found}; a mapping of settings is needed")
    return settings


def read_tensors(
    path: Path, *, stubbed: tuple[str, ...] = pickles.OF_FAIRSEQ, heads: tuple[bytes, ...] = ()
) -> Mapping[Any, Any]:
    """The mapping that a file holds: tensors by name, and in a pickle other values too.

    Tensors may be mapped to the file.

    Args:
        path: the file.
        stubbed: classes, `module.Name`, whose objects are read as `pickles.Stub`.
        heads: what may stand in place of `PK`, a zip archive's first two bytes.

    Raises:
        ValueError: it cannot be read, is damaged, or holds more than tensors.
    """
    from safetensors.torch import load_file

    start = start_of(path, 1024)
    is_safetensors = _is_safetensors(start)
    if start[:2] in heads and start[2:4] == pickles.ZIP[2:]:
        start = pickles.ZIP + start[4:]
    if not is_safetensors and not start.startswith((pickles.ZIP, pickles.PICKLE)):
        raise ValueError(f"{path.name} is no file of weights: it starts {start[:16]!r}; {_AGAIN}")
    try:
        found = load_file(path) if is_safetensors else pickles.load(path, start, stubbed)
    except pickles.Refused:
        raise
    except Exception as error:  # a damaged file makes the readers raise almost anything
        problem = shortened(str(error).strip().partition("\n")[0])
        raise ValueError(
            f"{path.name} does not load: {type(error).__name__}: {problem}; if it is cut off or"
            f" damaged, {_AGAIN}"
        ) from error
    if not isinstance(found, Mapping):
        raise ValueError(f"{path.name} is a {type(found).__name__}; a mapping of names is needed")
    return found


def _is_safetensors(start: bytes) -> bool:
    """Whether a file starts with the length of a header, 8 bytes, and the header, JSON."""
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 32


def start_of(path: Path, num_bytes: int) -> bytes:
    """The first bytes of a file; ValueError if it is unreadable, an LFS pointer or a web page."""
    try:
        with path.open("rb") as file:
            start = file.read(num_bytes)
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read: {error.strerror}") from None
    if not start:
        raise ValueError(f"{path.name} is empty; {_AGAIN}")
    if start.startswith(_LFS_POINTER):
        raise ValueError(
            f"{path.name} is a Git LFS pointer, which only names the file that is meant;"
            f" run `git lfs pull` in its folder, or {_AGAIN}"
        )
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        raise ValueError(f"{path.name} is a web page, saved in place of the file; {_AGAIN}")
    return start
