"""What a run says of itself: the numbers add up, and hints come only where they help."""

import io
import threading
from collections import Counter

import pytest
from rich.console import Console

from extract import progress
from extract.ledger import FAILED, REJECTED, SAVED, Record
from extract.pipeline import Clock
from extract.progress import Progress, Tally, closing_lines, hms, progress_line, summary


def saved(**more) -> Record:
    return Record("a", "/a", SAVED, duration_s=3.6, **more)


REJECTION = Record("b", "/b", REJECTED, "too_short")
FAILURE = Record("c", "/c", FAILED, "undecodable")


def clock(data: float = 1, encoder: float = 98, writer: float = 1, scale: float = 10) -> Clock:
    made = Clock()
    made.data_s, made.encoder_s, made.writer_s = scale * data, scale * encoder, scale * writer
    return made


def text(table) -> list[str]:
    console = Console(file=io.StringIO(), width=200)
    console.print(table)
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines()]


def test_outcomes_are_counted_by_status_and_reason():
    tally = Tally(10)
    for record in (saved(), saved(clipped_samples=4), saved(retried_fp32=True), REJECTION, FAILURE):
        tally.add(record)
    assert (tally.done, tally.num(SAVED), tally.num(REJECTED), tally.num(FAILED)) == (5, 3, 1, 1)
    assert (tally.clipped, tally.retried_fp32) == (1, 1)
    assert tally.saved_s == pytest.approx(10.8)


def test_threads_count_together():
    tally = Tally(4000)
    threads = [
        threading.Thread(target=lambda: [tally.add(saved()) for _ in range(1000)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tally.num(SAVED) == 4000
    assert tally.saved_s == pytest.approx(14_400)


def test_the_line_tells_how_far_how_fast_and_how_long(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    tally = Tally(2_000, total_s=7_200)
    assert "? left" in progress_line(tally, clock())
    for _ in range(1_000):
        tally.add(saved())
    now[0] = 60.0
    line = progress_line(tally, clock())
    assert line.startswith("1,000/2,000 utterances  1.00 h saved  60.0x real time  0:01:00 left")
    assert "[data 1% encoder 98% writer 1%]" in line


def test_time_left_is_known_where_nothing_is_saved(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    tally = Tally(4)
    tally.add(FAILURE)
    now[0] = 10.0
    assert "0:00:30 left" in progress_line(tally, clock())


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0:00:00"), (59.6, "0:01:00"), (90_061, "25:01:01")],
)
def test_seconds_are_shown_as_hours(seconds, shown):
    assert hms(seconds) == shown


@pytest.mark.parametrize(
    ("times", "said"),
    [
        (clock(50, 49, 1), "more loader.num_workers would help"),
        (clock(1, 49, 50), "store.num_writers"),
        (clock(1, 98, 1), None),
        (clock(50, 49, 1, scale=0.001), None),
    ],
    ids=["data", "writer", "encoder", "too early"],
)
def test_a_stage_that_is_waited_for_is_named_with_its_remedy(tmp_path, times, said):
    tally = Tally(2)
    tally.add(saved())
    lines = closing_lines(tally, times, tmp_path)
    assert lines[-1] == f"output: {tmp_path}"
    if said is None:
        assert len(lines) == 1
    else:
        assert said in lines[0]
        assert said in progress_line(tally, times)


def test_the_table_holds_every_outcome_of_this_run_and_of_earlier_ones():
    tally = Tally(5)
    for record in (saved(), saved(clipped_samples=9), REJECTION, FAILURE, FAILURE):
        tally.add(record)
    kept = Counter({(SAVED, ""): 1_234, (REJECTED, "silent"): 5})
    lines = text(summary(tally, clock(), kept, 7_200))
    assert lines[1:5] == [
        "saved 2 1,234",
        "rejected: silent 0 5",
        "rejected: too_short 1 0",
        "failed: undecodable 2 0",
    ]
    assert "hours saved 0.002 2.000" in lines
    assert "saved with samples held at full scale 1" in lines


def test_where_there_is_no_terminal_a_line_comes_now_and_then(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    console = Console(file=io.StringIO(), width=40)
    tally = Tally(100)
    with Progress(console, tally, clock()) as shown:
        for second in range(100):
            now[0] = float(second)
            shown.add(saved())
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 3
    assert all("utterances" in line for line in lines)
    assert tally.done == 100
