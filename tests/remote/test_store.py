"""Stores at URLs: what an object store holds after runs, kills and faults, and who reads it."""

import io
import json
import os
import signal
import tarfile
from collections import Counter

import pytest

pytest.importorskip("fsspec")

import fsspec

from extract.remote import leases
from extract.remote.objects import Objects
from support.command import TINY, start
from support.recordings import write_wav

SHARD = "store.shard_mb=0.05"  # a tar holds a few of these recordings


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("speech") / "in"
    for number in range(12):
        write_wav(made / f"{number:02}.wav", 0.2 + number / 20, number)
    return made


@pytest.fixture
def run(command, folder, tmp_path):
    """Runs the command into a store at a URL, on a `machine` of its own."""

    def run(url, *options, machine="one", source=folder):
        return command(
            "dataset=folder",
            f"dataset.path={source}",
            "store=webdataset",
            f"store.dir={url}",
            f"store.scratch={tmp_path / machine}",
            SHARD,
            *TINY,
            "loader.num_workers=0",
            *options,
        )

    return run


class Held:
    """What an object store holds below a URL, read by fsspec alone."""

    def __init__(self, url):
        self.files, self.root = fsspec.core.url_to_fs(url)
        self.files.invalidate_cache()
        names = self.files.find(self.root)
        self.objects = {name.removeprefix(f"{self.root}/"): self.files.cat(name) for name in names}

    @property
    def tars(self):
        return sorted(name for name in self.objects if name.endswith(".tar"))

    @property
    def lines(self):
        names = sorted(name for name in self.objects if name.endswith(".jsonl"))
        return [json.loads(line) for name in names for line in self.objects[name].splitlines()]

    def ids_in_tars(self):
        """Every utterance of every tar, as a reader of all of them meets it."""
        ids = []
        for name in self.tars:
            with tarfile.open(fileobj=io.BytesIO(self.objects[name])) as tar:
                members = [one for one in tar if one.name.endswith(".json")]
                ids += [json.load(tar.extractfile(one))["id"] for one in members]
        return Counter(ids)


def require_whole(url, num=12):
    """Every id once, in the ledgers and in the tars; nothing else below the URL."""
    held, expected = Held(url), Counter(f"{number:02}.wav" for number in range(num))
    assert Counter(line["id"] for line in held.lines) == expected
    assert held.ids_in_tars() == expected
    for line in held.lines:
        [[name, offset, size, _crc]] = line["files"]
        assert held.objects[name][offset : offset + size].startswith(
            line["id"].replace(".", "%2E").encode()
        )
    others = {name for name in held.objects if not name.startswith(("shards/", "ledger"))}
    assert others == {"metadata.json"}
    assert {name for line in held.lines for name, *_ in line["files"]} == set(held.tars)
    return held


def test_a_run_leaves_whole_tars_and_their_ledger_and_nothing_else(run, s3, tmp_path):
    url = f"{s3().url}/some/features"
    assert run(url) == 0
    held = require_whole(url)
    assert len(held.tars) > 2
    assert not list((tmp_path / "one").rglob("*.tar"))


def test_the_same_command_again_asks_for_no_archive(run, s3, s3_calls):
    url = s3().url
    assert run(url) == 0
    before = Held(url).objects
    s3_calls.clear()
    assert run(url) == 0
    asked = Counter(s3_calls)
    assert asked["list_objects_v2"] == 1
    assert asked["put_object"] == asked["delete_object"] == 2  # two locks
    assert asked.total() < 15
    assert Held(url).objects == before


@pytest.fixture
def leases_end(monkeypatch):
    """The minute is over after which the lease of a process that died ends."""
    monkeypatch.setattr(leases, "is_alive", lambda *_: False)


def kill_at(monkeypatch, moment, which):
    """Has this process and its children killed at a moment of the upload of an object."""
    really = Objects.upload

    def upload(self, path, name):
        if moment == "before" and which(name):
            os.kill(os.getpid(), signal.SIGKILL)
        really(self, path, name)
        if moment == "after" and which(name):
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(Objects, "upload", upload)


def is_third_tar(name):
    return name.endswith("-000002.tar")


def is_ledger(name):
    return name.endswith(".jsonl")


MOMENTS = {
    "before a tar": ("before", is_third_tar),
    "between a tar and its lines": ("after", is_third_tar),
    "after lines": ("after", is_ledger),
}


@pytest.mark.parametrize("machine", ["one", "another"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_goes_on_here_and_elsewhere(
    moment, machine, run, s3, folder, tmp_path, leases_end
):
    url = f"{s3().url}/features"
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, *MOMENTS[moment])
        argv = [f"store.dir={url}", f"store.scratch={tmp_path / 'one'}", f"dataset.path={folder}"]
        options = ["dataset=folder", "store=webdataset", SHARD, *TINY, "loader.num_workers=0"]
        process = start([*argv, *options], tmp_path)
        process.join()
    assert process.exitcode == -signal.SIGKILL
    before = Held(url)
    named = {name for line in before.lines for name, *_ in line["files"]}
    assert named <= {*before.tars}  # a line only of what is there
    assert run(url, machine=machine) == 0
    held = require_whole(url)
    assert named <= {*held.tars}
    runs = {name.split("-")[3] for name in held.tars}
    if machine == "one":  # what was finished in the folder is sent, not done again
        assert len(runs) == 2
        return
    assert run(url, machine="one") == 0  # the machine that was killed comes back
    assert require_whole(url).objects == held.objects
    assert not list((tmp_path / "one").rglob("*.tar"))
