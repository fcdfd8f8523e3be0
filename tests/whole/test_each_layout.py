"""Four faults on every layout there is: SIGKILL, Ctrl-C, a full disk, damage at rest.

Also what docs/layouts.md says of how each is read.

`tests/whole/test_faults.py` and `tests/whole/test_damage.py` have all faults.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from extract.app import main
from extract.files import Temporary
from extract.store import writers
from support import readers
from support.command import TINY, start
from support.disks import tmpfs
from support.layouts import VARIANTS, name_of, words
from support.recordings import write_wav
from support.stores import audit, contents, files_of, ids_of, is_per_utterance, ledger

pytestmark = [
    pytest.mark.each_layout,
    pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals"),
]

PAGE = Path(__file__).parents[2] / "docs" / "layouts.md"
NUM = 12
SMALL = ("loader.num_workers=0", "loader.batch_seconds=0.6", "store.num_writers=1")


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """Recordings of different lengths, one in a folder below."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(NUM):
        name = f"below/{number}.wav" if number == 3 else f"{number}.wav"
        write_wav(folder / name, 0.2 + 0.02 * number, number)
    return folder


@pytest.fixture(scope="module")
def options(clips, layout):
    """The arguments of a run over the clips into a store of the layout."""

    def options(store: Path, *more: str) -> list[str]:
        where = [f"dataset.path={clips}", *words(layout), f"store.dir={store}"]
        return ["dataset=folder", *where, *TINY, *SMALL, "store.fsync=false", *more]

    return options


@pytest.fixture(scope="module")
def whole(options, clips, layout, tmp_path_factory) -> Path:
    """A store that no fault has met."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["extract"])
        patch.chdir(clips)
        store = tmp_path_factory.mktemp("whole") / layout
        assert main(options(store)) == 0
    return store


@pytest.fixture
def run(options, command, tmp_path):
    """Runs the same command in this process."""
    return lambda *more, store=tmp_path / "out": command(*options(store, *more))


@pytest.fixture
def held(options, tmp_path, monkeypatch):
    """Starts a run that is held within the save of its fifth utterance, until `let_go`.

    Its files are then written and have no names yet; of a layout of archives it is held after it.
    """
    save, publish, waits = writers.Writers._save, Temporary.publish, tmp_path / "waits"

    def wait() -> None:
        if len(saved) == 5 and not waited:
            waited.append(waits.touch())
            while waits.exists():
                time.sleep(0.005)

    def saving(self, item) -> None:
        saved.append(item)
        save(self, item)
        wait()

    def publishing(self) -> None:
        wait()
        publish(self)

    saved, waited = [], []
    with monkeypatch.context() as patch:
        patch.setattr(writers, "MAX_QUEUED_PER_WRITER", 1)
        patch.setattr(writers.Writers, "_save", saving)
        patch.setattr(Temporary, "publish", publishing)
        process = start(options(tmp_path / "out"), tmp_path)
    while not waits.exists():
        assert process.is_alive()
        process.join(0.01)
    process.let_go = waits.unlink
    yield process
    process.kill()


def assert_finished(store: Path, whole: Path, clips: Path) -> None:
    """What a store holds is to the byte what it would hold if there had been no fault."""
    audit(store, ids_of(clips))
    assert contents(store) == contents(whole)


def test_sigkill_then_the_same_command_equals_one_run(held, run, whole, clips, tmp_path):
    held.kill()
    held.join()
    assert len(ledger(tmp_path / "out")) < NUM
    assert run() == 0
    assert_finished(tmp_path / "out", whole, clips)


def test_ctrl_c_saves_what_is_under_way_and_the_same_command_goes_on(
    held, run, whole, clips, tmp_path
):
    store = tmp_path / "out"
    os.killpg(held.pid, signal.SIGINT)
    held.let_go()
    held.join(60)
    assert held.exitcode == 130
    done = {record["id"] for record in ledger(store)}
    assert 5 <= len(done) < NUM
    audit(store, done)
    assert run() == 0
    assert_finished(store, whole, clips)


def test_a_full_disk_stops_the_run_and_room_lets_it_go_on(run, whole, clips, tmp_path, capfd):
    with tmpfs(tmp_path / "disk", "size=10m"):
        assert run(store=tmp_path / "disk" / "out") == 0
        room = os.statvfs(tmp_path / "disk")
        pages = room.f_blocks - room.f_bfree
    with tmpfs(tmp_path / "small", f"size={4 * (pages - 3)}k"):
        store = tmp_path / "small" / "out"
        assert run(store=store) == 1
        assert "the disk is full" in " ".join(capfd.readouterr().err.split())
        done = {record["id"] for record in ledger(store)}
        assert len(done) < NUM
        audit(store, done)
        subprocess.run(["mount", "-o", "remount,size=10m", tmp_path / "small"], check=True)
        assert run(store=store) == 0
        assert_finished(store, whole, clips)


def cut(path: Path, data: bytes) -> None:
    path.write_bytes(data[:-1])


def flip(path: Path, data: bytes) -> None:
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def delete(path: Path, data: bytes) -> None:
    path.unlink()


def link(path: Path, data: bytes) -> None:
    path.unlink()
    path.symlink_to(path.parent / "nowhere")


@pytest.mark.parametrize("damage", [cut, flip, delete, link])
def test_a_damaged_file_is_found_and_its_utterances_are_done_again(
    run, whole, clips, tmp_path, damage
):
    store = tmp_path / "out"
    shutil.copytree(whole, store)
    name = min(files_of(store) - readers.INDICES.get(readers.layout_of(store), set()))
    damage(store / name, (store / name).read_bytes())
    assert run("store.verify=checksum") == 0
    audit(store, ids_of(clips))
    torch.testing.assert_close(readers.read(store), readers.read(whole), atol=1e-5, rtol=0)


def test_the_page_reads_a_store_as_it_is(whole, layout):
    """docs/layouts.md has a section of each layout that begins with its reader."""
    section = PAGE.read_text("utf8").split(f"## `store={name_of(layout)}`\n")[1].split("\n## ")[0]
    if not is_per_utterance(whole):
        return  # its own tests run it
    example = section.split("```python\n")[1 + (layout in VARIANTS)].split("```")[0]
    for shown, real in (("STORE", str(whole)), ("a.wav", "0.wav")):
        assert shown in example
        example = example.replace(shown, real)
    names: dict = {}
    exec(example, names)
    found = torch.tensor(names["features"].tolist())
    [said] = re.findall(r"\((1, dimensions, frames|frames, dimensions)\)", example)
    features = readers.read(whole)["0.wav"]
    assert torch.equal(found, features.mT if said.startswith("1") else features[0])
