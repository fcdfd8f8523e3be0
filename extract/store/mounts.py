"""Whether flock reaches every machine that sees a folder, by the file system that it lies on.

Many network file systems take a flock and tell no other machine of it: NFS mounted with `nolock`,
Lustre with `localflock`, most file systems of FUSE. The call succeeds there, so only the type and
the options of the mount tell. A file system that is not known here is taken for such a one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from extract.systems import real_path
from extract.text import printable

MOUNTS = Path("/proc/self/mountinfo")
EXPORTS = (Path("/proc/fs/nfsd/exports"), Path("/var/lib/nfs/etab"))

# One kernel alone writes to these, and its flock is the truth. `fuseblk` is NTFS on a disk.
_LOCAL = re.compile(
    "apfs|bcachefs|btrfs|ecryptfs|exfat|ext[234]|f2fs|fuseblk|hfs|hfsplus|jfs|nilfs2|ntfs3?|overlay"
    "|ramfs|reiserfs|rootfs|tmpfs|ubifs|udf|vfat|xfs|zfs"
)
# These tell all their machines of a flock, unless mounted with one of the options.
_NFS = frozenset({"nolock", "local_lock=all", "local_lock=flock"})
_TELL_ALL = {
    "nfs": _NFS,
    "nfs4": _NFS,
    "ceph": frozenset[str](),
    "gfs2": frozenset({"localflocks"}),
    "gpfs": frozenset[str](),
    "ocfs2": frozenset({"localflocks"}),
}
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class Storage:
    """What a folder lies on."""

    is_local: bool = True  # no other machine writes there
    without_flock: str = ""  # why flock does not reach all that write there; "" if it does


def storage_of(folder: Path) -> Storage:
    """What `folder` lies on; a local disk where the system does not tell (not Linux)."""
    where = real_path(folder)
    kind, options = _mount_of(where)
    if not kind:
        return Storage()
    if _LOCAL.fullmatch(kind):
        if any(_is_below(where, exported) for exported in _exported()):
            return Storage(
                False, "this disk is exported over NFS, whose clients see no flock of it"
            )
        return Storage()
    told = kind == "lustre" and "flock" in options
    if told or (kind in _TELL_ALL and not options & _TELL_ALL[kind]):
        return Storage(is_local=False)
    return Storage(False, f"a flock on this storage ({printable(kind)}) may be seen here alone")


def _mount_of(where: str) -> tuple[str, frozenset[str]]:
    """The type and the options of the file system at a path; "" where that is not known."""
    found, longest = ("", frozenset[str]()), -1
    for line in _lines(MOUNTS):
        before, _dash, after = line.partition(" - ")
        fields, of_disk = before.split(" "), after.split(" ")
        if len(fields) < 6 or len(of_disk) < 3:
            continue
        point = _plain(fields[4])
        if _is_below(where, point) and len(point) >= longest:  # the last one covers those before it
            options = frozenset(f"{fields[5]},{of_disk[2]}".split(","))
            found, longest = (of_disk[0], options), len(point)
    return found


def _exported() -> Iterator[str]:
    """The folders that this machine's kernel exports over NFS."""
    for path in EXPORTS:
        for line in _lines(path):
            if line.startswith("/"):
                yield _plain(line.split("\t")[0].split(" ")[0])


def _lines(path: Path) -> list[str]:
    with suppress(OSError):
        return path.read_text("utf8", "surrogateescape").splitlines()
    return []


def _plain(field: str) -> str:
    """A path without the kernel's escapes, of which 040 is a space."""
    return _OCTAL.sub(lambda found: chr(int(found[1], 8)), field)


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
