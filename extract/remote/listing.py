"""The files below a URL: a bucket's prefix, the members of an archive."""

from __future__ import annotations

from collections.abc import Iterator

from extract.remote.places import faults_of, locate, require_packages
from extract.shard import LEDGER_NAME
from extract.urls import CHAIN, redacted


class RemoteWalk:
    """The names of the files below `url`, relative to it, by code point.

    Names with a part that starts with a dot are left out, and so is what lies below a store of
    features: `stores` collects those.

    Args:
        url: a folder that fsspec lists.
    """

    def __init__(self, url: str) -> None:
        first, _, rest = url.partition(CHAIN)
        self.url = url
        self.root = first if first.endswith("/") else f"{first}/"
        self.tail = f"{CHAIN}{rest}" if rest else ""
        self.stores: list[str] = []

    def __iter__(self) -> Iterator[str]:
        """Yields the names.

        Raises:
            ValueError: it cannot be listed, or needs a package that is not installed.
        """
        names = self._names()
        stores = tuple(_stores(names))
        self.stores += [redacted(self.root + store + self.tail) for store in stores]
        for name in names:
            hidden = name.startswith(".") or "/." in name
            if not hidden and not name.startswith(stores):
                yield name

    def _names(self) -> list[str]:
        require_packages([self.url])
        try:
            with faults_of(self.url):
                place, path = locate(self.url)
                if place.is_web:
                    raise ValueError("HTTP lists no folders; a list of URLs is needed")
                found = place.listed(lambda: place.filesystem.find(path))
        except OSError as error:
            message = f"{redacted(self.url)}: cannot be listed: {error.strerror}"
            raise ValueError(message) from error
        below = path.rstrip("/") + "/" if path.strip("/") else path
        return sorted(filter(None, (name.removeprefix(below).lstrip("/") for name in found)))


def _stores(names: list[str]) -> Iterator[str]:
    """The folders among `names` that a run of this program wrote, with a slash at their ends."""
    known = set(names)
    for name in names:
        folder, slash, last = name.rpartition("/")
        if LEDGER_NAME.fullmatch(last) and f"{folder}{slash}metadata.json" in known:
            yield folder + slash
