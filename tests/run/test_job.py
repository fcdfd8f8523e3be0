"""The unit of work: what it returns, what it tells while it works, and what it refuses."""

import logging
import pickle
import re
import threading
from pathlib import Path

import pytest
import soundfile

from extract import exits
from extract.run import job
from extract.run.job import run_shard
from extract.run.observer import Silent
from extract.run.signals import Stop
from extract.shard import Shard
from extract.store import writers
from extract.store.layouts.gpt_sovits import GptSovits
from extract.store.lock import StoreBusy, locked
from extract.store.store import StoreUnusable
from support.configs import tiny_config
from support.stores import audit, ids_of, ledger


class Noting(Silent):
    """Notes each event with the name of the thread that told it."""

    def __init__(self) -> None:
        self.events: list[tuple[str, object, str]] = []

    def _note(self, name: str, what: object) -> None:
        self.events.append((name, what, threading.current_thread().name))

    def said(self, text):
        self._note("said", text)

    def reading(self, done, total):
        self._note("reading", (done, total))

    def planned(self, todo, seconds, clock):
        self._note("planned", (todo, seconds))

    def recorded(self, record):
        self._note("recorded", record)

    def ended(self, summary):
        self._note("ended", summary)

    def all(self, name: str) -> list:
        return [what for some, what, _thread in self.events if some == name]


@pytest.fixture
def config(recordings, tmp_path):
    return tiny_config(recordings, tmp_path / "out")


def seconds_in(folder: Path) -> float:
    return sum(soundfile.info(path).duration for path in folder.rglob("[0-9]*.wav"))


def test_a_run_is_a_value(config, recordings, tmp_path, monkeypatch):
    """For whoever calls it: what became of the recordings, this time and before."""
    (recordings / "broken.wav").write_bytes(b"RIFF but not really")
    summary = run_shard(config, Shard())
    assert summary.directory == tmp_path / "out"
    assert summary.outcomes == {("saved", ""): 24, ("failed", "undecodable"): 1}
    assert (summary.earlier, summary.earlier_s) == ({}, 0)
    assert exits.of_run([summary]) == exits.SOME_FAILED
    assert summary.saved_s == pytest.approx(seconds_in(recordings))
    assert summary.times_real_time > 0
    assert [record.id for record in summary.failures] == ["broken.wav"]
    summary = run_shard(config, Shard())
    assert summary.outcomes == {("failed", "undecodable"): 1}
    assert summary.earlier == {("saved", ""): 24}
    assert summary.earlier_s == pytest.approx(seconds_in(recordings))

    def full(*_args, **_more):
        raise StoreUnusable("no room")

    monkeypatch.setattr(GptSovits, "put", full)
    config.overwrite, config.audio.alpha = True, 0.25
    summary = run_shard(config, Shard())
    assert (summary.stopped, summary.num("saved")) == ("no room", 0)
    assert exits.of_run([summary]) == exits.STORE_UNUSABLE
    per_second = 2 * 32_000 + 50 * 32 * 4  # int16 at 32 kHz; 32 float32 at 50 Hz
    assert summary.needed_bytes == pytest.approx(seconds_in(recordings) * per_second)


def test_failures_that_are_left_as_they_are_are_in_the_summary(config, recordings):
    for name in ("one.wav", "other.wav"):
        (recordings / name).write_bytes(b"RIFF but not really")
    assert run_shard(config, Shard()).not_retried == 0
    config.retry_failed = False
    summary = run_shard(config, Shard())
    assert (summary.outcomes, summary.not_retried) == ({}, 2)
    (recordings / "third.wav").write_bytes(b"RIFF but not really")
    summary = run_shard(config, Shard())
    assert (summary.outcomes, summary.not_retried) == ({("failed", "undecodable"): 1}, 2)


def test_a_run_prints_and_logs_nothing_by_itself(config, capfd, caplog):
    caplog.set_level(logging.WARNING)
    run_shard(config, Shard())
    assert tuple(capfd.readouterr()) == ("", "")
    assert not caplog.records


def test_what_a_run_takes_and_gives_can_be_sent_to_another_process(config, tmp_path):
    sent = pickle.loads(pickle.dumps((config, Shard(0, 2))))
    summary = run_shard(*sent)
    assert pickle.loads(pickle.dumps(summary)) == summary
    assert summary.done == len(ledger(tmp_path / "out"))


def test_the_shard_that_is_given_counts_and_not_the_configs(config, recordings, tmp_path):
    config.shard = Shard(1, 3)
    summaries = [run_shard(config, shard) for shard in Shard(0, 2).all()]
    assert [summary.done for summary in summaries] != [24, 0]
    assert sum(summary.done for summary in summaries) == 24
    audit(tmp_path / "out", ids_of(recordings))
    assert sorted(path.name for path in (tmp_path / "out").glob("ledger*")) == [
        "ledger.0-of-2.jsonl",
        "ledger.1-of-2.jsonl",
    ]


def test_an_observer_is_told_in_order_and_records_come_from_the_writers(config, recordings):
    (recordings / "broken.wav").write_bytes(b"RIFF but not really")
    watch = Noting()
    summary = run_shard(config, Shard(), watch)
    said = watch.all("said")
    assert said[0].startswith("float32 on cpu; loader.num_workers=1 loader.batch_seconds=4 ")
    assert said[1] == "25 of 25 recordings to do"
    assert re.fullmatch(r"\d\.\d{3} h to save: about .+ needed, .+ free; .+ 1 unreadable", said[2])
    assert len(said) == 3
    assert watch.all("reading")[0] == (0, 25)
    assert watch.all("reading")[-1] == (25, 25)
    assert watch.all("planned") == [(25, pytest.approx(seconds_in(recordings)))]
    assert {record.id for record in watch.all("recorded")} == {*ids_of(recordings), "broken.wav"}
    assert watch.all("ended") == [summary]
    kinds = [kind for kind, _what, _thread in watch.events if kind != "said"]
    order = ["reading", "planned", "recorded", "ended"]
    assert kinds == sorted(kinds, key=order.index)
    threads = {name: {t for some, _, t in watch.events if some == name} for name in order}
    assert threads.pop("recorded") <= {"writer-0", "writer-1"}
    assert set().union(*threads.values()) == {threading.current_thread().name}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda config: setattr(config.audio, "alpha", 2.0), "audio.alpha: 2.0; needed 0 to 1"),
        (lambda config: setattr(config.dataset, "path", "nowhere"), "nowhere"),
        (lambda config: setattr(config.model, "layer", 9), "layers 1 to 2"),
    ],
)
def test_a_mistake_is_raised_before_any_work(config, tmp_path, wrong, said):
    wrong(config)
    watch = Noting()
    with pytest.raises(ValueError, match=said):
        run_shard(config, Shard(), watch)
    assert not watch.events
    assert not (tmp_path / "out").exists()


def test_a_shard_that_is_none_is_refused(config, tmp_path):
    with pytest.raises(ValueError, match=r"shard.index=2 shard.count=2; needed 0 <= index < count"):
        run_shard(config, Shard(2, 2))
    assert not (tmp_path / "out").exists()


def test_a_store_in_which_another_works_is_refused(config, tmp_path):
    watch = Noting()
    with locked(tmp_path / "out"), pytest.raises(StoreBusy):
        run_shard(config, Shard(), watch)
    assert not watch.events


def test_a_store_that_cannot_be_made_is_in_the_summary(config, tmp_path):
    (tmp_path / "out").write_text("a file")
    watch = Noting()
    summary = run_shard(config, Shard(), watch)
    assert "cannot be made or written to" in summary.stopped
    assert (summary.done, summary.needed_bytes) == (0, None)
    assert [kind for kind, _what, _thread in watch.events] == ["ended"]
    assert watch.all("ended") == [summary]


def test_a_stop_ends_the_work_and_the_summary_tells_what_is_left(
    config, recordings, tmp_path, monkeypatch
):
    monkeypatch.setattr(writers, "MAX_QUEUED_PER_WRITER", 1)  # or all is queued before the stop
    config.loader.batch_seconds = 1

    class Stopping(Noting):
        def recorded(self, record):
            super().recorded(record)
            stop.signal_name = "SIGTERM"

    stop, watch = Stop(), Stopping()
    summary = run_shard(config, Shard(), watch, stop)
    done = {record["id"] for record in ledger(tmp_path / "out")}
    assert 0 < len(done) < 24
    assert (summary.interrupted, summary.left) == ("SIGTERM", 24 - len(done))
    assert summary.done == len(done) == len(watch.all("recorded"))
    assert exits.of_run([summary]) == exits.TERMINATED
    assert run_shard(config, Shard()).left == 0
    audit(tmp_path / "out", ids_of(recordings))


def test_a_stop_after_the_last_record_interrupts_nothing(config):
    class Late(Silent):
        num = 0
        lock = threading.Lock()

        def recorded(self, record):
            with self.lock:
                self.num += 1
                stop.signal_name = "SIGTERM" if self.num == 24 else None

    stop = Stop()
    summary = run_shard(config, Shard(), Late(), stop)
    assert stop()
    assert (summary.interrupted, summary.left) == ("", 0)


def test_what_a_crashed_run_saved_is_told_before_the_exception(config, monkeypatch):
    monkeypatch.setattr(job, "run", lambda *_: 1 / 0)
    watch = Noting()
    with pytest.raises(ZeroDivisionError):
        run_shard(config, Shard(), watch)
    assert [kind for kind, _what, _thread in watch.events][-2:] == ["planned", "ended"]


def test_what_an_observer_raises_ends_the_run(config):
    class Wrong(Silent):
        def recorded(self, record):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_shard(config, Shard(), Wrong())
