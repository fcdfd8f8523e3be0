"""What the terminal shows of a run, line by line."""

import io
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from extract.run.clock import Clock
from extract.run.summary import Summary
from extract.run.terminal import Terminal
from extract.store.ledger import Record
from extract.values import SAVED

RECORD = Record("a", "/a", SAVED, duration_s=3.6)
SHOWN = "\x1b[?25h"  # the cursor


class Screen(io.StringIO):
    """A terminal's other end."""

    def isatty(self) -> bool:
        return True


def plain() -> Console:
    return Console(file=io.StringIO(), width=60)


def interactive() -> Console:
    return Console(file=Screen(), width=80, force_terminal=True, legacy_windows=False)


def lines(console: Console) -> list[str]:
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def run(console: Console, **ending) -> list[str]:
    """The lines of a run of two recordings that has saved one."""
    with Terminal(console) as watch:
        watch.said("float32 on cpu; loader.num_workers=1 loader.batch_seconds=60, 1 thread")
        watch.reading(0, 2)
        watch.reading(2, 2)
        watch.said("2 of 2 recordings to do")
        watch.planned(2, 7.2, Clock())
        watch.recorded(RECORD)
        outcomes = Counter({(SAVED, ""): 1})
        watch.ended(Summary(Path("out"), outcomes=outcomes, saved_s=3.6, elapsed_s=0.1, **ending))
    return lines(console)


HEAD = [
    "float32 on cpu; loader.num_workers=1 loader.batch_seconds=60, 1 thread",
    "2 of 2 recordings to do",
]
FAULTS = (
    "2 faults of this program (internal_error in the ledger); the same command tries those "
    "recordings again"
)
TABLE = [
    "                 this run  earlier",
    "saved                   1        0",
    "hours saved         0.001    0.000",
    "times real time      36.0",
    "output: out",
]


@pytest.mark.parametrize(
    ("ending", "before", "after"),
    [
        ({}, [], []),
        (
            {"interrupted": "SIGINT", "left": 1},
            [],
            ["interrupted with 1 recording left; the same command goes on from here"],
        ),
        (
            {"num_internal": 2},
            [],
            [FAULTS],
        ),
        (
            {"stopped": "out: the disk is full", "needed_bytes": 1_234_567.0},
            ["about 1.2 MB are needed for what is left"],
            [
                "stopped: out: the disk is full",
                "Once that is mended, the same command goes on from here.",
            ],
        ),
    ],
    ids=["done", "interrupted", "faults of ours", "unusable"],
)
def test_a_run_that_nobody_sees_move_prints_these_lines(ending, before, after):
    assert run(plain(), **ending) == [*HEAD, *before, *TABLE, *after]


def test_a_store_that_cannot_be_used_at_all_has_no_table():
    console = plain()
    with Terminal(console) as watch:
        watch.ended(Summary(Path("out"), stopped="out: [ro] Read-only file system"))
    assert lines(console) == [
        "stopped: out: [ro] Read-only file system",
        "Once that is mended, the same command goes on from here.",
    ]


def test_a_terminal_shows_headers_then_the_bar_and_then_the_table():
    console = interactive()
    run(console)
    said = console.file.getvalue()
    order = ["reading headers", "2 of 2 recordings to do", "/2 utterances", "hours saved"]
    assert sorted(order, key=said.index) == order
    assert said.rindex(SHOWN) < said.index("hours saved")


def test_once_all_headers_are_read_nothing_moves():
    console = interactive()
    with Terminal(console) as watch:
        watch.reading(0, 2)
        watch.reading(1, 2)
        assert SHOWN not in console.file.getvalue()
        watch.reading(2, 2)
        assert console.file.getvalue().endswith("\x1b[2K")
    assert console.file.getvalue().count(SHOWN) == 1


@pytest.mark.parametrize(
    "begin",
    [lambda watch: watch.reading(0, 9), lambda watch: watch.planned(9, 1.0, Clock())],
    ids=["reading", "planned"],
)
def test_a_run_that_raises_leaves_a_terminal_clean(begin):
    def broken_off() -> None:
        with Terminal(console) as watch:
            begin(watch)
            raise KeyboardInterrupt

    console = interactive()
    with pytest.raises(KeyboardInterrupt):
        broken_off()
    said = console.file.getvalue()
    assert said.count(SHOWN) == 1
    assert said.endswith(("\x1b[2K", SHOWN))


def test_one_of_several_runs_side_by_side_moves_nothing_and_ends_in_one_piece():
    written = []
    console = interactive()
    console.is_interactive = False
    console.file.write = written.append
    run(console)
    assert not any(SHOWN in text for text in written)
    [end] = [text for text in written if "hours saved" in text]
    assert "output: out" in end


def test_shards_of_one_process_are_shown_one_after_the_other():
    console = plain()
    first = run(console)
    assert run(console) == 2 * first
