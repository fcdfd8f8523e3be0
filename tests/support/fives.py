"""A layout of archives, as another package would have it: tests install it under the name `fives`.

    fives/<run>-<number>.five   members; each a line of JSON, {"id": ..., "bytes": ...}, then these
                                bytes, which torch.load reads; a member without an id is none

Five utterances are one archive: four calls of `put` return nothing, and the fifth returns all five.
"""

import io
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import torch

from extract.store.files import crc32
from extract.store.layout import Kept, Layout, LayoutOptions
from extract.write_errors import StoreUnusable, explained

FOLDER = "fives"
SIZE = 5


@dataclass
class Options(LayoutOptions):
    """Five utterances a file."""

    layout: str = "fives"


def layout(options, directory, files):
    return Fives(files)


def members(path: Path) -> Iterator[tuple[dict, int]]:
    """Each member's line and where its bytes begin."""
    with path.open("rb") as file:
        while line := file.readline():
            member = json.loads(line)
            yield member, file.tell()
            file.seek(member["bytes"], os.SEEK_CUR)


class Fives(Layout):
    suffixes = ("",)
    folders = (FOLDER,)
    takes_layers = True

    def __init__(self, files):
        self._files = files
        self._lock = Lock()
        self._held = []  # at most `SIZE` utterances: (id, bytes)
        self._num_put = self._num_archives = 0

    def create(self):
        self._files.make_folders(self.folders)

    def put(self, item):
        buffer = io.BytesIO()
        torch.save(item.features.values.clone(), buffer)
        with self._lock:
            self._num_put += 1
            wait_if_told(self._num_put)
            note(item.recording.id)
            self._held.append((item.recording.id, buffer.getvalue()))
            return self._keep() if len(self._held) == SIZE else ()

    def close(self, *, abandon=False):
        with self._lock:
            if abandon:
                self._held.clear()
            return self._keep() if self._held else ()

    def _keep(self):
        for id_, _data in self._held:
            self._remove(id_)
        name = f"{FOLDER}/{self._files.run_id}-{self._num_archives}.five"
        self._num_archives += 1
        parts, kept, offset = [], [], 0
        for id_, data in self._held:
            line = json.dumps({"id": id_, "bytes": len(data)}).encode() + b"\n"
            kept.append(Kept(id_, ((name, offset + len(line), len(data), crc32([data])),)))
            parts += [line, data]
            offset += len(line) + len(data)
        with explained(self._files.directory), self._files.temporary(name) as file:
            file.write(parts)
            file.publish()
        self._held.clear()
        wait_if_told("kept")
        return kept

    def discard(self, id):  # noqa: A002
        with self._lock:
            self._remove(id)

    def _remove(self, id_):
        """Removes an utterance's name from its archive; the others keep their offsets."""
        for path in self._archives():
            found = list(members(path))
            if id_ not in [member["id"] for member, _offset in found]:
                continue
            if all(member["id"] in (id_, None) for member, _offset in found):
                self._files.remove(f"{FOLDER}/{path.name}")
                continue
            data = bytearray(path.read_bytes())
            for member, offset in found:
                if member["id"] == id_:
                    line = json.dumps({"id": id_, "bytes": member["bytes"]}).encode()
                    blank = json.dumps({"id": None, "bytes": member["bytes"]}).encode()
                    start = offset - len(line) - 1
                    data[start : offset - 1] = blank.ljust(len(line))
            name = f"{FOLDER}/{path.name}"
            with explained(self._files.directory), self._files.temporary(name) as file:
                file.write([data])
                file.publish()

    def _archives(self):
        return [self._files.directory / FOLDER / name for name in self._files.names(FOLDER)]

    def intact(self, kept, *, checksum):
        return all(self._files.is_whole(file, checksum=checksum, part=True) for file in kept.files)

    def read(self, kept):
        return torch.load(io.BytesIO(self._files.read(kept.files[0])), weights_only=True)

    def ids_of_files(self):
        for path in self._archives():
            yield from (member["id"] for member, _offset in members(path) if member["id"])

    def has_files(self, id):  # noqa: A002
        return id in self.ids_of_files()

    def sweep(self):
        return self._files.sweep(self.folders)

    def bytes_per_second(self, width, itemsize, frame_rate):
        return frame_rate * width * itemsize


def note(id_):
    """For tests: appends the id to the file that $FIVES_PUT names."""
    if path := os.environ.get("FIVES_PUT"):
        with open(path, "a") as file:
            file.write(f"{id_}\n")


def wait_if_told(moment):
    """For tests: at the moment $FIVES_FULL the disk is full; at $FIVES_WAIT it waits for `go`."""
    if os.environ.get("FIVES_FULL") == str(moment):
        raise StoreUnusable("the disk is full")
    if os.environ.get("FIVES_WAIT") == str(moment):
        Path("waiting").touch()
        while not Path("go").exists():
            time.sleep(0.005)
