"""`preflight=true`: what it says against counts that are not ours, and that it changes nothing."""

import json
import os
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from extract.manifest.sources.folder import read_folder
from extract.run import preflight_table, room, speed
from extract.run.preflight_table import MAX_KINDS
from extract.run.speed import Range
from support.recordings import FFMPEG, ffmpeg_convert, write_wav
from support.stores import audit, ids_of, ledger

FFPROBE = shutil.which("ffprobe")


@pytest.fixture(autouse=True)
def measured(monkeypatch):
    """Takes the place of the measurements: 0.1 to 0.2 s for a second of cost or of audio."""
    asked = []

    def ratio(*given):
        asked.append(given)
        return Range(0.1, 0.2)

    monkeypatch.setattr("extract.run.preflight.encoder_ratio", ratio)
    monkeypatch.setattr("extract.run.preflight.decoding_ratio", ratio)
    return asked


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Recordings of several kinds, none of which is rejected."""
    folder = tmp_path / "in"
    first = write_wav(folder / "a.wav", 1.3)
    write_wav(folder / "b.wav", 0.4, 1, rate=44_100)
    for name, *options in [
        ("c.flac", "-ar", "22050"),
        ("d.mp3", "-ar", "24000"),
        ("e.ogg", "-ac", "2", "-ar", "48000", "-c:a", "libvorbis"),
        ("f.m4a", "-ac", "2", "-ar", "44100"),
        ("below/g.wav", "-c:a", "pcm_s24le"),
        ("below/h.wav", "-c:a", "pcm_f32le", "-ac", "2"),
    ]:
        (folder / name).parent.mkdir(exist_ok=True)
        ffmpeg_convert(first, folder / name, *options)
    return folder


@pytest.fixture
def examined(extract_folder, capfd):
    """The preflight of a folder as a program reads it, with its exit code."""

    def examined(folder: Path, *options: str) -> tuple[int, dict]:
        capfd.readouterr()
        code = extract_folder(folder, "preflight=json", *options)
        return code, json.loads(capfd.readouterr().out)

    return examined


def tree(folder: Path) -> dict[str, tuple]:
    """Every file and folder below `folder`, with contents and times."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        found[str(path)] = status.st_mtime_ns, status.st_ino, content
    return found


def ffprobe(path: Path) -> dict:
    command = [FFPROBE, "-v", "error", "-show_streams", "-of", "json", str(path)]
    [stream] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)[
        "streams"
    ]
    return stream


def seconds_of(folder: Path) -> list[float]:
    return [soundfile.info(path).duration for path in folder.rglob("*.*")]


@pytest.mark.skipif(not (FFMPEG and FFPROBE), reason="no ffmpeg, no ffprobe")
def test_rates_channels_codecs_and_hours_are_those_that_ffprobe_finds(mixed, examined):
    code, found = examined(mixed)
    assert code == 0
    streams = [ffprobe(path) for path in mixed.rglob("*.*")]
    assert found["recordings"] == found["todo"] == len(streams) == 8
    for key, ours in [("sample_rate", "rates"), ("channels", "channels"), ("codec_name", "codecs")]:
        assert found[ours] == Counter(str(stream[key]) for stream in streams)
    seconds = sum(float(stream["duration"]) for stream in streams)
    assert found["seconds"] == pytest.approx(seconds, abs=0.05 * len(streams))
    assert found["todo_s"] == found["seconds"]


def test_it_foretells_the_reasons_that_the_run_then_has(
    recordings, examined, extract_folder, tmp_path
):
    write_wav(recordings / "short.wav", 0.05)
    write_wav(recordings / "no_frame.wav", 0.02)
    write_wav(recordings / "long.wav", 1.5)
    (recordings / "empty.wav").touch()
    (recordings / "broken.wav").write_bytes(b"RIFF but not really")
    (recordings / "gone.wav").symlink_to(recordings / "nowhere")
    gates = "audio.min_duration_s=0.08", "audio.max_duration_s=1.4"
    code, found = examined(recordings, *gates)
    assert code == 0
    assert (found["recordings"], found["todo"]) == (30, 30)
    named = {one["id"]: one["reason"] for one in found["failures"]}
    assert extract_folder(recordings, *gates) == 1
    records = ledger(tmp_path / "out")
    assert found["reasons"] == Counter(one["reason"] for one in records if one["reason"])
    assert named == {
        one["id"]: one["reason"] for one in records if one["reason"] and "too" not in one["reason"]
    }
    saved_s = sum(one["duration_s"] for one in records if one["status"] == "saved")
    assert found["todo_s"] == pytest.approx(saved_s, abs=1e-3)
    code, again = examined(recordings, *gates)
    assert (code, again["todo"]) == (0, 2)  # what failed is tried again
    assert sorted(map(tuple, again["finished"])) == [
        ("rejected", "empty", 1),
        ("rejected", "too_long", 1),
        ("rejected", "too_short", 2),
        ("saved", "", 24),
    ]


@pytest.mark.parametrize("before", ["no store", "a finished store", "an interrupted run"])
def test_nothing_is_written(recordings, examined, extract_folder, tmp_path, before):
    if before != "no store":
        assert extract_folder(recordings) == 0
    if before == "an interrupted run":
        (tmp_path / "out" / ".extract" / "unfinished-0-of-1").touch()
        (tmp_path / "out" / "4-cnhubert" / ".tmp-host-123-0").touch()
        path = tmp_path / "out" / "ledger.jsonl"
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-3]) + b'{"id":"to')
    there = tree(tmp_path)
    code, found = examined(recordings)
    assert code == 0
    assert found["todo"] == {"no store": 24, "a finished store": 0, "an interrupted run": 3}[before]
    assert tree(tmp_path) == there


def test_a_finished_store_leaves_nothing_to_measure(recordings, examined, extract_folder, measured):
    assert extract_folder(recordings, "shard.count=2") == 0
    assert extract_folder(recordings, "shard.count=2", "shard.index=1") == 0
    measured.clear()
    code, found = examined(recordings, "shard.count=3")  # by all ledgers, whatever the sharding
    assert (code, found["todo"], found["num_batches"], found["time"]) == (0, 0, 0, None)
    assert (found["finished"], found["room"]["needed"]) == ([["saved", "", 24]], 0)
    assert not measured


def test_a_list_of_nothing_but_failures_has_a_table(command, tmp_path, capfd):
    (tmp_path / "my.list").write_text("one field\nbad\x01name.wav|a|zh|text\n")
    words = ["dataset=gpt_sovits", "dataset.path=my.list", "model=tiny_random", "device=cpu"]
    assert command(*words, "preflight=true") == 0
    out = capfd.readouterr().out
    assert re.search(r"^recordings +0: 0 to do *$", out, re.MULTILINE)
    assert re.search(r"^bad lines, names +bad_id: 1; bad_line: 1 *$", out, re.MULTILINE)
    assert "bad_line: my.list:1: line 1: 1 field; 4 are needed: wav|speaker|language|text" in out
    assert list(tmp_path.iterdir()) == [tmp_path / "my.list"]


def test_all_clashes_are_named_and_the_run_would_not_start(command, tmp_path, capfd):
    lines = []
    for number in range(3):
        for folder in ("one", "other", "third"):
            path = write_wav(tmp_path / folder / f"{number}.wav", 0.3, number)
            lines.append(f"{path}|a|zh|text\n")
    (tmp_path / "my.list").write_text("".join(lines))
    words = ["dataset=gpt_sovits", "dataset.path=my.list", "model=tiny_random", "device=cpu"]
    assert command(*words, "preflight=json") == 0  # in GPT-SoVITS's layout each fails alone
    assert json.loads(capfd.readouterr().out)["clashes"] == []
    words.append("store=npy")
    assert command(*words, "preflight=true") == 2
    out = capfd.readouterr().out
    assert re.search(r"^clashes +6 pairs *$", out, re.MULTILINE)
    for number in range(3):
        for folder in ("other", "third"):
            first, second = (tmp_path / some / f"{number}.wav" for some in ("one", folder))
            assert f"clash: {number}.wav: {first} and {second}\n" in out
    assert re.search(r"^recordings +3: 3 to do *$", out, re.MULTILINE)
    assert command(*words) == 2  # as ever
    assert "6 pairs" in capfd.readouterr().err


def test_a_store_of_other_settings_is_told_beside_the_table(
    recordings, examined, extract_folder, tmp_path
):
    assert extract_folder(recordings) == 0
    code, found = examined(recordings, "audio.alpha=0.25")
    assert (code, found["recordings"], found["time"]) == (2, 24, None)
    assert "audio.alpha" in found["refusal"]
    code, found = examined(recordings, "audio.alpha=0.25", "overwrite=true")
    assert (code, found["refusal"], found["todo"]) == (0, "", 24)
    code, found = examined(recordings, "audio.max_duration_s=0.6", "overwrite=true")
    long = sum(one["duration_s"] > 0.6 for one in ledger(tmp_path / "out"))
    assert (code, found["todo"], found["reasons"]) == (0, long, {"too_long": long})
    (tmp_path / "out" / "metadata.json").unlink()
    assert examined(recordings)[0] == 2


def test_files_of_another_program_are_told(recordings, examined, tmp_path):
    foreign = tmp_path / "out" / "01.wav.npy"
    foreign.parent.mkdir(parents=True)
    foreign.touch()
    code, found = examined(recordings, "store=npy")
    assert (code, "files that no ledger names" in found["refusal"]) == (2, True)
    assert examined(recordings, "store=npy", "overwrite=true")[0] == 0
    assert list((tmp_path / "out").rglob("*")) == [foreign]


def test_a_store_that_cannot_be_made_is_told_and_is_1(recordings, examined, tmp_path):
    (tmp_path / "out").write_text("a file")
    code, found = examined(recordings)
    assert (code, found["recordings"]) == (1, 24)
    assert "it is no folder" in found["unusable"]


def test_a_mistake_is_refused_as_by_a_run(extract_folder, tmp_path, capfd):
    assert extract_folder(tmp_path / "nowhere", "preflight=true") == 2
    assert extract_folder(tmp_path, "preflight=yes_please") == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert "preflight: 'yes_please'; needed true, false or json" in err


def test_a_quantizer_that_a_run_refuses_is_refused(recordings, extract_folder, tmp_path, capfd):
    (tmp_path / "s2G.pth").write_text("<html>")
    words = ["quantizer=gpt_sovits", f"quantizer.path={tmp_path / 's2G.pth'}"]
    assert extract_folder(recordings, *words, "preflight=true") == 2
    told = capfd.readouterr()
    assert told.out == ""
    assert "s2G.pth: " in told.err
    assert extract_folder(recordings, *words) == 2  # with the same words
    assert capfd.readouterr().err.splitlines()[-1] == told.err.splitlines()[-1]


@pytest.mark.parametrize("num_shards", [1, 3])
def test_batches_and_padding_are_those_of_the_runs(
    recordings, examined, extract_folder, num_shards, capfd
):
    small = "loader.batch_seconds=3", f"shard.count={num_shards}", "audio.min_samples=8000"
    code, found = examined(recordings, *small)
    assert (code, found["num_shards"]) == (0, num_shards)
    for index in range(num_shards):
        assert extract_folder(recordings, *small, f"shard.index={index}") == 0
    runs = re.findall(r"(\d+) batch(?:es)?, (\d+\.\d) % padding", capfd.readouterr().err)
    assert len(runs) == num_shards
    assert found["num_batches"] == sum(int(num) for num, _share in runs)
    shares = [float(share) / 100 for _num, share in runs]
    assert min(shares) - 1e-3 <= found["padding"] <= max(shares) + 1e-3


def test_what_the_trainer_drops_is_counted(recordings, examined, tmp_path):
    write_wav(recordings / "long.wav", 54.5)
    _code, found = examined(recordings)
    seconds = seconds_of(recordings)
    assert sum(found["dropped"].values()) == sum(not 0.6 < one < 54 for one in seconds) > 2


def test_the_time_is_the_measured_one_for_all_that_is_left(recordings, examined):
    seconds = seconds_of(recordings)
    write_wav(recordings / "long.wav", 5.0)
    options = "loader.num_workers=2", "loader.batch_seconds=1000", "audio.max_duration_s=2"
    _code, found = examined(recordings, *options)
    decoding = found["time"]["decoding"]
    assert decoding["low"] == pytest.approx(0.1 * sum(seconds) / 2, rel=1e-3)  # by two workers
    assert decoding["high"] == pytest.approx(0.2 * sum(seconds) / 2, rel=1e-3)
    # A batch costs 30 s at most: the long one, which is not encoded, and 4; then 20. Each recording
    # is as long as its batch's longest, d (1 + d / q).
    ordered = sorted(seconds, reverse=True)
    padded_s = 4 * ordered[0] + 20 * ordered[4]
    assert found["num_batches"] == 2
    encoder = found["time"]["encoder"]["low"]
    assert 0.1 * padded_s < encoder < 0.1 * padded_s * 1.1
    total = found["time"]["total"]
    assert total["low"] == max(encoder, decoding["low"])
    assert total["high"] == pytest.approx(2 * encoder + decoding["high"])


def test_the_table_fits_80_columns_and_stdout_has_nothing_else(mixed, extract_folder, capfd):
    for rate in range(8_000, 8_000 + MAX_KINDS):
        write_wav(mixed / f"{rate}.wav", 0.3, rate=rate)
    assert extract_folder(mixed, "preflight=true") == 0
    out, err = capfd.readouterr()
    table, _below, _store = out.partition(preflight_table.NOT_IN_HEADERS)
    assert max(map(len, table.splitlines())) <= 80
    assert "recordings" not in err
    assert "float32 on cpu" in err
    assert "more: " in table
    page = (Path(__file__).parents[2] / "docs" / "faults.md").read_text("utf8")
    example = page.split("## Before a run")[1].split("```text\n")[1].split("```")[0]
    labels, documented = (re.findall(r"^(\w+) {2}", some, re.M) for some in (table, example))
    assert documented == labels
    assert labels[:5] == ["recordings", "hours", "rates", "channels", "formats"]
    assert {"disk", "batches", "time", "rejected", "failed"} < {*labels}


def test_no_recording_is_decoded_whole(monkeypatch, mixed):
    spans = []

    def part(file, where, audio, span):
        spans.append((Path(where), span))

    monkeypatch.setattr(speed, "prepare", part)
    manifest = read_folder(mixed)
    seconds = [float(ffprobe(Path(entry.path))["duration"]) for entry in manifest]
    found = speed.decoding_ratio(manifest, np.array(seconds), None, lambda: False)
    assert 0 < found.low < found.high
    assert len(spans) == 8
    for (path, span), whole_s in zip(spans, seconds, strict=True):
        assert 0 < span.stop_s - span.start_s <= whole_s / 2 + 1e-4, path


# The disk.


@pytest.fixture
def disk(monkeypatch, tmp_path):
    """Sets how many bytes are free below `tmp_path`."""
    real = os.statvfs

    def set_free(num_bytes: float) -> None:
        def fake(path):
            found = real(path)
            if not str(path).startswith(str(tmp_path)):
                return found
            fields = {name: getattr(found, name) for name in dir(found) if name.startswith("f_")}
            fields |= {"f_frsize": 1, "f_bsize": 1, "f_bavail": num_bytes, "f_bfree": num_bytes}
            return SimpleNamespace(**fields)

        monkeypatch.setattr(os, "statvfs", fake)

    return set_free


PER_SECOND = 2 * 32_000 + 50 * 32 * 4  # int16 at 32 kHz; 32 float32 at 50 Hz


def needed_bytes(folder: Path) -> int:
    return round(sum(seconds_of(folder)) * PER_SECOND)


def test_a_disk_that_is_short_stops_before_the_work(
    recordings, extract_folder, examined, disk, tmp_path, capfd
):
    needed = needed_bytes(recordings)
    disk(int(0.9 * needed))
    code, found = examined(recordings)
    assert (code, found["recordings"]) == (1, 24)
    assert found["room"]["needed"] == pytest.approx(needed, rel=1e-3)
    assert found["room"]["free"] == int(0.9 * needed)
    assert "the disk is too small" in found["unusable"]
    assert not (tmp_path / "out").exists()
    assert extract_folder(recordings) == 1
    said = " ".join(capfd.readouterr().err.split())
    assert "the disk is too small for what is left to do" in said
    assert f"about {needed / 1e6:,.1f} MB needed, {0.9 * needed / 1e6:,.1f} MB free" in said
    assert f"at least {0.08 * needed / 1e6:,.1f} MB short. Ways out: " in said
    assert "goes on from here" in said
    assert ledger(tmp_path / "out") == []
    disk(1e9)
    assert extract_folder(recordings) == 0
    audit(tmp_path / "out", ids_of(recordings))
    disk(0)
    assert extract_folder(recordings) == 0  # nothing is left to do
    assert "too small" not in capfd.readouterr().err


def test_only_what_is_left_needs_room(recordings, extract_folder, disk, tmp_path):
    for path in [*recordings.rglob("*.wav")][:20]:
        path.rename(tmp_path / path.name)
    assert extract_folder(recordings) == 0
    for path in tmp_path.glob("*.wav"):
        path.rename(recordings / path.name)
    left = needed_bytes(recordings) - round(
        sum(one["duration_s"] for one in ledger(tmp_path / "out")) * PER_SECOND
    )
    disk(int(0.97 * left))
    assert extract_folder(recordings) == 1
    disk(int(1.01 * left))
    assert extract_folder(recordings) == 0


def test_a_disk_that_is_short_by_less_than_the_uncertainty_only_warns(
    recordings, extract_folder, examined, disk, tmp_path, capfd
):
    disk(int(1.01 * needed_bytes(recordings)))
    assert examined(recordings)[0] == 0
    assert extract_folder(recordings) == 0
    assert "there may not be room for all" in " ".join(capfd.readouterr().err.split())
    audit(tmp_path / "out", ids_of(recordings))


def test_a_guessed_duration_stops_nothing(mixed, extract_folder, examined, disk, capfd):
    """FFmpeg guesses that of an MP3 without a header from its bit rate."""
    for path in mixed.rglob("*.*"):
        if path.suffix != ".mp3":
            path.unlink()
    disk(int(0.6 * needed_bytes(mixed)))
    assert examined(mixed)[0] == 0
    assert extract_folder(mixed) == 0
    assert "there may not be room for all" in " ".join(capfd.readouterr().err.split())
    disk(int(0.4 * needed_bytes(mixed)))
    assert examined(mixed, "audio.alpha=0.25", "overwrite=true")[0] == 1


def test_without_training_audio_less_room_is_needed(recordings, examined):
    _code, found = examined(recordings, "audio=plain")
    seconds = needed_bytes(recordings) / PER_SECOND
    assert found["room"]["needed"] == pytest.approx(seconds * 50 * 32 * 4, rel=1e-3)


def test_the_room_is_that_of_all_disks_of_the_store(monkeypatch, tmp_path):
    """A folder of the store may be the root of a disk of its own."""
    store = tmp_path / "out"
    (store / "4-cnhubert").mkdir(parents=True)
    free = {tmp_path: (1, 10.0), store / "4-cnhubert": (2, 100.0)}

    def place(path):
        return next(free[some] for some in (path, *path.parents) if some in free)

    monkeypatch.setattr(room, "_device", lambda path: place(path)[0])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=place(path)[1]))
    assert room.free_bytes(store, ("4-cnhubert", "5-wav32k")) == 110
    assert room.free_bytes(store, ("5-wav32k",)) == 10
    assert room.free_bytes(tmp_path / "not" / "there", ("5-wav32k",)) == 10
