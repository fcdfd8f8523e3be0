"""A file of another store: linked, or copied where the system makes no link, and never wrong."""

import errno
import os
from pathlib import Path

import pytest
from zlib_ng import zlib_ng

from extract.store.files import StoreFiles, WriteFailed
from extract.store.reused import NotReusable, SameFile

DATA = bytes(range(256)) * 20


@pytest.fixture
def source(tmp_path) -> SameFile:
    path = tmp_path / "donor" / "a.pt"
    path.parent.mkdir()
    path.write_bytes(DATA)
    return SameFile(str(path), len(DATA), zlib_ng.crc32(DATA))


@pytest.fixture
def files(tmp_path) -> StoreFiles:
    files = StoreFiles(tmp_path / "own", fsync=False)
    files.make_folders(["in"])
    return files


def take(files: StoreFiles, source: SameFile, name: str = "in/a.pt") -> Path:
    """Takes the file, with one of the store's own that comes before it."""
    kept = files.write_all("a", {"in/a.wav": [b"wav"], name: source})
    assert kept[1] == (name, 0, source.size, source.crc32)
    assert files.is_whole(kept[1], checksum=True)
    return files.directory / name


def names(files: StoreFiles) -> list[str]:
    return sorted(path.name for path in (files.directory / "in").iterdir())


def is_linked(path: Path, source: SameFile) -> bool:
    return path.samefile(source.path)


@pytest.mark.parametrize("fsync", [False, True])
def test_a_file_is_another_name_of_the_same_bytes(files, source, fsync):
    files.fsync = fsync
    assert is_linked(take(files, source), source)
    assert names(files) == ["a.pt", "a.wav"]


def test_a_file_that_is_linked_already_leaves_no_temporary_name(files, source):
    """POSIX: renaming a name to another one of the same file does nothing."""
    take(files, source)
    assert is_linked(take(files, source), source)
    assert names(files) == ["a.pt", "a.wav"]


def test_a_folder_below_is_made(files, source):
    assert is_linked(take(files, source, "in/below/a.pt"), source)


REFUSALS = [errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP]


@pytest.mark.parametrize("code", REFUSALS, ids=errno.errorcode.get)
def test_where_no_link_can_be_made_the_file_is_copied(files, source, monkeypatch, code):
    def refused(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refused)
    assert not is_linked(take(files, source), source)
    assert (files.directory / "in" / "a.pt").read_bytes() == DATA
    assert names(files) == ["a.pt", "a.wav"]


def test_a_system_without_links_copies(files, source, monkeypatch):
    monkeypatch.delattr(os, "link")
    assert not is_linked(take(files, source), source)


@pytest.mark.parametrize("linking", [True, False])
@pytest.mark.parametrize("damage", ["gone", "another", "longer", "symlink"])
def test_a_file_that_is_not_what_its_line_says_is_not_taken(
    files, source, monkeypatch, damage, linking
):
    path = Path(source.path)
    path.unlink()
    if damage == "another":
        path.write_bytes(DATA[::-1])
    elif damage == "longer":
        path.write_bytes(DATA + b"more")
    elif damage == "symlink":
        path.with_name("b").write_bytes(DATA)
        path.symlink_to(path.with_name("b"))
    if not linking:
        monkeypatch.delattr(os, "link")
    with pytest.raises(NotReusable):
        take(files, source)
    assert names(files) == []


def test_a_name_that_cannot_be_is_of_this_utterance_alone(files, source):
    with pytest.raises(WriteFailed):
        take(files, source, f"in/{'a' * 300}.pt")
    assert names(files) == ["a.wav"]  # which `Writers` discard: nothing unfinished is left


def test_replacing_or_removing_one_name_leaves_the_bytes_of_the_other(files, source):
    path = take(files, source)
    files.write_all("a", {"in/a.pt": [b"other"]})
    assert Path(source.path).read_bytes() == DATA
    take(files, source)
    Path(source.path).unlink()
    assert path.read_bytes() == DATA
