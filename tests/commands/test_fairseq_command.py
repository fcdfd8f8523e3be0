"""`extract fairseq`: what fairseq's k-means scripts read, in the order of the list."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from extract.commands import fairseq

LENGTHS = {"a.wav": 3, "deep/b.wav": 1, "c.wav": 4, "bad.wav": None, "e.wav": 2}
ORDER = ["c.wav", "bad.wav", "a.wav", "e.wav", "deep/b.wav"]


def features(name: str) -> np.ndarray:
    rows = LENGTHS[name] or 0
    return np.arange(rows * 6, dtype=np.float32).reshape(rows, 6) + 100 * ORDER.index(name)


def record(name: str) -> dict:
    if LENGTHS[name] is None:
        return {"id": name, "path": name, "status": "failed", "reason": "undecodable"}
    files = [[f"{name}.npy", 0, 1, 1]]
    return {
        "id": name,
        "path": name,
        "status": "saved",
        "num_frames": LENGTHS[name],
        "files": files,
    }


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., int]:
    """Runs the command over a store and the list of it, `train.tsv`, into `feat`."""
    store = tmp_path / "store"
    for name, length in LENGTHS.items():
        if length is not None:
            (store / f"{name}.npy").parent.mkdir(parents=True, exist_ok=True)
            np.save(store / f"{name}.npy", features(name))
    lines = [json.dumps(record(name)) + "\n" for name in LENGTHS]
    (store / "ledger.0-of-2.jsonl").write_text("".join(lines[:2]))
    (store / "ledger.1-of-2.jsonl").write_text("".join(lines[2:]))
    tsv = "".join(f"{name}\t16000\n" for name in ORDER)
    (tmp_path / "train.tsv").write_text(f"{tmp_path}\n{tsv}")
    places = [str(tmp_path / name) for name in ("store", "train.tsv", "feat")]
    return lambda *options: fairseq.main([*places, *options])


def read_as_fairseq(folder: Path, rank: int, nshard: int) -> list[np.ndarray]:
    """`get_feat_iterator` of fairseq's `dump_km_label.py`."""
    name = f"{folder}/train_{rank}_{nshard}"
    with open(f"{name}.len") as file:
        lengths = [int(line.rstrip()) for line in file]
    offsets = [0, *np.cumsum(lengths[:-1]).tolist()]
    found = np.load(f"{name}.npy", mmap_mode="r")
    assert found.shape[0] == offsets[-1] + lengths[-1]
    assert found.dtype == np.float32
    return [
        found[offset : offset + length] for offset, length in zip(offsets, lengths, strict=True)
    ]


@pytest.mark.parametrize(("nshard", "shards"), [(1, [(0, 5)]), (2, [(0, 2), (2, 5)])])
def test_each_shard_holds_its_lines_of_the_list_and_those_without_features_0_frames(
    run, tmp_path, capsys, nshard, shards
):
    """Shards end at `round(5 / 2 * rank)`, half to even: 2, as fairseq's `get_shard_range`."""
    assert run("--nshard", str(nshard)) == 1
    for rank, (start, end) in enumerate(shards):
        found = read_as_fairseq(tmp_path / "feat", rank, nshard)
        assert len(found) == end - start
        for name, ours in zip(ORDER[start:end], found, strict=True):
            assert np.array_equal(ours, features(name)), name
    out, err = capsys.readouterr()
    assert f"train_0_{nshard}.npy: " in out
    assert err.startswith("1 line of ")
    assert "extract show" in err
    assert len([*(tmp_path / "feat").iterdir()]) == 2 * nshard


def test_all_is_well_where_every_line_has_features(run, tmp_path, capsys):
    lines = [line for line in ORDER if line != "bad.wav"]
    tsv = "".join(f"{name}\t16000\n" for name in lines)
    (tmp_path / "train.tsv").write_text(f"{tmp_path}\n{tsv}")
    assert run() == 0
    assert capsys.readouterr().err == ""
    assert (tmp_path / "feat" / "train_0_1.len").read_text() == "4\n3\n2\n1\n"


def refused(run: Callable[..., int], capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert run(*options) == 2
    return capsys.readouterr().err


def test_what_cannot_be_done_is_said_and_nothing_is_written(run, tmp_path, capsys):
    for num in ("5", "6", "0", "-1"):  # of five, one would have the bad recording alone
        said = f"--nshard {num}: 5 lines; needed shards that each have an utterance with features"
        assert said in refused(run, capsys, "--nshard", num)
    assert not (tmp_path / "feat").exists()
    np.save(tmp_path / "store" / "a.wav.npy", np.zeros((2, 3, 6)))
    assert "3 axes; needed frames and dimensions" in refused(run, capsys)
    np.save(tmp_path / "store" / "a.wav.npy", np.zeros((2, 6)))
    assert "shape (2, 6); needed (3, 6)" in refused(run, capsys)
    assert not [*(tmp_path / "feat").glob("train*_0_1*")]
    (tmp_path / "store" / "a.wav.npy").unlink()
    assert "a.wav.npy: cannot be read: " in refused(run, capsys)
    (tmp_path / "store" / "a.wav.npy").write_bytes(b"\x93NUMPY")
    assert "a.wav.npy: cannot be read: " in refused(run, capsys)
    for path in (tmp_path / "store").glob("ledger*"):
        path.unlink()
    assert "needed the folder of a run with store=npy" in refused(run, capsys)


def test_a_folder_that_cannot_be_written_to_is_named(run, tmp_path, capsys):
    (tmp_path / "feat").write_text("")
    assert run() == 1
    assert f"{tmp_path}/feat" in capsys.readouterr().err
