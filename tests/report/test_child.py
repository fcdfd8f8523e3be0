"""The process that makes pages at the end of a command: what goes wrong there ends no run."""

import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from extract.report import child
from extract.report.child import make
from extract.report.place import is_current
from support.command import TINY
from support.recordings import write_wav

HERE = ["loader.num_workers=0", "store.fsync=false"]
LINE = '{"id":"a.wav","path":"/gone/a.wav","status":"saved","peak":0.5,"duration_s":1.0}\n'


def never() -> bool:
    return False


@pytest.fixture
def stores(tmp_path):
    found = [tmp_path / name for name in ("one", "two")]
    for store in found:
        store.mkdir()
        (store / "ledger.jsonl").write_text(LINE)
    return found


@pytest.fixture
def does(monkeypatch):
    """Makes the process run other code: `extract.report.run.write` is in reach."""

    def does(code: str) -> None:
        popen = child.subprocess.Popen

        def other(command, **options):
            assert command[1:] == ["-m", "extract.report.child"]
            return popen([sys.executable, "-c", code], **options)

        monkeypatch.setattr(child.subprocess, "Popen", other)

    return does


WITH = """
import extract.report.run, os, signal, sys, time
from extract.report import child
def write(store, *, live):
    {}
extract.report.run.write = write
child.main()
"""


def test_one_process_makes_the_pages_of_all_stores_at_low_priority(stores, does, tmp_path):
    note = "open(store / 'note', 'w').write(f'{os.getpid()} {os.nice(0)}')"
    does(WITH.format(f"{note}; (store / 'report.html').write_text('<title>Extraction report: ')"))
    assert make([*stores, stores[0]], never) == [f"report: {one}/report.html" for one in stores]
    notes = {(store / "note").read_text() for store in stores}
    [(pid, nice)] = [note.split() for note in notes]
    assert int(pid) != os.getpid()
    assert int(nice) == min(19, os.nice(0) + 10)


def test_a_page_is_made_and_one_that_is_newer_than_its_store_stays(stores, does):
    assert make(stores, never) == [f"report: {one}/report.html" for one in stores]
    pages = [(one / "report.html").read_text("utf8") for one in stores]
    assert all("Extraction report: " in one for one in pages)
    later = time.time_ns() + 10**9
    os.utime(stores[1] / "ledger.jsonl", ns=(later, later))
    does("import sys; sys.exit('only the second: ' + sys.stdin.read())")
    first, second = make(stores, never)
    assert first == f"report: {stores[0]}/report.html"
    assert "only the second" in second
    assert str(stores[0]) not in second


def test_a_page_that_fails_is_said_and_the_others_are_made(stores, does):
    fails = "if store.name == 'one': raise RuntimeError('no page\\x1b today')\n    "
    does(WITH.format(f"{fails}(store / 'report.html').write_text('<title>Extraction report: ')"))
    assert make(stores, never) == [
        f"report: {stores[1]}/report.html",
        "no report: RuntimeError: no page\\x1b today",
    ]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "its process was killed by SIGKILL"),
        ("sys.exit(3)", "its process ended with 3"),
        ("os._exit(0)", "its process ended without saying why"),
    ],
)
def test_a_process_that_dies_is_said(stores, does, code, said):
    does(WITH.format(code))
    assert make(stores, never) == [f"no report: {said}"]


def test_a_process_that_cannot_start_is_said(stores, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/gone/python")
    [said] = make(stores, never)
    assert said.startswith("no report: FileNotFoundError: ")


def test_a_page_that_hangs_is_ended(stores, does, monkeypatch):
    does(WITH.format("time.sleep(600)"))
    monkeypatch.setattr(child, "LONGEST_S", 0.05)
    monkeypatch.setattr(child, "POLL_S", 0.02)
    assert make(stores, never) == ["no report: not done after 0 s"]


def test_a_signal_ends_the_process_and_what_was_made_stays(stores, does):
    note = "(store / 'pid').write_text(str(os.getpid()))"
    hangs = "if store.name == 'two': time.sleep(600)\n    "
    does(
        WITH.format(
            f"{note}; (store / 'report.html').write_text('<title>Extraction report: ')\n    {hangs}"
        )
    )
    said = make(stores, (stores[1] / "pid").exists)
    assert said[-1] == "no report: stopped by a signal"
    assert said[0] == f"report: {stores[0]}/report.html"
    pid = int((stores[1] / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_store_without_a_ledger_has_no_page_and_needs_no_process(tmp_path, does):
    does("raise SystemExit('not started')")
    (tmp_path / "out").mkdir()
    assert make([tmp_path / "out", tmp_path / "gone"], never) == []


def test_a_file_that_another_program_made_stays(stores):
    (stores[0] / "report.html").write_text("<title>Ours</title>")
    assert not is_current(stores[0])
    *_made, said = make(stores, never)
    assert "report.html: not made by a run, so it stays" in said
    assert (stores[0] / "report.html").read_text() == "<title>Ours</title>"


def test_many_lines_are_few(tmp_path, does):
    stores = [tmp_path / f"{number}" for number in range(6)]
    for store in stores:
        store.mkdir()
        (store / "ledger.jsonl").write_text(LINE)
    does(WITH.format("raise RuntimeError('x')"))
    assert make(stores, never) == [
        *["no report: RuntimeError: x"] * 3,
        "reports that could not be made: 3 more",
    ]


@pytest.fixture
def recordings(tmp_path):
    write_wav(tmp_path / "in" / "a.wav")
    return tmp_path / "in"


def test_a_run_makes_its_page_and_a_second_one_that_does_nothing_makes_none(
    recordings, extract_folder, tmp_path, capsys, does
):
    does(WITH.format("(store / 'report.html').write_text('<title>Extraction report: ')"))
    page = tmp_path / "out" / "report.html"
    assert extract_folder(recordings, "report=html", *HERE) == 0
    assert f"report: {page}" in capsys.readouterr().err.replace("\n", "")
    made = page.stat().st_mtime_ns
    assert extract_folder(recordings, "report=html", *HERE) == 0
    assert page.stat().st_mtime_ns == made
    write_wav(recordings / "b.wav", 0.7, 2)
    assert extract_folder(recordings, "report=html", *HERE) == 0
    assert page.stat().st_mtime_ns > made


def test_no_page_is_made_where_none_is_asked_for(recordings, extract_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("EXTRACT_REPORT", "html")
    assert extract_folder(recordings, "report=none", *HERE) == 0
    assert not (tmp_path / "out" / "report.html").exists()
    monkeypatch.setenv("EXTRACT_REPORT", "none")
    assert extract_folder(recordings, "overwrite=true", *HERE) == 0
    assert not (tmp_path / "out" / "report.html").exists()


def test_a_sweep_makes_all_its_pages_in_one_process_at_its_end(
    recordings, command, tmp_path, monkeypatch
):
    asked = []
    monkeypatch.setattr(child, "make", lambda stores, stop, **_: asked.append(list(stores)) or [])
    folder = [
        "dataset=folder",
        f"dataset.path={recordings}",
        f"store.dir={tmp_path}/${{audio.alpha}}",
    ]
    assert command("-m", *folder, *TINY, "audio.alpha=0.3,0.5,7", "report=html", *HERE) == 2
    assert asked == [[tmp_path / "0.3", tmp_path / "0.5"]]


def test_a_page_that_fails_in_any_way_changes_no_exit_code(
    recordings, extract_folder, monkeypatch, capsys
):
    def broken(stores, stop, **_):
        raise RuntimeError("a fault of this program")

    monkeypatch.setattr(child, "make", broken)
    assert extract_folder(recordings, "report=html", *HERE) == 0
    assert "no report: RuntimeError: a fault" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_while_a_page_is_made_ends_the_command(
    recordings, extract_folder, does, tmp_path, name, code
):
    does(WITH.format("(store / 'pid').write_text(str(os.getpid())); time.sleep(600)"))
    pid = tmp_path / "out" / "pid"
    main = threading.get_ident()

    def send() -> None:
        while not pid.exists() or not pid.read_text():
            time.sleep(0.01)
        signal.pthread_kill(main, getattr(signal, name))

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    assert extract_folder(recordings, "report=html", *HERE) == code
    sender.join(60)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_the_process_finds_this_package_from_any_folder(stores, tmp_path, monkeypatch):
    (tmp_path / "extract").mkdir()
    (tmp_path / "extract" / "__init__.py").write_text("raise SystemExit('another package')")
    shutil.copy(tmp_path / "extract" / "__init__.py", tmp_path / "json.py")
    monkeypatch.chdir(tmp_path)
    assert make(stores[:1], never) == [f"report: {stores[0]}/report.html"]
    assert make([Path("two")], never) == ["report: two/report.html"]
