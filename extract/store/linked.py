"""A file that is another name of one in another store: a hard link, or a copy where there is none.

Every file of a store is replaced and never changed, so a second name keeps the bytes that it was
given, whatever becomes of the first.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from zlib_ng import zlib_ng  # its CRC is 15 times as fast as zlib's

from extract.files import Buffer, Temporary, open_regular
from extract.store.reused import NotReusable, SameFile
from extract.systems import replace, unlink

# errno values of a hard link: another disk, not allowed here, too many of one file, not supported.
_NO_LINK = {
    errno.EXDEV,
    errno.EPERM,
    errno.EACCES,
    errno.EMLINK,
    errno.ENOSYS,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
}


class Linked(Temporary):
    """A file of another store under a temporary name in this one, until it is published.

    Args:
        source: the file.
        final, name, root, fsync: as `Temporary` has them.
    """

    def __init__(self, source: SameFile, final: str, name: str, *, root: Path, fsync: bool) -> None:
        super().__init__(final, name, root=root, fsync=fsync)
        self.source, self._name = source, self.path

    def __enter__(self) -> Linked:
        self.descriptor, self.path = -1, ""  # nothing is there yet
        return self

    def write(self, parts: object = ()) -> None:
        """Links the file, or copies it, and reads it: only what the source's line says is kept.

        Raises:
            NotReusable: the source is gone, or holds something else.
            OSError: this store cannot be written to.
        """
        try:
            linked = self._link()
        except FileNotFoundError:
            if not self.root.exists():
                raise
            os.makedirs(self.folder, exist_ok=True)  # noqa: PTH103
            linked = self._link_again()
        if linked:
            self.path = self._name
            self._check(self.path, sync=self.fsync)
        else:
            self._copy([self._check(self.source.path)])

    def publish(self) -> None:
        """Gives the file its name: `Temporary.publish`.

        Renaming one name of a file to another name of it does nothing (POSIX): so the temporary one
        may be left.
        """
        if self.descriptor >= 0:
            super().publish()
            return
        path, self.path = self.path, self._name
        replace(path, self.final)
        with suppress(FileNotFoundError):
            unlink(path)
        self.path = ""

    def _link_again(self) -> bool:
        try:
            return self._link()
        except FileNotFoundError:
            raise NotReusable(f"{self.source.path}: gone") from None

    def _link(self) -> bool:
        """Whether a second name was made; False where the system makes none."""
        if not hasattr(os, "link"):
            return False
        try:
            os.link(self.source.path, self._name)
        except OSError as error:
            if error.errno in _NO_LINK:
                return False
            raise
        return True

    def _copy(self, parts: list[Buffer]) -> None:
        self.path = self._name
        super().__enter__()
        super().write(parts)

    def _check(self, path: str, *, sync: bool = False) -> bytes:
        """The bytes of the source's file at `path`, which are what its line says."""
        try:
            with open_regular(path) as file:
                data = file.read(self.source.size + 1)
                if sync and os.name != "nt":  # the other store may have been written without fsync
                    os.fsync(file.fileno())
        except OSError as error:
            raise NotReusable(f"{self.source.path}: {error.strerror}") from None
        if len(data) != self.source.size or zlib_ng.crc32(data) != self.source.crc32:
            raise NotReusable(f"{self.source.path}: not what its line says")
        return data
