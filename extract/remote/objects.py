"""The objects below a URL: listed, read in parts, and written whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from extract.remote.places import Place, faults_of, locate, require_packages
from extract.remote.reading import open_url
from extract.urls import CHAIN, redacted, schemes

# How a file is sent: no more than some parts of it are in memory at once.
PART_BYTES = 16 << 20
PARTS_AT_ONCE = 4

_TIMES = ("LastModified", "last_modified", "updated", "mtime", "modified", "created")


class Info(NamedTuple):
    """What a listing says of an object."""

    size: int  # bytes
    time_s: float | None  # when it was written, by the server's clock; None where it does not say


class Objects:
    """What is below a folder of an object store. Safe to share among threads.

    An object appears whole: fsspec's backends send it in one request, or in parts of which none is
    an object until the last request. Transient errors are retried by the backend. Each method
    raises OSError with `strerror` and `filename`, in which the URL's secrets are hidden.

    Args:
        url: of the folder; one link, no chain.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.shown = redacted(self.url)

    def list(self) -> dict[str, Info]:
        """All objects, by their names below the folder: one listing, however many there are."""
        with faults_of(self.url), suppress(FileNotFoundError):
            place, path = self._at("")
            found = place.listed(lambda: place.filesystem.find(path, detail=True))
            below = path.rstrip("/") + "/"
            infos = {name: info for name, info in found.items() if name.startswith(below)}
            return {name[len(below) :]: _info(info) for name, info in infos.items()}
        return {}

    def read(self, name: str, start: int | None = None, stop: int | None = None) -> bytes:
        """An object's bytes from `start` to before `stop`; all of them where neither is given."""
        with faults_of(self._url_of(name)):
            place, path = self._at(name)
            with place.lock:
                return bytes(place.filesystem.cat_file(path, start=start, end=stop))

    def open(self, name: str, size: int) -> BinaryIO:
        """An object of `size` bytes as a file, of which as much is fetched as is read."""
        return open_url(self._url_of(name), size)

    def download(self, name: str, path: Path) -> None:
        """Copies an object into the file at `path`."""
        with faults_of(self._url_of(name)):
            place, there = self._at(name)
            with place.lock:
                place.filesystem.get_file(there, str(path))

    def upload(self, path: Path | str, name: str) -> None:
        """Replaces an object by the content of the file at `path`, which must not change."""
        Path(path).stat()  # a file that is missing here is no fault of the object store
        with faults_of(self._url_of(name)):
            place, there = self._at(name)
            with place.lock:
                place.filesystem.put_file(str(path), there, **_sending(place))

    def write(self, name: str, data: bytes) -> None:
        """Replaces an object."""
        with faults_of(self._url_of(name)):
            place, path = self._at(name)
            with place.lock:
                place.filesystem.pipe_file(path, data)

    def create(self, name: str, data: bytes) -> bool:
        """Makes an object if there is none of that name; returns whether there was none.

        S3 and GCS decide that in one step, by a conditional request.
        """
        with faults_of(self._url_of(name)):
            place, path = self._at(name)
            try:
                with place.lock:
                    place.filesystem.pipe_file(path, data, mode="create")
            except FileExistsError:
                return False
        return True

    def remove(self, names: Iterable[str]) -> None:
        """Removes objects, if they are there."""
        for name in names:
            with faults_of(self._url_of(name)):
                place, path = self._at(name)
                with place.lock, suppress(FileNotFoundError):
                    place.filesystem.rm_file(path)

    def _url_of(self, name: str) -> str:
        return f"{self.url}/{name}" if name else self.url

    def _at(self, name: str) -> tuple[Place, str]:
        return locate(self._url_of(name))


def require_folder(url: str) -> None:
    """Refuses what no store can be kept at.

    Raises:
        ValueError: names the URL and why.
    """
    if CHAIN in url or {"http", "https"} & {*schemes(url)}:
        raise ValueError(
            f"{redacted(url)}: no store can be written there; needed a folder of an object store "
            "that fsspec writes and lists: s3://bucket/folder, gs://bucket/folder"
        )
    require_packages([url])


def _info(info: dict[str, Any]) -> Info:
    time = next((info[key] for key in _TIMES if info.get(key) is not None), None)
    if isinstance(time, str):
        time = datetime.fromisoformat(time)
    time_s = time.timestamp() if isinstance(time, datetime) else time
    return Info(int(info["size"] or 0), time_s if isinstance(time_s, int | float) else None)


def _sending(place: Place) -> dict[str, int]:
    """Arguments that bound the memory of `put_file`, where the filesystem knows them: S3's."""
    if not hasattr(place.filesystem, "max_concurrency"):
        return {}
    return {"chunksize": PART_BYTES, "max_concurrency": PARTS_AT_ONCE}
