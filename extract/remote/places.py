"""fsspec's filesystems: which one a URL is on, and its errors as those of a file.

Credentials and options are fsspec's own: its configuration files and environment variables, and
those of the services.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from threading import Lock
from typing import Any, TypeVar

from extract.extras import missing
from extract.opener import UnreachableError
from extract.text import printable
from extract.urls import CHAIN, redacted, schemes

T = TypeVar("T")

MAX_ARCHIVES = 32  # held open at once
MAX_SAID = 300  # characters of a backend's message
GONE = (404, 410)  # HTTP's statuses of what does not exist


@dataclass(frozen=True)
class Place:
    """A filesystem of fsspec's, `remote.filesystem`, and what is to be known of it."""

    name: str  # the same in every process
    filesystem: Any
    lock: Any  # held while an archive is read: its members share one file

    @property
    def is_archive(self) -> bool:
        """A zip or tar: its list of members is in memory."""
        return not self.filesystem.cachable

    @property
    def is_web(self) -> bool:
        """HTTP, which lists no folders."""
        protocol = self.filesystem.protocol
        return "http" in ((protocol,) if isinstance(protocol, str) else protocol)

    def listed(self, find: Callable[[], T]) -> T:
        """What `find` lists.

        fsspec's cache of listings is emptied before, since it may be old, and after, since a
        million files would stay in it.
        """
        with self.lock:
            self.filesystem.invalidate_cache()
            try:
                return find()
            finally:
                self.filesystem.invalidate_cache()

    def timeout(self, seconds: float) -> dict[str, float]:
        """The argument that ends a call after `seconds`, where the filesystem knows one."""
        return {"timeout": seconds} if self.filesystem.async_impl else {}


class _Process:
    """The places that one process has opened."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.places: dict[str, Place] = {}


_process = _Process()
_inherited: list[_Process] = []  # held: closing its sessions would wait for threads left behind


def locate(url: str) -> tuple[Place, str]:
    """The place that `url` is on and its path there; one filesystem a process and server.

    fsspec's event loop is a thread, which a forked process does not have: it makes its own.

    Raises:
        Exception: what fsspec and its backends raise; see `faults_of`.
    """
    global _process
    if _process.pid != os.getpid():
        from fsspec.asyn import reset_lock

        _inherited.append(_process)
        reset_lock()
        _process = _Process()
    first, _, rest = url.partition(CHAIN)
    scheme, _, behind = first.partition("://")
    key = f"{scheme}://{CHAIN}{rest}" if rest else f"{scheme}://{behind.partition('/')[0]}"
    places = _process.places
    if key not in places:
        archives = [known for known, place in places.items() if place.is_archive]
        if len(archives) >= MAX_ARCHIVES:
            del places[archives[0]]
        places[key] = _open(key, url)
    return places[key], places[key].filesystem._strip_protocol(first)


def _open(name: str, url: str) -> Place:
    from fsspec.core import url_to_fs

    for library in ("botocore", "aiobotocore"):  # each worker would say where its credentials are
        if logging.getLogger(library).level == logging.NOTSET:
            logging.getLogger(library).setLevel(logging.WARNING)
    filesystem, _path = url_to_fs(url)
    return Place(name, filesystem, nullcontext() if filesystem.async_impl else Lock())


@contextmanager
def faults_of(url: str) -> Iterator[None]:
    """Turns whatever fsspec and its backends raise within the block into an OSError.

    Raises:
        FileNotFoundError: there is no such recording, or no such archive.
        UnreachableError: everything else; its `strerror` says what, without the URL's secrets.
    """
    try:
        yield
    except (MemoryError, UnreachableError):
        raise
    except Exception as error:
        raise _as_os_error(error, url) from error


def _as_os_error(error: Exception, url: str) -> OSError:
    cause = error.__cause__
    # fsspec's HTTP raises FileNotFoundError for every failure, and keeps the failure as its cause.
    hides = isinstance(error, FileNotFoundError) and _is_of_the_network(cause)
    found = cause if hides and cause else error
    if isinstance(found, FileNotFoundError) or getattr(found, "status", None) in GONE:
        return FileNotFoundError(errno.ENOENT, "no such file", redacted(url))
    said = " ".join(f"{type(found).__name__}: {found}".split()).removesuffix(": ")
    return UnreachableError(errno.EIO, printable(redacted(said)[:MAX_SAID]), redacted(url))


def _is_of_the_network(error: BaseException | None) -> bool:
    return isinstance(error, TimeoutError) or type(error).__module__.startswith("aiohttp.")


def require_packages(urls: Iterable[str]) -> None:
    """Refuses URLs that need a package which is not installed.

    Raises:
        ValueError: names the package and the command that installs it.
    """
    for url in urls:
        try:
            import fsspec

            for scheme in schemes(url):
                fsspec.get_filesystem_class(scheme)
        except ImportError as error:
            cause = error.__cause__ if isinstance(error.__cause__, ImportError) else error
            raise ValueError(f"{redacted(url)}: {missing(cause.name)}") from error
        except ValueError:  # no such protocol: a fault of the recordings that name it
            continue
