"""What tells whether a recording at a URL is still the same, found without reading it."""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from extract.opener import MISSING
from extract.remote.places import Place, locate
from extract.urls import CHAIN

Stamp = tuple[int, int]

MANY = 16  # recordings asked for in one folder, from which on it is listed
TIMEOUT_S = 30.0  # for a recording's stamp; a server that lets it pass is not asked again

# What filesystems say of a file's content and its time; the first that one says is taken.
SAID = (
    *("ETag", "etag", "md5Hash", "Content-MD5", "Digest", "blob_id", "CRC"),
    *("LastModified", "Last-Modified", "last_modified", "updated", "mtime", "created"),
)


def stamp_of(info: Mapping[str, Any]) -> Stamp:
    """Size in bytes, and a hash of the etag, or else of another checksum or of the time.

    0 where the server says none of these.
    """
    for key in SAID:
        if info.get(key) not in (None, ""):
            text = f"{key}={info[key]}"
            return info.get("size") or 0, _number(text) >> 1  # fits 63 bits
    return info.get("size") or 0, 0


def _number(text: str) -> int:
    content = text.encode("utf8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")


class _Listing:
    """Stamps of a folder's files, 24 bytes each."""

    def __init__(self, infos: Iterable[Mapping[str, Any]]) -> None:
        rows = sorted((_number(info["name"]), *stamp_of(info)) for info in infos)
        self._keys = array("Q", (row[0] for row in rows))
        self._sizes = array("q", (row[1] for row in rows))
        self._marks = array("q", (row[2] for row in rows))

    def get(self, name: str) -> Stamp | None:
        key = _number(name)
        at = bisect_left(self._keys, key)
        if at == len(self._keys) or self._keys[at] != key:
            return None
        return self._sizes[at], self._marks[at]


class Stamps:
    """Stamps of URLs, each asked for once.

    A stamp may therefore be older than the recording that is read, never newer: a later run sees
    the change.

    Args:
        folder: the URL of a folder that is listed whole at the first question.
        lists: whether folders are listed from the `MANY`th question on.
    """

    def __init__(self, folder: str | None = None, *, lists: bool = True) -> None:
        self._folder, self._lists = folder, lists
        self._known: dict[str, Stamp] = {}
        self._asked = Counter[tuple[str, str]]()
        self._listings: dict[tuple[str, str], _Listing | None] = {}
        self._silent: set[str] = set()  # servers

    def known(self, url: str) -> int | None:
        """The size that `of` found last for `url`, if it was asked."""
        return self._known[url][0] if url in self._known else None

    def of(self, url: str) -> Stamp:
        """The stamp of `url`; `MISSING` if it does not exist or cannot be asked. Raises nothing."""
        if url in self._known:
            return self._known[url]
        server = "/".join(url.rpartition(CHAIN)[2].split("/", 3)[:3])
        if server in self._silent:
            return MISSING
        try:
            place, path = locate(url)
            if found := self._listed(place, path):
                return found
            with place.lock:
                info = place.filesystem.info(path, **place.timeout(TIMEOUT_S))
            self._known[url] = stamp_of(info)
        except TimeoutError:
            self._silent.add(server)
            return MISSING
        except Exception:  # decoding fails too, and says why
            self._known[url] = MISSING
        return self._known[url]

    def _listed(self, place: Place, path: str) -> Stamp | None:
        """The stamp of a file in a folder that is listed; None if it is not in it."""
        if place.is_web or (self._folder is None and place.is_archive):
            return None
        folder = place.filesystem._parent(path)
        if self._folder is not None:
            folder = locate(self._folder)[1]
        key = place.name, folder
        self._asked[key] += 1
        if key not in self._listings:
            if self._folder is None and (not self._lists or self._asked[key] < MANY):
                return None
            self._listings[key] = self._list(place, folder)
        listing = self._listings[key]
        return None if listing is None else listing.get(path)

    def _list(self, place: Place, folder: str) -> _Listing | None:
        files = place.filesystem
        try:
            if self._folder is not None:
                found = place.listed(lambda: files.find(folder, detail=True))
                return _Listing(found.values())
            return _Listing(place.listed(lambda: files.ls(folder, detail=True)))
        except Exception:  # not allowed: each is asked for by itself
            return None
