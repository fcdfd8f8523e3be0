"""Any file of a store damaged in any way, then the same command: the truth, or a way out."""

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extract.app import main
from support import readers
from support.command import TINY
from support.layouts import words
from support.recordings import write_wav
from support.stores import files_of, is_per_utterance
from support.windows import is_disguised

NUM_EXAMPLES = int(os.environ.get("DAMAGED_STORES", "25"))  # more by hand; then not the same ones

GOOD = {"a.wav": 0.30, "b.wav": 0.47, "below/c.wav": 0.21}
REJECTED = {"short.wav": 0.01}
NUM_FOLDERS = 5  # of GPT-SoVITS's layout; others have fewer
KINDS = ("cut", "flip", "zero", "append", "delete", "other", "folder", "full folder")
KINDS += () if is_disguised() else ("pipe",)
LINKS = ("link to a copy", "link to a stranger", "link to nothing", "link within")


def folders_of(store: Path) -> list[str]:
    """The store's folders, its layout's first, that a link may take the place of."""
    layouts = [folder for folder in readers.opened(store).layout.folders if folder]
    below = [path.parent for path in map(Path, sorted(files_of(store))) if path.parent.name]
    deeper = [str(path) for path in dict.fromkeys(below) if str(path) not in layouts]
    return [*(folder for folder in layouts if (store / folder).exists()), *deeper, ".extract"]


def run(place: Path, store: Path, *options: str) -> int:
    options = (*TINY, "loader.num_workers=0", "store.num_writers=1", "store.fsync=false", *options)
    return main(["dataset=folder", f"dataset.path={place / 'in'}", f"store.dir={store}", *options])


@pytest.fixture(scope="module")
def place(tmp_path_factory, layout) -> Path:
    """Recordings, and a finished store of them."""
    place = tmp_path_factory.mktemp("damage")
    for seed, (name, seconds) in enumerate((GOOD | REJECTED).items()):
        write_wav(place / "in" / name, seconds, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["extract"])
        patch.chdir(place)
        assert run(place, place / "whole", *words(layout)) == 0
    return place


def all_files(store: Path) -> list[str]:
    return sorted(str(p.relative_to(store)) for p in store.rglob("*") if p.is_file())


def seen(folder: Path) -> dict[str, tuple]:
    """All of a folder that a run might change."""
    found = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        data = path.readlink() if path.is_symlink() else path.is_file() and path.read_bytes()
        name = str(path.relative_to(folder))
        found[name] = (status.st_ino, status.st_mode, status.st_mtime_ns, data)
    return found


def damage(path: Path, kind: str, at: float, store: Path, outside: Path) -> None:
    """Damages what is at `path`, at some share of its length."""
    data = bytearray(path.read_bytes())
    where = min(int(at * len(data)), max(0, len(data) - 1))
    others = [store / name for name in all_files(store) if store / name != path]
    path.unlink()
    if kind == "cut":
        path.write_bytes(data[:where])
    elif kind == "flip":
        if data:
            data[where] ^= 1 << int(at * 8e4) % 8
        path.write_bytes(data)
    elif kind == "zero":
        path.write_bytes(data[:where] + bytes(len(data) - where))
    elif kind == "append":
        path.write_bytes(data + data[where:] + b"more")
    elif kind == "other":
        path.write_bytes(others[int(at * len(others))].read_bytes())
    elif kind in ("folder", "full folder"):
        path.mkdir()
        if kind == "full folder":
            (path / "mine").write_text("mine")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link to a copy":
        copy = outside / f"copy of {path.name}"
        copy.write_bytes(data)
        path.symlink_to(copy)
    elif kind == "link to a stranger":
        path.symlink_to(outside / "victim")
    elif kind == "link to nothing":
        path.symlink_to(outside / "nothing")
    elif kind == "link within":
        path.symlink_to(others[int(at * len(others))])


def assert_the_truth(store: Path, whole: Path, blocked: set[str]) -> None:
    """Every utterance once; what is saved is what an undamaged store holds."""
    lines = [
        json.loads(line)
        for path in store.glob("ledger*.jsonl")
        for line in path.read_text("utf8").splitlines()
    ]
    records = {line["id"]: line for line in lines}
    counted = Counter(line["id"] for line in lines)
    assert {name: counted[name] for name in GOOD | REJECTED} == dict.fromkeys(GOOD | REJECTED, 1)
    strangers = set(counted) - set(GOOD | REJECTED)  # an id that was damaged may still be one
    assert not {name for name in strangers if records[name]["status"] == "saved"}
    for name in REJECTED:
        assert (records[name]["status"], records[name]["reason"]) == ("rejected", "too_short")
    expected, found = readers.read(whole), readers.read(store)
    for name in GOOD:
        if name in blocked:
            assert (records[name]["status"], records[name]["reason"]) == ("failed", "write_failed")
            continue
        assert records[name]["status"] == "saved", records[name]
        for file, *_ in records[name]["files"]:
            assert not (store / file).is_symlink()
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=0)
        for wav in {f"5-wav32k/{name}"} & set(files_of(whole)):
            assert (store / wav).read_bytes() == (whole / wav).read_bytes()
            assert soundfile.info(store / wav).samplerate == 32_000


DAMAGES = st.lists(
    st.tuples(
        st.integers(0, 99), st.sampled_from(KINDS + LINKS), st.floats(0, 1, exclude_max=True)
    ),
    min_size=1,
    max_size=3,
)


@pytest.mark.slow
@pytest.mark.fault(
    "any file of a store cut, flipped, zeroed, deleted, or replaced by another's, a link, a folder",
    "mended by the same command, or refused with the way out; nothing outside is touched",
)
@given(damages=DAMAGES, folder=st.sampled_from([None] * 6 + list(range(NUM_FOLDERS))))
@settings(
    max_examples=NUM_EXAMPLES,
    deadline=None,
    derandomize="DAMAGED_STORES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
def test_a_damaged_store_is_mended_or_refused_with_a_way_out(
    place, tmp_path_factory, monkeypatch, capfd, layout, damages, folder
):
    work = tmp_path_factory.mktemp("work")
    monkeypatch.chdir(work)
    monkeypatch.setattr("sys.argv", ["extract"])
    outside, store = work / "outside", work / "store"
    shutil.copytree(place / "whole", store)
    outside.mkdir()
    (outside / "victim").write_text("mine")
    names_of = readers.opened(store).layout.names if is_per_utterance(store) else lambda name: ()
    folders = folders_of(store)
    folder = None if folder is None else folders[folder % len(folders)]
    for number, kind, at in damages:
        names = all_files(store)
        path = store / names[number % len(names)]
        if not path.is_symlink():
            damage(path, kind, at, store, outside)
    if folder is not None:
        (store / folder).rename(outside / "folder")
        (store / folder).symlink_to(outside / "folder")
    before = seen(outside), seen(place / "in")
    again = *words(layout), "store.verify=checksum"
    code = run(place, store, *again)
    said = capfd.readouterr().err.replace("\n", " ")
    if code == 2 and "overwrite=true" in said:
        code = run(place, store, *again, "overwrite=true")
        said = capfd.readouterr().err.replace("\n", " ")
    assert (seen(outside), seen(place / "in")) == before
    assert "Traceback" not in said
    assert code in (0, 1, 2), said
    if code == 2 or "stopped:" in said:
        assert "move" in said or "put a real folder there" in said, said
    else:
        blocked = {
            name
            for name in GOOD
            if any((store / file).is_dir() for file in names_of(name))
            or (folder and folder.endswith("below") and name.startswith("below/"))
        }
        assert code == (1 if blocked else 0), said
        assert_the_truth(store, place / "whole", blocked)
    shutil.rmtree(work)
