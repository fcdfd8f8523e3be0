"""What a run says of itself: the numbers add up, and hints come only where they help."""

import io
import re
import shlex
import sys
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from extract import exits
from extract.run import progress
from extract.run.clock import Clock
from extract.run.progress import MAX_BAR, Progress, display, progress_line
from extract.run.summary import Summary, summarize
from extract.run.tables import closing_lines, report, sweep_table, table
from extract.run.tally import MAX_NAMED, Tally, hms
from extract.store.ledger import Record
from extract.store.resume import Remaining
from extract.text import count, shown
from extract.values import FAILED, REJECTED, SAVED


def saved(**more) -> Record:
    return Record("a", "/a", SAVED, duration_s=3.6, **more)


REJECTION = Record("b", "/b", REJECTED, "too_short")
FAILURE = Record("c", "/c", FAILED, "undecodable")


def clock(data: float = 1, encoder: float = 98, writer: float = 1, scale: float = 10) -> Clock:
    made = Clock()
    made.data_s, made.encoder_s, made.writer_s = scale * data, scale * encoder, scale * writer
    return made


def rest(kept: Counter | None = None, **more) -> Remaining:
    return Remaining(np.ones(1, bool), np.ones(1, bool), kept or Counter(), **{"kept_s": 0} | more)


def printed(*renderables, width: int = 200) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    for renderable in renderables:
        console.print(renderable)
    return console.file.getvalue().splitlines()


def text(table) -> list[str]:
    return [" ".join(line.split()) for line in printed(table)]


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
    lines = closing_lines(summarize(tmp_path, tally, times, rest()))
    assert lines[-1] == f"output: {tmp_path}"
    if said is None:
        assert len(lines) == 1
    else:
        assert said in lines[0]
        assert said in progress_line(tally, times)
        for width in (40, 80):
            assert said in " ".join(" ".join(printed(display(tally, times, width))).split())


def test_the_table_holds_every_outcome_of_this_run_and_of_earlier_ones(tmp_path):
    tally = Tally(5)
    for record in (saved(), saved(clipped_samples=9), REJECTION, FAILURE, FAILURE):
        tally.add(record)
    kept = Counter({(SAVED, ""): 1_234, (REJECTED, "silent"): 5})
    made = summarize(tmp_path, tally, clock(), rest(kept, kept_s=7_200, kept_clipped=3))
    lines = text(table(made))
    assert lines[1:5] == [
        "saved 2 1,234",
        "rejected: silent 0 5",
        "rejected: too_short 1 0",
        "failed: undecodable 2 0",
    ]
    assert "hours saved 0.002 2.000" in lines
    assert "saved with samples held at full scale 1 3" in lines


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


@pytest.fixture
def halfway(monkeypatch) -> Tally:
    """An hour into a large run: a quarter of the audio saved, some utterances failed."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    tally = Tally(100_000, total_s=360_000)
    tally.outcomes.update({(SAVED, ""): 25_000, (FAILED, "undecodable"): 1_000})
    tally.saved_s = 90_000.0
    now[0] = 3_600.0
    return tally


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (20, ["━━━━━", "26,000/100,000", "25.00 h  25.0x"]),
        (30, ["━━━━━━━╸", "26,000/100,000  3:00:00 left", "25.00 h  25.0x  encoder 98%"]),
        (40, ["━━╸  26,000/100,000  3:00:00 left", "25.00 h  25.0x  encoder 98%"]),
        (
            80,
            [
                "━━━━━━╸  26,000/100,000 utterances  3:00:00 left  1,000 failed",
                "25.00 h saved  25.0x real time  data 1% encoder 98% writer 1%",
            ],
        ),
        (
            200,
            [
                15 * "━" + "╸  26,000/100,000 utterances  3:00:00 left  1,000 failed",
                "25.00 h saved  25.0x real time  data 1% encoder 98% writer 1%",
            ],
        ),
    ],
)
def test_a_narrow_terminal_shows_the_bar_and_what_matters_most(halfway, width, expected):
    """Without colours the bar is only its part that is done."""
    lines = printed(display(halfway, clock(), width), width=width)
    assert [re.sub(" {3,}", "  ", line).strip() for line in lines] == expected


@pytest.mark.parametrize("width", range(16, 130))
def test_no_width_cuts_a_figure(halfway, width):
    lines = printed(display(halfway, clock(), width), width=width)
    assert len(lines) in (2, 3)
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)
    assert "26,000/100,000" in "".join(lines)


def test_the_bar_is_as_long_as_what_is_done(halfway):
    for num_done, length in ((0, 0), (50_000, MAX_BAR // 2), (100_000, MAX_BAR)):
        halfway.outcomes.clear()
        halfway.outcomes[SAVED, ""] = num_done
        assert printed(display(halfway, clock(), 200))[0].count("━") == length


def test_the_display_reads_while_writers_count():
    """A reason that is seen for the first time grows the counts that are being read."""
    tally, errors = Tally(20_000), []
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def read() -> None:
        try:
            while tally.done < 5_000:
                tally.num(FAILED)
        except RuntimeError as error:
            errors.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(5_000):
            tally.add(Record("a", "/a", FAILED, f"reason {number}"))
        reader.join()
    finally:
        sys.setswitchinterval(before)
    assert not errors


class Screen(io.StringIO):
    """A terminal's other end."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_the_bar_and_is_left_clean():
    screen = Screen()
    console = Console(file=screen, width=80, force_terminal=True, legacy_windows=False)
    with Progress(console, Tally(10), clock()) as shown_:
        shown_.add(saved())
        shown_._live.refresh()
    assert "1/10 utterances" in screen.getvalue()
    assert screen.getvalue().endswith(("\x1b[2K", "\x1b[?25h\r\x1b[1A\x1b[2K\x1b[1A\x1b[2K"))


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    console = Console(file=Screen(), width=80, force_terminal=True)
    with Progress(console, Tally(10), clock()) as shown_:
        now[0] = 31.0
        shown_.add(saved())
    assert console.file.getvalue().count("1/10 utterances") == 1


def failure(name: str, detail: str | None = "/x: no sound in it", path: str = "/x") -> Record:
    return Record(name, path, FAILED, "undecodable", detail)


def summary(*records: Record, kept: Counter | None = None, directory="out") -> Summary:
    tally = Tally(len(records))
    for record in records:
        tally.add(record)
    return summarize(Path(directory), tally, clock(), rest(kept))


def test_the_first_failures_are_named_with_their_reason():
    lines = closing_lines(summary(saved(), failure("a.wav"), failure("b.wav", None), REJECTION))
    assert lines == [
        "output: out",
        "failed: a.wav: undecodable: no sound in it",
        "failed: b.wav: undecodable",
    ]


def test_of_many_failures_five_are_named_and_the_command_names_the_rest():
    failures = [failure(f"{number}.wav") for number in range(MAX_NAMED + 2)]
    kept = Counter({(FAILED, "missing"): 1_000, (SAVED, ""): 7})
    lines = closing_lines(summary(*failures, kept=kept, directory="my out/it's"))
    assert [line.split(": ")[1] for line in lines[1 : MAX_NAMED + 1]] == [
        f"{number}.wav" for number in range(MAX_NAMED)
    ]
    more, words = lines[-1].removeprefix("failed: ").split(": ")
    assert more == "and 1,002 more"
    assert shlex.split(words) == [
        *("python", "-m", "extract", "show", "my out/it's", "--status", "failed")
    ]


def test_failures_of_earlier_runs_are_pointed_to():
    lines = closing_lines(summary(saved(), kept=Counter({(FAILED, "missing"): 3})))
    assert lines[-1].startswith("failed: 3 in earlier runs: python -m extract show out ")


@pytest.mark.parametrize("hostile", ["\x1b[31mred", "a\nb", "\u202egnp", "\udcff", "x" * 10_000])
def test_what_is_named_is_printable_and_bounded(hostile):
    made = summary(failure(hostile, f"{hostile}: {hostile}", hostile), directory=f"/{hostile}")
    lines = closing_lines(made)
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)
    assert len(lines[1]) < 220


def test_brackets_in_a_name_are_no_markup():
    console = Console(file=io.StringIO(), width=80)
    report(console, summary(failure("[red]a[/red].wav"), failure("[/nothing]"), directory="[b]"))
    said = console.file.getvalue()
    assert "[red]a[/red].wav" in said
    assert "[/nothing]" in said
    assert "output: [b]" in said


def test_the_table_is_readable_at_80_columns():
    made = summary(saved(clipped_samples=1), failure("a"), kept=Counter({(SAVED, ""): 1_000_000}))
    lines = printed(table(made), width=80)
    assert len(lines) == len(printed(table(made), width=200))
    assert all(len(line) <= 80 for line in lines)
    assert "…" not in "".join(lines)


def test_the_hours_of_earlier_runs_are_in_the_table():
    lines = text(table(Summary(Path("out"), saved_s=1_800, earlier_s=5_400)))
    assert "hours saved 0.500 1.500" in lines


JOBS = [
    (
        ["dataset=demo", "audio.alpha=0.3", "seed=1"],
        [
            Summary(
                Path("outputs/demo/tiny_random-maxx0.95-alpha0.3"),
                outcomes=Counter({(SAVED, ""): 10, (REJECTED, "silent"): 1}),
                earlier=Counter({(SAVED, ""): 1_000}),
                saved_s=1_800,
                earlier_s=5_400,
                clipped=2,
                earlier_clipped=3,
            )
        ],
    ),
    (
        ["dataset=demo", "audio.alpha=0.7", "seed=1"],
        [Summary(Path("outputs/demo/b"), outcomes=Counter({(FAILED, "missing"): 4}))],
    ),
    (["dataset=demo", "audio.alpha=[x]", "seed=1"], exits.USAGE),
    (
        ["dataset=demo", "audio.alpha=1", "seed=1"],
        [Summary(Path("outputs/demo/d"), stopped="full")],
    ),
    (["dataset=demo", "audio.alpha=2", "seed=1"], exits.CRASHED),
    (
        ["dataset=demo", "audio.alpha=3", "seed=1"],
        [Summary(Path("outputs/demo/f"), interrupted="SIGINT", left=9)],
    ),
]


def swept(jobs, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    rows = [
        (overrides, [], str(ended))
        if isinstance(ended, exits.Exit)
        else (overrides, ended, str(exits.of_run(ended)))
        for overrides, ended in jobs
    ]
    sweep_table(console, rows)
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines()]


def test_a_sweep_has_a_row_for_every_job():
    folder = "outputs/demo/tiny_random-maxx0.95-alpha0.3"
    assert swept(JOBS, 120) == [
        "saved rejected failed clipped hours exit store",
        f"audio.alpha=0.3 1,010 1 0 5 2.000 0 done {folder}",
        "audio.alpha=0.7 0 0 4 0 0.000 1 some failed outputs/demo/b",
        "audio.alpha=[x] 0 0 0 0 0.000 2 not started",
        "audio.alpha=1 0 0 0 0 0.000 1 store unusable outputs/demo/d",
        "audio.alpha=2 0 0 0 0 0.000 70 crashed",
        "audio.alpha=3 0 0 0 0 0.000 130 interrupted outputs/demo/f",
    ]


def test_the_shards_of_a_job_are_one_row():
    shards = [summary(saved(), failure("a")), summary(saved(), kept=Counter({(SAVED, ""): 7}))]
    assert swept([(["a=1"], shards)], 80)[1] == "a=1 9 0 1 0 0.002 1 some failed out"


def test_a_narrow_terminal_gets_a_sweeps_folders_under_its_table():
    lines = swept(JOBS, 80)
    assert lines[0] == "saved rejected failed clipped hours exit"
    assert lines[2] == "audio.alpha=0.7 0 0 4 0 0.000 1 some failed"
    assert lines[7:] == [
        "audio.alpha=0.3: outputs/demo/tiny_random-maxx0.95-alpha0.3",
        "audio.alpha=0.7: outputs/demo/b",
        "audio.alpha=1: outputs/demo/d",
        "audio.alpha=3: outputs/demo/f",
    ]


def test_a_sweep_over_two_options_names_both():
    jobs = [(["a=1", f"b={b}", f"c={c}"], exits.DONE) for b in (1, 2) for c in (1, 2)]
    assert [line.split(" 0 ")[0] for line in swept(jobs, 80)[1:]] == [
        *("b=1 c=1", "b=1 c=2", "b=2 c=1", "b=2 c=2")
    ]


@pytest.mark.parametrize(
    ("number", "noun", "said"),
    [
        (0, "recording", "0 recordings"),
        (1, "recording", "1 recording"),
        (1, "batch", "1 batch"),
        (2_000, "batch", "2,000 batches"),
        (3, "entry", "3 entries"),
    ],
)
def test_a_count_agrees_with_its_noun(number, noun, said):
    assert count(number, noun) == said


def test_a_long_name_keeps_both_its_ends():
    assert shown("short.wav", 20) == "short.wav"
    assert shown(shown("\x1b.wav", 20), 20) == "\\x1b.wav"
    assert shown("speaker_one/" + 100 * "x" + "/take_12.wav", 21) == "speaker_on…ake_12.wav"
    assert len(shown("\x1b" * 20, 20)) == 20
