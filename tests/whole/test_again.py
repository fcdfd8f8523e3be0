"""Runs into a store of any layout that exists: what holds is kept, the rest replaced, once each."""

import shutil
from pathlib import Path

import pytest
import torch

from extract.app import main
from support import readers
from support.command import TINY
from support.layouts import words
from support.recordings import write_wav
from support.stores import audit, contents, files_of, ids_of, ledger

NUM = 8


@pytest.fixture(scope="module")
def whole(layout, tmp_path_factory) -> Path:
    """A folder with recordings in `in` and a finished store of them in `out`."""
    place = tmp_path_factory.mktemp("again")
    for number in range(NUM):
        name = f"below/{number}.wav" if number % 4 == 0 else f"{number}.wav"
        write_wav(place / "in" / name, 0.2 + 0.05 * number, number)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["extract"])
        patch.chdir(place)
        assert main(arguments(layout)) == 0
    return place


def arguments(layout: str, *more: str) -> list[str]:
    where = ["dataset=folder", "dataset.path=in", *words(layout), "store.dir=out"]
    return [*where, *TINY, "loader.num_workers=0", *more]


@pytest.fixture
def run(command, whole, layout, tmp_path):
    """Runs the same command on a copy of `whole`."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    for name in ("metadata.json", "ledger.jsonl"):  # recordings are where they were
        path = tmp_path / "out" / name
        path.write_text(path.read_text().replace(str(whole), str(tmp_path)))
    return lambda *more: command(*arguments(layout, *more))


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def recordings(tmp_path) -> Path:
    return tmp_path / "in"


def said(capfd) -> str:
    captured = capfd.readouterr()
    return " ".join((captured.out + captured.err).split())


def stamps(store: Path) -> dict[str, tuple[int, int]]:
    """Each file's inode and time: whether it was written again."""
    status = {name: (store / name).stat() for name in files_of(store)}
    return {name: (some.st_ino, some.st_mtime_ns) for name, some in status.items()}


def test_a_second_run_does_nothing_again(run, out, recordings, capfd):
    before = stamps(out), ledger(out)
    assert run("store.verify=checksum") == 0
    assert (stamps(out), ledger(out)) == before
    assert f"0 of {NUM} recordings to do" in said(capfd)
    audit(out, ids_of(recordings))


def test_other_settings_replace_every_utterance(run, out, recordings):
    before = readers.read(out)
    assert run("model.layer=1") == 2
    (recordings / "3.wav").unlink()
    assert run("model.layer=1", "overwrite=true") == 0
    audit(out, ids_of(recordings))
    after = readers.read(out)
    assert set(after) == set(before) - {"3.wav"}
    assert not any(torch.equal(after[id_], before[id_]) for id_ in after)


def test_other_gates_drop_only_what_no_longer_passes(run, out, recordings):
    before, features = {record["id"]: record for record in ledger(out)}, readers.read(out)
    assert run("audio.min_duration_s=0.38", "overwrite=true") == 0
    audit(out, ids_of(recordings))
    short = {record["id"] for record in ledger(out) if record["reason"] == "too_short"}
    assert short == {id_ for id_ in before if before[id_]["duration_s"] < 0.38}
    assert 2 < len(short) < NUM
    found = readers.read(out)
    assert found.keys() == before.keys() - short
    assert all(torch.equal(found[id_], features[id_]) for id_ in found)


def test_another_sharding_keeps_all_of_it(run, out, recordings):
    before = stamps(out)
    for index in range(2):
        assert run("shard.count=2", f"shard.index={index}") == 0
    assert stamps(out) == before
    audit(out, ids_of(recordings))


def test_a_recording_that_has_changed_is_there_once(run, out, recordings):
    before = readers.read(out)
    write_wav(recordings / "5.wav", 0.4, 99)
    (recordings / "6.wav").write_bytes(b"no recording")
    assert run() == 1
    audit(out, ids_of(recordings))
    after = readers.read(out)
    assert before.keys() - after.keys() == {"6.wav"}
    assert {id_ for id_ in after if not torch.equal(after[id_], before[id_])} == {"5.wav"}


def test_an_utterance_without_a_line_is_there_once(run, out, recordings):
    """As a kill leaves it between the file and its line."""
    before = contents(out)
    [path] = out.glob("ledger*.jsonl")
    path.write_text("".join(path.read_text("utf8").splitlines(keepends=True)[:3]))
    (out / ".extract" / "unfinished-0-of-1").touch()  # the note of a run that was cut short
    assert run() == 0
    audit(out, ids_of(recordings))
    assert contents(out).keys() == before.keys()


def test_utterances_of_another_program_are_foreign(run, out, recordings, capfd):
    for path in (*out.glob("ledger*"), out / "metadata.json"):
        path.unlink()
    shutil.rmtree(out / ".extract")
    (recordings / "7.wav").unlink()
    code = run()
    output = said(capfd)
    if code == 2:  # a layout that lives in a tool's own folder replaces them without being asked
        assert "7.wav" not in output
        assert "have the names of 7 recordings of this run" in output
        assert run("overwrite=true") == 0
        output = said(capfd)
    assert f"of {NUM} utterance(s): 1 stay as they are, {NUM - 1} are replaced" in output
    found = readers.read(out)
    assert found.keys() == ids_of(recordings) | {"7.wav"}
