"""What a run notes of itself: few lines, true ones, and the command that repeats it."""

import json
import shlex
from itertools import pairwise

import pytest
import torch

from extract.config import Config
from extract.run.clock import Clock
from extract.run.tally import Tally
from extract.run.timings import Sampler, command_of
from extract.shard import Shard
from extract.store.timings import Timings, read
from support.configs import tiny_config
from support.recordings import write_wav


@pytest.fixture
def sampler(tmp_path, monkeypatch):
    """A sampler whose run is as old as `now[0]` seconds."""
    (tmp_path / ".extract").mkdir()
    now = [0.0]
    monkeypatch.setattr(Tally, "elapsed_s", property(lambda self: now[0]))
    timings = Timings(tmp_path, Shard())
    timings.begin({"began": "now"})
    made = Sampler(timings, Tally(9), Clock(), torch.device("cpu"))
    made.now = now
    return made


def test_lines_are_some_seconds_apart_and_a_day_has_hundreds(sampler, tmp_path):
    for second in range(86_400):
        sampler.now[0] = float(second)
        sampler.note()
    times = [line["s"] for line in read(tmp_path) if "s" in line]
    assert min(later - before for before, later in pairwise(times)) >= 5
    assert 100 < len(times) < 1000
    assert times[:3] == [0, 5, 10]


def test_a_runs_last_line_is_what_it_did(extract_folder, tmp_path):
    for number in range(3):
        write_wav(tmp_path / "in" / f"{number}.wav", 0.5 + number, number)
    assert extract_folder(tmp_path / "in") == 0
    first, *_, last = read(tmp_path / "out")
    assert (first["todo"], first["shard"], first["device"]) == (3, "0-of-1", "cpu")
    assert (last["done"], last["saved_s"]) == (3, pytest.approx(4.5, abs=0.01))
    assert last["s"] >= last["encoder_s"] > 0
    assert last["device_mb"] is None
    before = list(read(tmp_path / "out"))
    assert extract_folder(tmp_path / "in") == 0  # nothing to do
    assert list(read(tmp_path / "out")) == before


def test_the_command_of_a_run_repeats_it(command, tmp_path):
    folder = tmp_path / "it's $HOME, a=b (1)"
    write_wav(folder / "a.wav")
    options = ["audio.alpha=0.25", "audio.max_peak=null", "audio.pad_samples=[40,80]"]
    options += ["audio.mix=mean"]
    options += ["store=npy", "model.layer=[1,2]", "loader.num_workers=0", "device=cpu", "seed=5"]
    where = [f"dataset.path={folder}", f"store.dir={tmp_path / 'out'}"]
    assert command("dataset=folder", "model=tiny_random", *where, *options) == 0
    [said] = [line["command"] for line in read(tmp_path / "out") if "began" in line]
    words = shlex.split(said)
    assert words[:3] == ["python", "-m", "extract"]
    # Other settings would be refused with 2, for the store has these.
    before = json.loads((tmp_path / "out" / "metadata.json").read_text())["identity"]
    write_wav(folder / "b.wav")
    assert command(*words[3:]) == 0
    assert json.loads((tmp_path / "out" / "metadata.json").read_text())["identity"] == before
    again = [line["command"] for line in read(tmp_path / "out") if "began" in line]
    assert again == [said, said]


def test_the_command_holds_no_secret_of_a_url(tmp_path):
    config: Config = tiny_config(tmp_path, tmp_path / "out")
    config.dataset.path = "https://me:secret@host/all?token=secret"
    assert "secret" not in command_of(config)
    assert "host/all" in command_of(config)
