"""Reads files of `torch.save` without running any code that they name.

torch's weights-only unpickler makes tensors and plain containers. Classes that the caller names are
read as `Stub`s with attributes only, as those two that fairseq's files hold. Any other class or
function is refused.
"""

import io
import pickle
import pickletools
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch

from extract.text import shortened

ZIP, PICKLE = b"PK\x03\x04", b"\x80"  # first bytes of files of torch 1.6 and later, and earlier

OF_FAIRSEQ = ("fairseq.data.dictionary.Dictionary", "argparse.Namespace")
_ALLOWED_MODULES = ("torch", "torch._tensor", "torch._utils", "torch.storage")
_ALLOWED = (
    "_codecs.encode",
    "builtins.bytearray",
    "builtins.complex",
    "builtins.set",
    "collections.Counter",
    "collections.OrderedDict",
    "torch.nn.parameter.Parameter",
    "torch.serialization._get_layout",
)
_SHOWN_NAMES = 5
_LEGACY_PICKLES = 5  # magic number, protocol, byte order, what was saved, storages' keys
_STRINGS = ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE")


class Refused(ValueError):
    """A pickle names classes or functions other than those of tensors, or is damaged."""


class Stub:
    """Replaces an object whose class is not imported; `vars` gives its attributes."""

    def __init__(self, *_: object) -> None:
        pass


class _Restored(io.FileIO):
    """A file that reads as if it began with other bytes."""

    def __init__(self, path: Path, head: bytes) -> None:
        super().__init__(path)
        self._head = head

    readall = io.RawIOBase.readall  # it reads by `readinto`, FileIO's own does not

    def readinto(self, buffer: Any, /) -> int:
        at = self.tell()
        num = super().readinto(buffer) or 0
        part = self._head[at : at + num]
        memoryview(buffer)[: len(part)] = part
        return num


def _open(path: Path, start: bytes) -> IO[bytes]:
    return io.BufferedReader(_Restored(path, start[: len(ZIP)]))


def load(path: Path, start: bytes, stubbed: tuple[str, ...] = OF_FAIRSEQ) -> Any:
    """What `torch.save` wrote; the tensors of a zip archive are mapped to the file.

    The kernel reads a mapped tensor's pages when they are used, so that an optimizer's state in the
    file costs no memory. Tensors are read at once where the file begins otherwise than `start`.

    Args:
        path: the file.
        start: its first bytes, as they should be.
        stubbed: classes, `module.Name`, whose objects are read as `Stub`.

    Raises:
        Refused: it names classes or functions other than those of tensors.
        Exception: the file is damaged; torch raises many kinds.
    """
    stubs: list[Any] = [(Stub, name) for name in stubbed]
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(stubs):
            # torch warns of sparse tensors and newer pickles; both are refused anyway
            warnings.simplefilter("ignore", UserWarning)
            is_zip = start.startswith(ZIP)
            # torch 2.14 believes the name, so it sees none
            if path.suffix == ".safetensors" or not _begins(path, start):
                with _open(path, start) as file:
                    return torch.load(file, map_location="cpu", weights_only=True)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError:
        named = foreign_names(path, start, stubbed)
    if not named:
        raise Refused(
            f"{path.name} is a pickle with more in it than tensors, or a damaged one, and running"
            " a file's code is refused; download it again, or convert it to safetensors where it"
            " can be trusted"
        )
    shown = ", ".join(map(shortened, named[:_SHOWN_NAMES]))
    more = f" and {len(named) - _SHOWN_NAMES:,} more" if len(named) > _SHOWN_NAMES else ""
    raise Refused(
        f"{path.name} is a pickle with more in it than tensors: it names {shown}{more}, and running"
        " a file's code is refused; convert it to safetensors where it can be trusted"
    )


def _begins(path: Path, start: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(ZIP)) == start[: len(ZIP)]


def foreign_names(path: Path, start: bytes, stubbed: tuple[str, ...] = OF_FAIRSEQ) -> list[str]:
    """Classes and functions that a file's pickle names, without those of tensors; sorted.

    Lists the pickle's operations and runs none. Stops at the first damage.
    """
    found: set[str] = set()
    try:
        if start.startswith(ZIP):
            with _open(path, start) as whole, zipfile.ZipFile(whole) as archive:
                for member in archive.namelist():
                    if member.endswith("/data.pkl"):
                        with archive.open(member) as file:
                            found.update(_named(file))
        else:
            with path.open("rb") as file:
                for _ in range(_LEGACY_PICKLES):
                    found.update(_named(file))
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        pass
    return sorted(name for name in found - {*stubbed} if not _is_allowed(name))


def _is_allowed(name: str) -> bool:
    return name in _ALLOWED or name.rpartition(".")[0] in _ALLOWED_MODULES


def _named(file: Any) -> Iterator[str]:
    """Yields each class or function that one pickle names, as `module.name`."""
    texts = ["?", "?"]  # strings pushed so far: the last two are about the top of the stack
    memo: dict[int, str] = {}
    for operation, argument, _position in pickletools.genops(file):
        name, value = operation.name, str(argument)
        if name in ("GLOBAL", "INST"):
            yield _in_python_3(*value.split(" ", 1))
        elif name == "STACK_GLOBAL":
            yield ".".join(texts[-2:])
        elif name in _STRINGS:
            texts.append(value)
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            texts.append(memo.get(int(value), "?"))
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[int(value)] = texts[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = texts[-1]


def _in_python_3(module: str, name: str) -> str:
    """`module.name` in Python 3; pickles of protocols below 3 use Python 2's names."""
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    return f"{module}.{name}"
