"""A layout of archives from another package: nothing is lost, nothing is there twice."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from extract.store.layout import LayoutOptions
from extract.store.layouts.gpt_sovits import GptSovits
from extract.store.store import Store
from support import fives
from support.command import TINY, start
from support.packages import forget_packages, install
from support.recordings import DEMO, write_wav
from support.stores import ids_of, ledger

NUM = 40
SOURCE = Path(fives.__file__).read_text("utf8")
OPTIONS = ["store.layout=fives", "loader.batch_seconds=0.5", "store.num_writers=2"]


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """The layout as an installed package; returns an environment that has it."""
    environment = install(tmp_path / "site", "extract.layouts", "fives", "some_fives", SOURCE)
    monkeypatch.syspath_prepend(tmp_path / "site")
    forget_packages()
    yield environment
    forget_packages()
    sys.modules.pop("some_fives", None)


@pytest.fixture
def recordings(tmp_path) -> Path:
    """Short ones, no two alike, more than the queue of one writer holds."""
    for n in range(NUM):
        folder = "in" if n % 4 else "in/below"
        write_wav(tmp_path / folder / f"{n:02}.wav", 0.1 + 0.01 * n, n)
    return tmp_path / "in"


@pytest.fixture
def run(extract_folder, recordings, elsewhere):
    return lambda *options: extract_folder(recordings, "loader.num_workers=0", *OPTIONS, *options)


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out"


def read_back(store: Path) -> dict[str, torch.Tensor]:
    """What another program finds in the archives: each utterance once, and all there is to see."""
    found = [
        (member["id"], path, offset, member["bytes"])
        for path in sorted((store / "fives").iterdir())
        for member, offset in fives.members(path)
        if member["id"]
    ]
    assert max(Counter(id_ for id_, *_ in found).values(), default=1) == 1
    features = {}
    for id_, path, offset, size in found:
        with path.open("rb") as file:
            file.seek(offset)
            (store / "member").write_bytes(file.read(size))
        features[id_] = torch.load(store / "member", weights_only=True)
        (store / "member").unlink()
    return features


def opened(store: Path) -> Store:
    return Store(store, options=LayoutOptions(str(store), "fives"))


def audit(store: Path, ids: set[str]) -> None:
    """Every utterance is once in the ledger and once in an archive, and is read as it was put."""
    records, features = ledger(store), read_back(store)
    assert Counter(record["id"] for record in records) == Counter(ids)
    saved = {record["id"] for record in records if record["status"] == "saved"}
    assert set(features) == saved
    assert not [path for path in store.rglob("*") if path.name.startswith(".tmp-")]
    layout = opened(store).layout
    for record in records:
        if record["status"] == "saved":
            kept = layout.kept(record)
            assert layout.intact(kept, checksum=True)
            assert torch.equal(layout.read(kept), features[record["id"]])
            assert features[record["id"]].shape[1] == record["num_frames"]


def said(capfd) -> str:
    captured = capfd.readouterr()
    output = " ".join((captured.out + captured.err).split())
    assert "Traceback" not in output
    return output


def archives(store: Path) -> dict[str, tuple[int, int]]:
    """Each archive's inode and time: whether it was written again."""
    status = {path.name: path.stat() for path in (store / "fives").iterdir()}
    return {name: (some.st_ino, some.st_mtime_ns) for name, some in status.items()}


# --- whole runs ----------------------------------------------------------------------------------


def test_an_installed_layout_is_chosen_on_the_command_line(elsewhere, tmp_path):
    command = [sys.executable, "-m", "extract", "dataset=demo", *TINY, "store.layout=fives"]
    subprocess.run([*command, "store.dir=out"], cwd=tmp_path, env=elsewhere, check=True)
    clips = {path.name for path in DEMO.glob("*_*")}
    audit(tmp_path / "out", clips)
    sizes = [len(list(fives.members(path))) for path in (tmp_path / "out" / "fives").iterdir()]
    assert sorted(sizes) == [2, 5, 5]
    metadata = json.loads((tmp_path / "out" / "metadata.json").read_text())
    assert metadata["identity"]["layout"] == "fives"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("fives", "ledger.jsonl", "metadata.json", ".extract")
    }


def test_its_features_are_those_of_any_layout(run, out, recordings, extract_folder):
    assert run() == 0
    archived = read_back(out)
    assert extract_folder(recordings, f"store.dir={out}-2", "loader.num_workers=0") == 0
    store = Store(Path(f"{out}-2"))
    assert len(archived) == NUM
    for record in ledger(store.directory):
        loaded = store.layout.read(store.layout.kept(record))
        torch.testing.assert_close(archived[record["id"]], loaded, atol=1e-5, rtol=0)


def test_another_layout_is_refused_in_its_store(run, out, capfd, extract_folder, recordings):
    assert run() == 0
    said(capfd)
    assert extract_folder(recordings) == 2
    assert "layout fives gpt_sovits" in said(capfd)
    audit(out, ids_of(recordings))


def test_a_layout_that_there_is_not_is_refused_with_those_that_there_are(
    run, capfd, elsewhere, extract_folder, recordings
):
    assert extract_folder(recordings, "store.layout=sixes") == 2
    output = said(capfd)
    assert "sixes" in output
    assert "gpt_sovits" in output
    assert "fives" in output


# --- interrupted ---------------------------------------------------------------------------------


def wait_for(condition, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.005)


@pytest.fixture
def waiting(recordings, elsewhere, out, tmp_path, monkeypatch):
    """A run in a process of its own that waits at a moment of the layout's."""

    def waiting(moment: object, *options: str):
        with monkeypatch.context() as patch:
            patch.setenv("FIVES_WAIT", str(moment))
            argv = ["dataset=folder", f"dataset.path={recordings}", f"store.dir={out}", *TINY]
            process = start([*argv, *OPTIONS, *options], tmp_path, tmp_path / "log")
        wait_for((tmp_path / "waiting").exists)
        return process

    return waiting


def test_what_was_held_at_a_kill_is_done_again_and_what_was_kept_is_not(
    waiting, run, out, recordings
):
    process = waiting(8)
    wait_for(lambda: len(ledger(out)) == 5)
    process.kill()
    process.join()
    first, before = {record["id"] for record in ledger(out)}, archives(out)
    assert set(read_back(out)) == first
    assert len(first) == 5
    assert run() == 0
    audit(out, ids_of(recordings))
    assert {name: archives(out)[name] for name in before} == before


def test_what_was_kept_without_a_line_at_a_kill_is_not_there_twice(waiting, run, out, recordings):
    process = waiting("kept")
    process.kill()
    process.join()
    assert len(read_back(out)) == 5
    assert ledger(out) == []
    assert run() == 0
    audit(out, ids_of(recordings))


def test_ctrl_c_keeps_what_is_held(waiting, run, out, recordings, tmp_path, monkeypatch):
    monkeypatch.setenv("FIVES_PUT", str(tmp_path / "put"))
    process = waiting(8, "store.num_writers=1", "loader.num_workers=0")
    os.killpg(process.pid, signal.SIGINT)
    (tmp_path / "go").touch()
    process.join(60)
    assert process.exitcode == 130
    put = (tmp_path / "put").read_text().split()
    assert 8 <= len(put) < NUM
    audit(out, set(put))
    before = archives(out)
    assert run() == 0
    audit(out, ids_of(recordings))
    assert {name: archives(out)[name] for name in before} == before


def test_a_full_disk_gives_what_is_held_no_line_and_no_file(run, out, recordings, monkeypatch):
    monkeypatch.setenv("FIVES_FULL", "8")
    assert run() == 1
    assert len(ledger(out)) == 5
    audit(out, {record["id"] for record in ledger(out)})
    monkeypatch.delenv("FIVES_FULL")
    assert run() == 0
    audit(out, ids_of(recordings))


# --- again ---------------------------------------------------------------------------------------


def test_a_second_run_does_nothing_again(run, out, capfd):
    assert run() == 0
    before = archives(out), ledger(out)
    assert run("store.verify=checksum") == 0
    assert (archives(out), ledger(out)) == before
    assert f"0 of {NUM} recordings to do" in said(capfd)


def test_an_archive_that_was_cut_costs_those_that_it_no_longer_holds(run, out, recordings, capfd):
    assert run() == 0
    path = next((out / "fives").iterdir())
    (*_, (third, offset), _fourth, _fifth) = fives.members(path)
    os.truncate(path, offset + third["bytes"])
    said(capfd)
    assert run() == 0
    assert f"2 of {NUM} recordings to do" in said(capfd)
    audit(out, ids_of(recordings))


def test_a_changed_byte_costs_one_utterance_and_only_a_checksum_sees_it(
    run, out, recordings, capfd
):
    assert run() == 0
    path = next((out / "fives").iterdir())
    *_, (member, offset), _fourth, _fifth = fives.members(path)
    with path.open("r+b") as file:
        file.seek(offset + member["bytes"] // 2)
        file.write(b"\x55\xaa\x55")
    said(capfd)
    assert run() == 0
    assert f"0 of {NUM} recordings to do" in said(capfd)
    assert run("store.verify=checksum") == 0
    assert f"1 of {NUM} recordings to do" in said(capfd)
    audit(out, ids_of(recordings))


def test_other_settings_replace_every_archive(run, out, recordings):
    assert run() == 0
    before = read_back(out)
    assert run("audio.alpha=0.25") == 2
    (recordings / "03.wav").unlink()
    assert run("audio.alpha=0.25", "overwrite=true") == 0
    audit(out, ids_of(recordings))
    assert set(read_back(out)) == set(before) - {"03.wav"}


def test_other_gates_drop_only_what_no_longer_passes(run, out, recordings):
    assert run() == 0
    before = {record["id"]: record for record in ledger(out)}
    assert run("audio.min_duration_s=0.3", "overwrite=true") == 0
    audit(out, ids_of(recordings))
    after = {record["id"]: record for record in ledger(out)}
    short = {id_ for id_, record in before.items() if record["duration_s"] < 0.3}
    assert 10 < len(short) < NUM
    assert {id_ for id_ in after if after[id_]["reason"] == "too_short"} == short
    assert {id_: before[id_] for id_ in before.keys() - short} == {
        id_: after[id_] for id_ in before.keys() - short
    }


def test_another_sharding_keeps_all_of_it(run, out, recordings, capfd):
    assert run() == 0
    before = archives(out)
    for index in range(2):
        assert run("shard.count=2", f"shard.index={index}") == 0
    assert archives(out) == before
    audit(out, ids_of(recordings))


def test_a_recording_that_has_changed_is_there_once(run, out, recordings):
    assert run() == 0
    write_wav(recordings / "07.wav", 0.4, 99)
    (recordings / "09.wav").write_bytes(b"no recording")
    assert run() == 1
    audit(out, ids_of(recordings))


def test_utterances_of_another_program_are_foreign(run, out, recordings, capfd):
    path = out / "fives" / "theirs.five"
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        for name in ("01.wav", "not among the recordings"):
            torch.save(torch.zeros(3, 2), out / "member")
            data = (out / "member").read_bytes()
            file.write(json.dumps({"id": name, "bytes": len(data)}).encode() + b"\n" + data)
    (out / "member").unlink()
    before = path.read_bytes()
    assert run() == 2
    output = said(capfd)
    assert "01.wav" in output
    assert "not among" not in output
    assert path.read_bytes() == before
    assert run("overwrite=true") == 0
    assert "of 2 utterance(s): 1 stay as they are, 1 are replaced" in said(capfd)
    found = read_back(out)
    assert set(found) == {*ids_of(recordings), "not among the recordings"}
    assert len(found["01.wav"]) != 3


def test_the_first_layout_keeps_the_names_that_it_had():
    assert (GptSovits.suffixes, GptSovits.folders) == ((".pt", ""), ("4-cnhubert", "5-wav32k"))
