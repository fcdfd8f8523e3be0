"""Runs into archives, and what befalls them: their readers find every saved utterance, once."""

import io
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import soundfile
import torch

from extract import files
from extract.shard import Shard
from extract.store import writers
from extract.store.archives import Archives
from support.archives import OPTIONS, READERS, archives, audit, blocks, samples
from support.command import TINY, start
from support.recordings import write_wav
from support.stores import ids_of, ledger

NUM = 14
SMALL = ["loader.num_workers=0", "loader.batch_seconds=1", "store.num_writers=2"]
FEW = {"kaldi": 0.012, "webdataset": 0.1}  # MB: some four utterances an archive


@pytest.fixture(params=list(READERS))
def kind(request) -> str:
    return request.param


@pytest.fixture
def recordings(tmp_path) -> Path:
    """Short ones, no two alike; some have names that need care."""
    names = ["my file.wav", "below.1/a.b.wav", "below.1/__c__.wav", "__d__/e.wav", "100%20.wav"]
    names += [f"{number:02}.wav" for number in range(NUM - len(names))]
    for number, name in enumerate(names):
        write_wav(tmp_path / "in" / name, 0.3 + 0.01 * number, number)
    return tmp_path / "in"


def argv(recordings: Path, store: Path, kind: str, *options: str) -> list[str]:
    where = [f"dataset.path={recordings}", f"store={kind}", f"store.dir={store}"]
    small = [*SMALL, "store.fsync=false", f"store.{OPTIONS[kind]}={FEW[kind]}"]
    return ["dataset=folder", *where, *TINY, *small, *options]


@pytest.fixture
def run(command, recordings, tmp_path, kind):
    """Runs the command in this process, into `out`."""
    return lambda *options: command(*argv(recordings, tmp_path / "out", kind, *options))


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def whole(run, out, recordings, kind) -> dict[str, bytes]:
    """The blocks of a store that no fault has met."""
    assert run() == 0
    audit(out, kind, ids_of(recordings))
    return blocks(out)


@pytest.fixture
def said(capfd):
    def said() -> str:
        output = " ".join(capfd.readouterr().err.split())
        assert "Traceback" not in output
        return output

    return said


def state(store: Path, kind: str) -> dict[str, tuple[int, int]]:
    found = {path.name: path.stat() for path in archives(store, kind)}
    return {name: (some.st_ino, some.st_mtime_ns) for name, some in found.items()}


# --- what is written -----------------------------------------------------------------------------


def test_what_a_run_writes_is_what_any_layout_holds_and_a_second_run_finds_it(
    whole, run, out, kind, recordings, extract_folder, said
):
    assert extract_folder(recordings, f"store.dir={out}-2", "loader.num_workers=0") == 0
    found = READERS[kind](out)
    assert len(archives(out, kind)) > 2
    for path in (Path(f"{out}-2") / "4-cnhubert").rglob("*.pt"):
        id_ = str(path.relative_to(f"{out}-2/4-cnhubert")).removesuffix(".pt")
        expected = torch.load(path, weights_only=True).mT
        torch.testing.assert_close(found.pop(id_), expected, atol=1e-5, rtol=0)
    assert not found
    before = state(out, kind)
    assert run("store.verify=checksum") == 0
    assert f"0 of {NUM} recordings to do" in said()
    assert state(out, kind) == before
    (out / "ledger.jsonl").unlink()
    assert run() == 2
    assert "files that no ledger names have the names of" in said()
    assert state(out, kind) == before


def test_a_tar_has_layers_audio_and_json(command, recordings, out):
    assert command(*argv(recordings, out, "webdataset", "model.layer=[1,2]")) == 0
    audit(out, "webdataset", ids_of(recordings))
    found = samples(out)
    assert len(found) == NUM
    for sample in found:
        about = sample["json"]
        assert list(about) == ["id", "duration", "num_frames", "dtype", "source", "extra"]
        assert about["source"] == str(recordings / about["id"])
        assert sample["npy"].shape == (2, about["num_frames"], 32)
        samples_, rate = soundfile.read(io.BytesIO(sample["wav"]), dtype="int16")
        assert (rate, samples_.ndim) == (32_000, 1)
        assert len(samples_) / rate == pytest.approx(about["duration"], abs=1e-3)


def test_an_ark_holds_one_layer(command, recordings, out, said):
    assert command(*argv(recordings, out, "kaldi", "model.layer=[1,2]")) == 2
    assert "holds one layer" in said()


# --- killed --------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("moment", ["published", "lines"])
@pytest.mark.fault(
    "SIGKILL once an archive has its name, and while its lines are written",
    "what has no line is done again; read back by kaldiio and webdataset, each utterance once",
)
def test_a_killed_run_goes_on(run, out, kind, recordings, tmp_path, monkeypatch, moment):
    """The process that is killed stops at its moment and waits for the signal."""

    def wait() -> None:
        (tmp_path / "waiting").touch()
        time.sleep(60)

    def stop_at(owner, name: str, when) -> None:
        call = getattr(owner, name)

        def stopping(self, *args, **kwargs):
            result = call(self, *args, **kwargs)
            if when(result):
                wait()
            return result

        monkeypatch.setattr(owner, name, stopping)

    done = []
    with monkeypatch.context():
        if moment == "published":
            stop_at(files.Temporary, "publish", lambda _: done.append(1) or len(done) == 2)
        else:
            stop_at(writers.Writers, "_record", lambda _: done.append(1) or len(done) == 6)
        process = start(argv(recordings, out, kind, "store.num_writers=1"), tmp_path)
    monkeypatch.undo()
    while not (tmp_path / "waiting").exists():
        assert process.is_alive()
        process.join(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    saved = {record["id"] for record in ledger(out)}
    assert len(saved) < NUM
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["extract"])
    before = blocks(out)
    assert run() == 0
    audit(out, kind, ids_of(recordings))
    assert before.items() <= blocks(out).items(), "what had its line was not done again"


# --- again ---------------------------------------------------------------------------------------


@pytest.mark.fault(
    "recordings in archives that changed, or are none any more",
    "their archives are rewritten without them, then they are done again; each read once",
)
def test_changed_recordings_are_there_once_and_bad_ones_no_longer(
    whole, run, out, kind, recordings
):
    write_wav(recordings / "07.wav", 0.5, 99)
    write_wav(recordings / "my file.wav", 0.5, 98)
    (recordings / "02.wav").write_bytes(b"no recording")
    assert run() == 1
    found = audit(out, kind, ids_of(recordings))
    assert "02.wav" not in found
    assert found["07.wav"].shape[1] == found["my file.wav"].shape[1] == 24
    after = blocks(out)
    same = whole.keys() - {"02.wav", "07.wav", "my file.wav"}
    assert {id_: after[id_] for id_ in same} == {id_: whole[id_] for id_ in same}


def test_other_gates_take_out_what_no_longer_passes_and_other_settings_replace_all(
    whole, run, out, kind, recordings
):
    assert run("audio.min_duration_s=0.35", "overwrite=true") == 0
    found = audit(out, kind, ids_of(recordings))
    assert 5 < len(found) < NUM
    assert blocks(out) == {id_: whole[id_] for id_ in found}
    before = state(out, kind)
    assert run("audio.scale=1000") == 2
    assert state(out, kind) == before
    (recordings / "03.wav").unlink()
    assert run("audio.scale=1000", "overwrite=true") == 0
    assert len(audit(out, kind, ids_of(recordings))) == NUM - 1
    assert not before.keys() & state(out, kind).keys()


@pytest.mark.fault(
    "archives of a store cut, deleted, or a byte of one changed",
    "only what it held is done again; the others stay as they are",
)
def test_damaged_archives_cost_what_they_held(whole, run, out, kind, recordings, said):
    cut, flipped, deleted = archives(out, kind)[:3]
    held = {record["id"]: record["files"][0] for record in ledger(out)}

    def last(path: Path) -> tuple[str, int, int]:
        inside = {id_: file for id_, file in held.items() if Path(file[0]).name == path.name}
        id_, (_name, offset, size, _crc) = max(inside.items(), key=lambda one: one[1][1])
        return id_, offset, size

    lost = {id_ for id_, file in held.items() if Path(file[0]).name == deleted.name}
    id_, offset, size = last(cut)
    os.truncate(cut, offset + size - 5)
    lost.add(id_)
    id_, offset, size = last(flipped)
    with flipped.open("r+b") as file:
        file.seek(offset + size // 2)
        file.write(b"\x55\xaa\x55")
    lost.add(id_)
    deleted.unlink()
    said()
    assert run("store.verify=checksum") == 0
    assert f"{len(lost)} of {NUM} recordings to do" in said()
    audit(out, kind, ids_of(recordings))
    after = blocks(out)
    assert after.keys() == whole.keys()
    assert {id_ for id_ in whole if after[id_] != whole[id_]} <= lost


# --- shards --------------------------------------------------------------------------------------


def test_two_shards_write_archives_of_their_own_and_one_list(run, out, kind, recordings):
    for index in range(2):
        assert run("shard.count=2", f"shard.index={index}") == 0
    found = audit(out, kind, ids_of(recordings))
    assert len(found) == NUM
    assert {path.name[:6] for path in archives(out, kind)} == {"0-of-2", "1-of-2"}


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.fault(
    "recordings that changed in archives of two shards, both at work",
    "each is blank at once in its archive, which a later run makes smaller; each read once",
)
def test_an_archive_that_two_running_shards_share_loses_what_changed(
    whole, run, out, kind, recordings, tmp_path, monkeypatch, said
):
    changed = ["07.wav", "02.wav", "my file.wav", "05.wav"]
    for name in changed:
        write_wav(recordings / name, 0.5, 99)
    put = Archives.put

    def held(self, item):
        (tmp_path / "waiting").touch()
        while not (tmp_path / "go").exists():
            time.sleep(0.005)
        return put(self, item)

    with monkeypatch.context() as patch:
        patch.setattr(Archives, "put", held)
        options = argv(recordings, out, kind, "shard.count=2", "shard.index=1")
        process = start(options, tmp_path)
    while not (tmp_path / "waiting").exists():
        assert process.is_alive()
        process.join(0.01)
    try:
        said()
        assert run("shard.count=2", "shard.index=0") == 0
        mine = sum(Shard(0, 2).owns(name) for name in changed)
        assert f"{mine} of" in said()
    finally:
        (tmp_path / "go").touch()
        process.join(60)
    assert process.exitcode == 0
    if kind == "webdataset":
        assert READERS[kind](out).keys() == ids_of(recordings)
    assert run("shard.count=2", "shard.index=0") == 0
    found = audit(out, kind, ids_of(recordings))
    assert {found[name].shape[1] for name in changed} == {24}
    assert run() == 0
    audit(out, kind, ids_of(recordings))
