"""Who reads what a run prints may go away, or never have been: the work goes on."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from extract import streams
from support.recordings import write_wav
from support.stores import audit

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX streams")

# A shell's `&-` closes a stream; the pipe's reader goes before anything is said.
REDIRECTED = {
    "both closed": ["sh", "-c", 'exec "$@" >&- 2>&-', "sh"],
    "a full disk": ["sh", "-c", 'exec "$@" >/dev/full 2>&1', "sh"],
    "stdin closed too": ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"],
}


@pytest.fixture
def broken_pipe():
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


def run(command, **streams):
    """In a process of its own; whatever is said and nobody takes is dropped."""
    return subprocess.run(command, timeout=120, **streams)


def small_run(tmp_path, *options):
    write_wav(tmp_path / "in" / "a.wav")
    write_wav(tmp_path / "in" / "b.wav")
    argv = ["dataset=folder", f"dataset.path={tmp_path / 'in'}", f"store.dir={tmp_path / 'out'}"]
    tiny = ["model=tiny_random", "device=cpu", "loader.num_workers=1"]
    return [sys.executable, "-m", "extract", *argv, *tiny, *options]


def test_a_reader_that_goes_away_costs_nothing(tmp_path, broken_pipe):
    ran = run(small_run(tmp_path), stdout=broken_pipe, stderr=broken_pipe)
    assert ran.returncode == 0
    audit(tmp_path / "out", {"a.wav", "b.wav"})


@pytest.mark.parametrize("how", REDIRECTED)
def test_a_run_that_cannot_say_anything_ends_as_any_other(tmp_path, how):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "broken.wav").write_text("no recording")
    assert run([*REDIRECTED[how], *small_run(tmp_path)]).returncode == 1  # one failed
    audit(tmp_path / "out", {"a.wav", "b.wav", "broken.wav"})


@pytest.mark.parametrize("how", REDIRECTED)
def test_a_mistake_that_cannot_be_said_is_a_mistake(tmp_path, how):
    assert run([*REDIRECTED[how], *small_run(tmp_path, "audio.alpha=2")]).returncode == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("argv", [["--help"], ["dataset=demo", "--cfg", "job"]])
def test_help_whose_reader_goes_away_ends_in_silence(broken_pipe, argv):
    command = [sys.executable, "-m", "extract", *argv]
    ran = run(command, stdout=broken_pipe, stderr=subprocess.PIPE)
    assert (ran.returncode, ran.stderr) == (0, b"")


def test_what_is_said_is_said_once_and_in_order(tmp_path):
    code = (
        "import sys; from extract.streams import make_safe\n"
        "print('before'); make_safe(); print('\\udcff é'); print('error', file=sys.stderr)"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    ran = run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert ran.stdout == b"before\n\\udcff \\xe9\n"
    assert ran.stderr == b"error\n"


def test_no_file_of_a_run_gets_a_closed_streams_number(tmp_path):
    """A library that prints would write into it."""
    code = (
        "import os, sys; from extract.streams import make_safe\n"
        f"make_safe(); file = open({str(tmp_path / 'file')!r}, 'w')\n"
        "os.write(1, b'noise'); os.write(2, b'noise'); print('noise', flush=True)\n"
        "sys.exit(file.fileno() < 3)"
    )
    assert run([*REDIRECTED["stdin closed too"], sys.executable, "-c", code]).returncode == 0
    assert (tmp_path / "file").read_bytes() == b""


def test_the_console_of_windows_gets_characters_and_no_bytes(monkeypatch):
    console = SimpleNamespace(flush=lambda: None, isatty=lambda: True)
    monkeypatch.setattr(streams, "os", SimpleNamespace(name="nt"))
    assert streams._safe(console, 1) is console
    console.isatty = lambda: False  # a pipe or a file
    assert streams._safe(console, 1) is not console
    console.isatty = lambda: True
    monkeypatch.setattr(streams, "os", SimpleNamespace(name="posix"))
    assert streams._safe(console, 1) is not console
