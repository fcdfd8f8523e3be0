"""The opener of manifests that name URLs."""

from __future__ import annotations

from typing import Any, BinaryIO

from extract.opener import LocalFiles
from extract.remote.reading import open_url
from extract.remote.stamps import Stamps
from extract.urls import is_url

FILES = LocalFiles()


class AnyFiles:
    """Opens files of this machine and URLs, whichever a path is.

    Args:
        folder: the URL of the folder that all URLs are in, if there is one. It is listed once.
        lists: whether folders with many recordings are listed instead of asking for each. A pickled
            copy, as a worker gets it, does neither.
    """

    def __init__(self, folder: str | None = None, *, lists: bool = True) -> None:
        self._stamps = Stamps(folder, lists=lists)

    def __reduce__(self) -> tuple[Any, ...]:
        return _in_worker, ()

    def open(self, path: str) -> BinaryIO:
        """The file at a path or URL; raises as `extract.opener.Opener.open`."""
        return open_url(path, self._stamps.known(path)) if is_url(path) else FILES.open(path)

    def stamp(self, path: str) -> tuple[int, int]:
        """As `LocalFiles.stamp`; of a URL its size and a hash of its etag or time."""
        return self._stamps.of(path) if is_url(path) else FILES.stamp(path)


def _in_worker() -> AnyFiles:
    return AnyFiles(lists=False)
