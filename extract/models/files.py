"""`config.json` and weights as a folder or the hub's cache holds them, read without trusting them.

Every fault is a ValueError that says what the file is and what helps. No code of a file is run.
"""

import json
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from extract.text import shortened

CONFIG_FILE = "config.json"
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
MAX_CONFIG_BYTES = 1 << 24

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_TORCH_STARTS = (b"PK\x03\x04", b"\x80")  # a zip archive; a pickle, as torch wrote until 1.6
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


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a `config.json`.

    Raises:
        ValueError: it cannot be read, or holds no settings.
    """
    text = _start(path, MAX_CONFIG_BYTES + 1)
    if len(text) > MAX_CONFIG_BYTES:
        raise ValueError(f"{path.name} has more than {MAX_CONFIG_BYTES:,} bytes; {_AGAIN}")
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


def read_weights(path: Path) -> Mapping[Any, Any]:
    """The tensors of a weight file by their names, among whatever else it holds.

    Raises:
        ValueError: it cannot be read, is damaged, or holds more than tensors.
    """
    from safetensors.torch import load_file

    start = _start(path, 1024)
    if path.suffix != ".safetensors" and not start.startswith(_TORCH_STARTS):
        raise ValueError(f"{path.name} is no file of weights: it starts {start[:16]!r}; {_AGAIN}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():  # torch's, of a sparse tensor: it is refused by name later
            warnings.filterwarnings("ignore", "(?i).*sparse")
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(
            f"{path.name} is a pickle with more in it than tensors, or a damaged one, and running"
            f" a file's code is refused; {_AGAIN}, or convert it to safetensors where it can be"
            " trusted"
        ) from None
    except Exception as error:  # whatever damage makes of the readers' own assumptions
        problem = shortened(str(error).strip().partition("\n")[0])
        raise ValueError(
            f"{path.name} does not load: {type(error).__name__}: {problem}; if it is cut off or"
            f" damaged, {_AGAIN}"
        ) from error
    if not isinstance(found, Mapping):
        raise ValueError(f"{path.name} is a {type(found).__name__}; a mapping of names is needed")
    return found


def _start(path: Path, num_bytes: int) -> bytes:
    """The first bytes of a file; ValueError if it cannot be read or stands for the file meant."""
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
