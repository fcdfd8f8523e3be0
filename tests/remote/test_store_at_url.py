"""Stores at URLs: what an object store holds after runs, kills and faults, and who reads it."""

import io
import json
import os
import pickle
import shutil
import signal
import tarfile
from collections import Counter
from pathlib import Path

import pytest
import torch

pytest.importorskip("fsspec")

import fsspec

from extract import FeatureDataset
from extract.commands import audit, report, show
from extract.remote import leases
from extract.remote.objects import Objects
from extract.store import remote_place
from extract.store.existing import existing_store
from support.command import TINY, extract_into, start
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
    count = max(int(name.rpartition("-")[2]) for name in others if "listed" in name)
    notes = {f".extract/listed-{index}-of-{count}" for index in range(count)}
    assert others == {"metadata.json", *notes}
    assert {name for line in held.lines for name, *_ in line["files"]} == set(held.tars)
    return held


def test_a_run_leaves_whole_tars_and_their_ledger_and_nothing_else(run, s3, tmp_path):
    url = f"{s3().url}/some/features"
    assert run(url, "loader.num_workers=2") == 0
    held = require_whole(url)
    assert len(held.tars) > 2
    assert not list((tmp_path / "one").rglob("*.tar"))


@pytest.mark.parametrize("share", [remote_place.SHARE, 10**9])
def test_a_ledger_names_only_tars_that_are_there_already(share, run, s3, monkeypatch):
    url, really, ledgers = f"{s3().url}/features", Objects.upload, []
    monkeypatch.setattr(remote_place, "SHARE", share)

    def upload(self, path, name):
        if is_ledger(name):
            lines = map(json.loads, Path(path).read_text().splitlines())
            ledgers.append({place[0] for line in lines for place in line["files"]})
            assert ledgers[-1] <= {*self.list()}
        really(self, path, name)

    monkeypatch.setattr(Objects, "upload", upload)
    assert run(url) == 0
    assert ledgers[-1] == {*require_whole(url).tars}
    assert len(ledgers) == 1 if share > 4 else len(ledgers) > 1


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


@pytest.mark.parametrize(
    ("moment", "machine"),
    [
        ("before a tar", "another"),
        ("between a tar and its lines", "one"),
        ("between a tar and its lines", "another"),
        ("after lines", "one"),
    ],
)
def test_a_killed_run_goes_on_here_and_elsewhere(
    moment, machine, run, s3, folder, tmp_path, monkeypatch
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
    waits = pytest.fail if machine == "one" else lambda *_: False  # the minute is over
    monkeypatch.setattr(leases, "is_alive", waits)
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


def test_an_upload_that_fails_ends_the_run_and_marks_nothing_failed(
    run, s3, monkeypatch, capsys, tmp_path
):
    url = f"{s3().url}/features"
    really = Objects.upload
    with monkeypatch.context() as patch:

        def upload(self, path, name):
            if is_third_tar(name):
                raise OSError(5, "SlowDown: reduce your request rate", f"{self.shown}/{name}")
            really(self, path, name)

        patch.setattr(Objects, "upload", upload)
        assert run(url, "store.num_writers=1") == 1
    said = capsys.readouterr().err
    assert "SlowDown" in said
    assert "the same command goes on" in said
    held = Held(url)
    assert {line["status"] for line in held.lines} == {"saved"}
    assert {name for line in held.lines for name, *_ in line["files"]} <= {*held.tars}
    assert not any(map(is_third_tar, held.tars))
    assert run(url) == 0
    assert {*held.tars} < {*require_whole(url).tars}


def test_a_run_whose_lease_is_lost_sends_nothing_more(run, s3, monkeypatch, capsys):
    url = f"{s3().url}/features"
    with monkeypatch.context() as patch:
        patch.setattr(leases.Lease, "is_lost", True)
        assert run(url) == 1
    assert "another run may work here" in capsys.readouterr().err
    assert {*Held(url).objects} == {"metadata.json"}
    assert run(url) == 0
    require_whole(url)


def test_archives_that_lose_utterances_are_rewritten_once_by_ranges(run, s3, folder, tmp_path):
    url, source = f"{s3().url}/features", tmp_path / "in"
    shutil.copytree(folder, source)
    assert run(url, source=source) == 0
    before = Held(url)
    for name in ("00.wav", "11.wav"):
        write_wav(source / name, 0.3, 99)
    assert run(url, source=source, machine="another") == 0
    held = require_whole(url)
    changed = {name for name in before.tars if held.objects.get(name) != before.objects[name]}
    assert 1 <= len(changed) <= 2
    assert len(before.tars) > 2


def test_shards_of_two_machines_and_then_one(run, s3):
    url = f"{s3().url}/features"
    for index, machine in enumerate(("one", "another")):
        assert run(url, f"shard.index={index}", "shard.count=2", machine=machine) == 0
    held = require_whole(url)
    assert {"ledger.0-of-2.jsonl", "ledger.1-of-2.jsonl"} <= held.objects.keys()
    assert run(url, machine="third") == 0
    last = require_whole(url)
    assert last.tars == held.tars
    assert {name for name in last.objects if is_ledger(name)} == {"ledger.jsonl"}


def test_shards_at_work_at_once_in_one_folder_and_elsewhere(s3, folder, tmp_path):
    url = f"{s3().url}/features"
    where = [f"store.dir={url}", f"dataset.path={folder}", "dataset=folder", "store=webdataset"]
    processes = [
        start(
            [
                *where,
                *(SHARD, *TINY, "loader.num_workers=0", "shard.count=3"),
                *(f"shard.index={index}", f"store.scratch={tmp_path / machine}"),
            ],
            tmp_path,
            tmp_path / "log",
        )
        for index, machine in enumerate(("one", "one", "another"))
    ]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0], (tmp_path / "log").read_text()
    require_whole(url)


def test_a_second_run_is_refused_while_the_first_is_alive(run, s3, capsys, monkeypatch):
    url = f"{s3().url}/features"
    monkeypatch.setattr(leases, "RENEWED_S", 0.1)
    monkeypatch.setattr(leases, "POLLED_S", 0.05)
    lease = leases.Lease(Objects(url), ".extract/lock-0-of-1", "elsewhere")
    lease.take(lambda _owner: False, 0)
    assert run(url) == 2
    assert f"process {os.getpid()} on" in capsys.readouterr().err
    assert run(url, "shard.count=2") == 2
    assert "shard.count=2 needs it for itself" in capsys.readouterr().err
    assert {*Held(url).objects} == {".extract/lock-0-of-1"}
    lease.release()
    assert run(url) == 0


def test_what_another_machine_has_just_sent_stays_and_a_dead_one_s_goes(run, s3):
    bucket = s3()
    url, objects = f"{bucket.url}/features", Objects(f"{bucket.url}/features")
    mine, other = (f"shards/{part}-of-2-0123abc{part}-000000.tar" for part in (0, 1))
    assert run(url, "shard.index=1", "shard.count=2", machine="another") == 0
    for name in (mine, other):  # tars without lines
        objects.write(name, bytes(1024))
    lease = leases.Lease(objects, ".extract/lock-1-of-2", "elsewhere")
    lease.take(lambda _owner: False, 0)
    assert run(url, "shard.count=2", "shard.index=0") == 0
    assert {other} == {*objects.list()} & {mine, other}
    lease.release()
    assert run(url, "shard.count=2", "shard.index=0") == 0
    require_whole(url)


def test_what_waits_in_a_folder_is_not_sent_to_features_of_other_settings(run, s3, monkeypatch):
    url, really = f"{s3().url}/features", Objects.upload
    changed = ["audio.alpha=0.3", "overwrite=true"]

    def upload(self, path, name):
        if name.endswith(".tar"):
            raise OSError(5, "unreachable", name)
        really(self, path, name)

    with monkeypatch.context() as patch:
        patch.setattr(Objects, "upload", upload)
        assert run(url) == 1
        assert run(url, *changed, machine="another") == 1
    assert run(url, *changed) == 0
    runs = {name.split("-")[3] for name in require_whole(url).tars}
    assert len(runs) == 1


def test_a_lease_that_is_not_renewed_ends_and_its_owner_writes_no_more(s3, monkeypatch):
    objects = Objects(f"{s3().url}/features")
    monkeypatch.setattr(leases, "LEASE_S", 0.3)
    first = leases.Lease(objects, "lock", "one")
    first.take(lambda _owner: False, 0)
    first.require()
    second = leases.Lease(objects, "lock", "two")
    second.take(lambda _owner: False, 0)
    with pytest.raises(OSError, match="not renewed"):
        first.require()
    second.release()
    assert objects.list() == {}


def test_features_of_other_settings_are_refused_on_any_machine_and_replaced_if_asked(
    run, s3, capsys, tmp_path
):
    url = f"{s3().url}/features"
    assert run(url) == 0
    before = Held(url)
    assert run(url, "audio.max_duration_s=0.5", "audio.alpha=0.3", machine="another") == 2
    assert "audio.alpha" in capsys.readouterr().err
    assert Held(url).objects == before.objects
    assert run(url, "audio.alpha=0.3", "overwrite=true", machine="another") == 0
    assert not {*require_whole(url).tars} & {*before.tars}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["store=gpt_sovits"], "store=gpt_sovits needs a folder"),
        (["store=npy"], "store=npy needs a folder"),
        (["store=kaldi"], "store=kaldi needs a folder"),
        (["store=webdataset", "preflight=true"], "preflight=True needs a folder"),
        (["store=webdataset", "report.page=live"], "report.page=live needs a folder"),
        (["store=webdataset", "engine=ray"], "engine=ray needs a folder"),
        (["store=webdataset", "store.dir=https://host/a"], "no store can be written there"),
    ],
)
def test_what_needs_a_folder_refuses_a_url_before_any_work(
    options, said, command, folder, capsys, tmp_path
):
    where = ["dataset=folder", f"dataset.path={folder}", "store.dir=s3://someone:secret@bucket/a"]
    assert command(*where, *options, *TINY) == 2
    heard = capsys.readouterr().err
    assert said in " ".join(heard.split())
    assert "secret" not in heard


@pytest.fixture(scope="module")
def memory(folder, tmp_path_factory):
    """A finished store in memory, whose URL holds a password."""
    url, made = "memory://someone:s3cret@features", tmp_path_factory.mktemp("memory")
    options = ["store=webdataset", f"store.scratch={made / 'scratch'}", SHARD]
    assert extract_into(url, folder, *options) == 0
    return url, made / "scratch"


def test_no_secret_of_a_url_is_written_anywhere(memory):
    url, scratch = memory
    held = Held(url)
    assert held.tars
    for content in held.objects.values():
        assert b"s3cret" not in content
    for path in scratch.rglob("*"):
        assert "s3cret" not in path.name
        assert path.is_dir() or b"s3cret" not in path.read_bytes()


def test_webdataset_reads_the_tars_of_a_url(memory, folder):
    import webdataset

    url, _scratch = memory
    files, root = fsspec.core.url_to_fs(url)
    streams = ({"url": name, "stream": files.open(name)} for name in files.find(f"{root}/shards"))
    samples = webdataset.tariterators.group_by_keys(
        webdataset.tariterators.tar_file_expander(streams)
    )
    ids = [json.loads(sample["json"])["id"] for sample in samples]
    assert Counter(ids) == Counter(path.name for path in folder.iterdir())


def test_a_dataset_reads_items_by_ranges_here_and_in_another_process(memory, folder):
    url, _scratch = memory
    dataset = FeatureDataset(url)
    held = Held(url)
    assert len(dataset) == len(held.lines)
    twin = pickle.loads(pickle.dumps(dataset))
    for index, line in enumerate(held.lines):
        item = dataset[index]
        assert item.recording.id == line["id"]
        assert len(item.features) == line["num_frames"]
        assert torch.equal(twin[index].features, item.features)


def test_show_and_audit_read_a_url(memory, capsys):
    url, _scratch = memory
    assert show.main([url, "--json"]) == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert shown == Held(url).lines
    assert audit.main([url]) == 0
    assert "nothing is wrong" in capsys.readouterr().out
    assert audit.main([url, "--fix"]) == 2
    name = Held(url).tars[0]
    files, root = fsspec.core.url_to_fs(url)
    whole = files.cat(f"{root}/{name}")
    files.pipe(f"{root}/{name}", whole[: len(whole) // 2])
    assert audit.main([url]) == 1
    files.pipe(f"{root}/{name}", whole)
    lines = files.cat(f"{root}/ledger.jsonl").splitlines(keepends=True)
    files.pipe(f"{root}/ledger.jsonl", b"".join(lines[1:]))
    capsys.readouterr()
    assert audit.main([url]) == 1
    assert "no_line: 1" in capsys.readouterr().out
    files.pipe(f"{root}/ledger.jsonl", b"".join(lines))


def test_a_message_names_the_url_and_no_folder_of_a_copy(memory, command, folder, tmp_path, capsys):
    url, _scratch = memory
    shown = "memory://***@features"
    files, root = fsspec.core.url_to_fs(url)
    words = ["dataset=folder", f"dataset.path={folder}", "store=webdataset", f"store.dir={url}"]
    words += [f"store.scratch={tmp_path / 'scratch'}", *TINY, "audio.alpha=0.3"]
    with pytest.raises(ValueError, match=r"^memory://\*\*\*@features: no line of 1 recording"):
        FeatureDataset(url, recordings=["no.wav"])
    assert command(*words) == 2
    assert f"{shown}: made with other settings" in capsys.readouterr().err
    assert audit.main([url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["store"] == shown
    assert audit.main([f"{url}/elsewhere"]) == 2
    assert f"{shown}/elsewhere: no ledger here" in capsys.readouterr().err
    whole = files.cat(f"{root}/metadata.json")
    files.pipe(f"{root}/metadata.json", b"{")
    try:
        assert command(*words) == 2
        assert f"{shown}/metadata.json: " in capsys.readouterr().err
        with pytest.raises(ValueError, match=r"^memory://\*\*\*@features/metadata.json: "):
            FeatureDataset(url)
    finally:
        files.pipe(f"{root}/metadata.json", whole)


def test_commands_that_need_a_folder_say_so(memory, capsys):
    url, _scratch = memory
    assert report.main([url]) == 2
    assert "needs a folder of this machine" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"needs a folder.*"):
        existing_store(Path(url))
