"""`report.page=live`: the page is written anew while a run is at work, and no longer."""

import json
import threading
import time
from pathlib import Path

import pytest

from extract.report import child, live
from extract.report.place import REFRESH, is_current, is_live, page_of
from extract.report.run import write
from extract.run import job
from support.recordings import write_wav


@pytest.fixture(scope="module")
def made_store(tmp_path_factory):
    """A store as a run leaves it that failed to read its only recording."""
    store = tmp_path_factory.mktemp("live") / "out"
    store.mkdir()
    line = {"id": "a.wav", "status": "failed", "reason": "unreadable", "detail": "no sound"}
    (store / "ledger.jsonl").write_text(json.dumps(line) + "\n")
    return store


def until(holds) -> None:
    """Waits for a condition; a test that waits in vain ends by pytest's own limit."""
    while not holds():
        time.sleep(0.02)


def head(store: Path) -> str:
    return page_of(store).read_text("utf8").partition("<style>")[0]


def test_a_live_page_says_so_and_is_loaded_anew_each_minute(made_store):
    write(made_store, live=True)
    text = page_of(made_store).read_text("utf8")
    assert head(made_store).count(REFRESH) == 1
    assert "The run was at work at 20" in text
    assert (is_live(page_of(made_store)), is_current(made_store)) == (True, False)
    write(made_store)
    text = page_of(made_store).read_text("utf8")
    assert 'http-equiv="refresh"' not in text
    assert "at work" not in text
    assert (is_live(page_of(made_store)), is_current(made_store)) == (False, True)


def test_the_page_is_written_anew_until_the_run_ends(made_store, monkeypatch):
    monkeypatch.setattr(live, "FIRST_S", 0.0)
    monkeypatch.setattr(live, "EVERY_S", 0.0)
    page = page_of(made_store)
    page.unlink(missing_ok=True)
    with live.kept_live(made_store):
        until(lambda: is_live(page))
        first = page.stat().st_ino
        assert REFRESH in head(made_store)
        until(lambda: page.stat().st_ino != first)
    assert REFRESH not in head(made_store)
    assert not is_current(made_store)  # so that the page of the run's end takes its place
    assert "live page" not in {thread.name for thread in threading.enumerate()}


def test_a_page_in_the_making_is_killed_at_the_end_of_the_run(made_store, monkeypatch):
    started, real = [], child._started

    def remembered():
        started.append(real())
        return started[-1]

    monkeypatch.setattr(child, "_started", remembered)
    monkeypatch.setattr(live, "FIRST_S", 0.0)
    page_of(made_store).unlink(missing_ok=True)
    with live.kept_live(made_store):
        until(lambda: started)
    assert [process.poll() for process in started] == [-9]
    assert not page_of(made_store).exists()


def test_one_page_at_a_time_with_a_pause_as_long_as_it_took(tmp_path, monkeypatch):
    now, takes, pauses = [0.0], iter([5.0, 59.0, 300.0]), []

    class Ended:
        def wait(self, pause_s):
            pauses.append(pause_s)
            return len(pauses) > 3

        def is_set(self):
            return False

    def make(*_, live):
        now[0] += next(takes)

    monkeypatch.setattr(live, "make", make)
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    live._rewrite(tmp_path, Ended())
    assert pauses == [live.FIRST_S, 55, 59, 300]


@pytest.mark.parametrize("page", ["live", "html"])
def test_a_run_makes_live_pages_while_it_is_at_work_and_one_at_its_end(
    extract_folder, tmp_path, monkeypatch, page
):
    made, at_work, finished = [], [], job._finished

    def make(stores, stop, *, is_sweep=False, live=False):
        made.append((list(stores), live, bool(at_work)))
        return []

    def at_the_end(*args):
        at_work.append(True)
        if page == "live":
            until(lambda: any(in_work for *_, in_work in made))
        at_work.clear()
        return finished(*args)

    monkeypatch.setattr(live, "make", make)
    monkeypatch.setattr(child, "make", make)
    monkeypatch.setattr(live, "FIRST_S", 0.0)
    monkeypatch.setattr(live, "EVERY_S", 0.05)
    monkeypatch.setattr(job, "_finished", at_the_end)
    write_wav(tmp_path / "in" / "a.wav")
    assert extract_folder(tmp_path / "in", f"report.page={page}") == 0
    store = tmp_path / "out"
    assert made.pop() == ([store], False, False)
    assert bool(made) == (page == "live")
    assert all((stores, is_for_live) == ([store], True) for stores, is_for_live, _ in made)
