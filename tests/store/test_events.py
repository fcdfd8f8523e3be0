"""What TensorBoard reads of a run, read back by its own reader."""

import sys
from collections import Counter
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

from extract.shard import Shard
from extract.store import events
from extract.store.events import Events
from support.recordings import write_wav
from support.stores import audit, ledger


def runs(store: Path) -> list[dict[str, list[tuple[int, float]]]]:
    """Steps and values of each number, for each run that TensorBoard finds below the store."""
    found = EventMultiplexer().AddRunsFromDirectory(str(store))
    found.Reload()
    return [curves(found.GetAccumulator(name)) for name in sorted(found.Runs())]


def curves(run: EventAccumulator) -> dict[str, list[tuple[int, float]]]:
    tags = run.Tags()["scalars"]
    return {tag: [(event.step, event.value) for event in run.Scalars(tag)] for tag in tags}


def line(s: float, done: int, saved_s: float, stages: tuple[float, ...], **memory: float | None):
    """A line of the timings."""
    waited = dict(zip(("data_s", "encoder_s", "writer_s"), stages, strict=True))
    return {"s": s, "done": done, "saved_s": saved_s, **waited, "host_mb": 1.0, **memory}


def test_a_run_ends_with_what_its_ledger_says(extract_folder, tmp_path):
    for number in range(3):
        write_wav(tmp_path / "in" / f"{number}.wav", 0.5, number)
    write_wav(tmp_path / "in" / "short.wav", 0.01)
    (tmp_path / "in" / "broken.wav").write_bytes(b"no sound")
    assert extract_folder(tmp_path / "in", "report.tensorboard=true") == 1
    [run] = runs(tmp_path / "out")
    last = {tag: points[-1] for tag, points in run.items()}
    lines = ledger(tmp_path / "out")
    statuses = Counter(one["status"] for one in lines)
    assert {status: last[f"outcomes/{status}"] for status in statuses} == {
        status: (5, number) for status, number in statuses.items()
    }
    reasons = {f"{one['status']}/{one['reason']}": (5, 1) for one in lines if one["reason"]}
    assert len(reasons) == 2
    assert {tag: at for tag, at in last.items() if tag.startswith(("rejected/", "failed/"))} == (
        reasons
    )
    assert last["memory/host_mb"][1] > 50
    assert "memory/device_mb" not in last


def test_speeds_and_waiting_are_those_of_the_time_between_two_events(tmp_path):
    (tmp_path / ".extract").mkdir()
    made = Events(tmp_path, Shard())
    made.begin()
    made.add(line(0.1, 0, 0, (0, 0, 0), device_mb=7.0), {})
    made.add(line(5.1, 10, 50, (1, 3.5, 0.5), device_mb=8.0), {("saved", ""): 10})
    made.add(line(15.1, 60, 450, (3, 9.5, 2.5), device_mb=9.0), {("saved", ""): 60})
    made.add(line(15.2, 61, 451, (3, 9.5, 2.5), device_mb=9.0), {("saved", ""): 61})
    [run] = runs(tmp_path)
    assert run["speed/times_real_time"] == [(10, 10), (60, 40)]
    assert run["speed/utterances_per_s"] == [(10, 2), (60, 5)]
    assert run["waiting/data_percent"] == [(10, 20), (60, 20)]
    assert run["waiting/encoder_percent"] == [(10, 70), (60, 60)]
    assert run["waiting/writer_percent"] == [(10, 10), (60, 20)]
    assert run["memory/device_mb"] == [(0, 7), (10, 8), (60, 9), (61, 9)]
    assert run["outcomes/saved"] == [(0, 0), (10, 10), (60, 60), (61, 61)]


def test_runs_and_shards_are_curves_of_their_own(extract_folder, recordings, tmp_path):
    for shard in (0, 1):
        part = (f"shard.index={shard}", "shard.count=2")
        assert extract_folder(recordings, "report.tensorboard=true", *part) == 0
    assert extract_folder(recordings, "report.tensorboard=true", *part) == 0  # nothing to do
    found = runs(tmp_path / "out")
    assert len(found) == 2
    assert sum(run["outcomes/saved"][-1][1] for run in found) == len(ledger(tmp_path / "out"))


@pytest.mark.parametrize("failing_at", ["begin", "add"])
def test_a_disk_that_takes_no_events_is_said_once_and_the_run_goes_on(
    extract_folder, recordings, tmp_path, monkeypatch, capfd, failing_at
):
    if failing_at == "begin":
        (tmp_path / "out" / ".extract").mkdir(parents=True)
        (tmp_path / "out" / ".extract" / "tensorboard").touch()
    else:
        opened, open_no_link = [], events.open_no_link

        def full(path, *rest):
            opened.append(path)
            if len(opened) > 1:
                raise OSError(28, "No space left on device", path)
            return open_no_link(path, *rest)

        monkeypatch.setattr(events, "open_no_link", full)
        monkeypatch.setattr("extract.run.timings.EVERY_S", 0.0)
    assert extract_folder(recordings, "report.tensorboard=true") == 0
    said = " ".join(capfd.readouterr().err.split())
    assert said.count("no more events for TensorBoard") == 1
    assert ("File exists" if failing_at == "begin" else "No space left on device") in said
    audit(tmp_path / "out", {one["id"] for one in ledger(tmp_path / "out")})
    assert len(ledger(tmp_path / "out")) == 24


def test_events_are_written_through_no_link(extract_folder, recordings, tmp_path, capfd):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / ".extract").mkdir(parents=True)
    (tmp_path / "out" / ".extract" / "tensorboard").symlink_to(tmp_path / "elsewhere")
    assert extract_folder(recordings, "report.tensorboard=true") == 0
    assert "a symbolic link" in " ".join(capfd.readouterr().err.split())
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("option", [[], ["preflight=true"]])
def test_without_the_package_a_run_is_refused_before_any_work(
    extract_folder, recordings, tmp_path, monkeypatch, capfd, option
):
    for name in [name for name in sys.modules if name.startswith("tensorboard.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert extract_folder(recordings, "report.tensorboard=true", *option) == 2
    said = " ".join(capfd.readouterr().err.split())
    assert "report.tensorboard=true: needs the package tensorboard, which is missing" in said
    assert "pip install 'extract-ssl[tensorboard]'" in said
    assert not (tmp_path / "out").exists()
    assert extract_folder(recordings) == 0
