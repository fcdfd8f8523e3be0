"""What other systems do with files, said here by functions in the place of theirs."""

import errno
import ntpath
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from extract import systems
from extract.systems import InUseError, folds_case

REPLACE = os.replace


def windows_says(winerror: int) -> PermissionError:
    error = PermissionError(errno.EACCES, "Access is denied")
    error.winerror = winerror  # only Windows's own have one
    return error


class Opened:
    """`os.replace` of a file that another program has open for a while."""

    def __init__(self, times: int, winerror: int = 32) -> None:
        self.times, self.winerror, self.num_calls = times, winerror, 0

    def __call__(self, source: str, target: str) -> None:
        self.num_calls += 1
        if self.num_calls <= self.times:
            raise windows_says(self.winerror)
        REPLACE(source, target)


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    monkeypatch.setattr(systems.time, "sleep", lambda _s: None)
    (tmp_path / "new").write_text("new")
    (tmp_path / "old").write_text("old")
    return tmp_path / "new", tmp_path / "old"


@pytest.mark.parametrize("winerror", [5, 32])
def test_a_file_that_is_open_elsewhere_for_a_moment_is_replaced(two, monkeypatch, winerror):
    monkeypatch.setattr(os, "replace", opened := Opened(3, winerror))
    systems.replace(*two)
    assert two[1].read_text() == "new"
    assert opened.num_calls == 4


def test_a_file_that_stays_open_is_said_with_its_name(two, monkeypatch):
    monkeypatch.setattr(os, "replace", opened := Opened(1000))
    with pytest.raises(InUseError) as caught:
        systems.replace(*two)
    assert caught.value.filename == str(two[1])
    assert opened.num_calls == len(systems.PAUSES_S) + 1
    assert sum(systems.PAUSES_S) < 2
    assert two[1].read_text() == "old"


def test_what_other_systems_deny_is_not_tried_again(two, monkeypatch):
    calls = []

    def deny(*paths):
        calls.append(paths)
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "replace", deny)
    with pytest.raises(PermissionError) as caught:
        systems.replace(*two)
    assert not isinstance(caught.value, InUseError)
    assert len(calls) == 1


def test_a_folder_in_the_place_of_a_file_is_not_waited_for(two, monkeypatch):
    two[1].unlink()
    two[1].mkdir()
    monkeypatch.setattr(os, "replace", opened := Opened(1000, 5))
    with pytest.raises(IsADirectoryError):
        systems.replace(*two)
    assert opened.num_calls == 1


def test_a_link_is_not_opened_where_no_flag_forbids_it(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("here")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    monkeypatch.setattr(systems, "_NO_FOLLOW", 0)
    os.close(systems.open_no_link(tmp_path / "file", os.O_RDONLY))
    with pytest.raises(OSError, match="symbolic") as caught:
        systems.open_no_link(tmp_path / "link", os.O_RDONLY)
    assert caught.value.errno == errno.ELOOP


def test_windows_paths_get_slashes(monkeypatch):
    monkeypatch.setattr(systems, "os", SimpleNamespace(sep="/"))
    assert systems.slashed(r"a\b") == r"a\b"  # on Linux a backslash is part of a name
    path = SimpleNamespace(realpath=lambda path: ntpath.normpath(path))
    monkeypatch.setattr(systems, "os", SimpleNamespace(sep="\\", path=path))
    assert systems.slashed(r"a\b") == "a/b"
    assert systems.real_path(r"C:\data\..\x/y") == "C:/x/y"
    assert systems.real_path(r"\\host\share\x") == "//host/share/x"


# --- case --------------------------------------------------------------------------------------


@pytest.fixture
def folding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking for a name finds the file that is called so in any case, as on NTFS and APFS."""
    lstat = Path.lstat

    def find(path: Path) -> os.stat_result:
        names = {name.lower(): name for name in os.listdir(path.parent)}  # noqa: PTH208
        return lstat(path.with_name(names.get(path.name.lower(), path.name)))

    monkeypatch.setattr(Path, "lstat", find)


@pytest.mark.parametrize("name", ["a file", "12"])
def test_the_file_system_is_asked_about_case(tmp_path, name):
    (tmp_path / name).touch()
    assert not folds_case(tmp_path)
    assert not folds_case(tmp_path / "not" / "yet")
    assert os.listdir(tmp_path) == [name]  # noqa: PTH208 - what was tried is gone


@pytest.mark.parametrize("name", ["a file", "12"])
def test_a_file_system_that_takes_both_cases_for_one_is_known(tmp_path, folding, name):
    (tmp_path / name).touch()
    assert folds_case(tmp_path)
    assert folds_case(tmp_path / "not" / "yet")
    assert os.listdir(tmp_path) == [name]  # noqa: PTH208


def test_two_files_that_differ_in_case_are_two(tmp_path):
    (tmp_path / "a").touch()
    (tmp_path / "A").touch()
    assert not folds_case(tmp_path)


@pytest.mark.parametrize(
    ("platform", "folds"), [("win32", True), ("darwin", True), ("linux", False)]
)
def test_where_nothing_can_be_tried_the_system_decides(tmp_path, monkeypatch, platform, folds):
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(systems.sys, "platform", platform)
    monkeypatch.setattr(systems.os, "scandir", refuse)
    assert folds_case(tmp_path) == folds
