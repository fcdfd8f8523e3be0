"""The note of what a run was given: the ids of its shard's part.

`python -m extract audit` asks whether each has a line, and `overwrite` which files a killed run may
have left. It lies in `.extract/` as `listed-0-of-4`, for a layout to which other lists add as
`listed-4fb1c25e-0-of-4` with the hash of the list's name. Each id ends with a zero byte.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from extract.files import open_regular, replace_cache
from extract.manifest.ids import check_id
from extract.manifest.manifest import Manifest
from extract.shard import Shard
from extract.store.lock import PRIVATE
from extract.store.store import Store
from extract.write_errors import explained

_AT_ONCE = 4096  # ids that are joined at a time
_BLOCK = 1 << 20  # bytes of a note that are read at a time


def note_listed(store: Store, shard: Shard, manifest: Manifest) -> None:
    """Notes the ids of a shard's part, in the place of the notes of other divisions of the list.

    Args:
        store: open for this process.
        shard: this process's.
        manifest: the shard's recordings and what the source lists and is none.

    Raises:
        StoreUnusable: the disk takes no files.
    """
    folder = store.directory / PRIVATE
    of_list = f"listed-{_hash(manifest.source)}" if store.layout.adds else "listed"
    others = re.compile(rf"{of_list}-\d+-of-(?!{shard.count}$)\d+")
    path = folder / f"{of_list}-{shard}"
    with explained(store.directory):
        is_new = not _holds(path, _joined(manifest))
        if is_new:
            replace_cache(path, _joined(manifest))
        for other in folder.iterdir():
            if others.fullmatch(other.name):
                other.unlink(missing_ok=True)
    store.place.note(path.name, lambda name: bool(others.fullmatch(name)), is_new=is_new)


def noted_ids(directory: Path) -> Iterator[str]:
    """The ids in the notes of all shards that can name files."""
    for path in sorted((directory / PRIVATE).glob("listed-*")):
        with suppress(OSError), open_regular(path) as file:
            left = b""
            while block := file.read(_BLOCK):
                *whole, left = (left + block).split(b"\0")
                ids = (raw.decode("utf8", "replace") for raw in whole if raw)
                yield from (id_ for id_ in ids if not check_id(id_))


def _holds(path: Path, parts: Iterable[bytes]) -> bool:
    """Whether a file has these bytes."""
    try:
        with open_regular(path) as file:
            return all(file.read(len(part)) == part for part in parts) and not file.read(1)
    except OSError:
        return False


def _hash(source: str) -> str:
    return hashlib.blake2b(source.encode("utf8", "surrogateescape"), digest_size=4).hexdigest()


def _joined(manifest: Manifest) -> Iterator[bytes]:
    failed = (failure.recording.id for failure in manifest.failures)
    iterator = itertools.chain(manifest.ids, failed)
    while some := list(itertools.islice(iterator, _AT_ONCE)):
        yield "".join(f"{id_}\0" for id_ in some).encode("utf8", "surrogateescape")
