"""Files are read as torch and NumPy read them, the first of a shape and those after it."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from extract.store import loading
from extract.store.loading import load_features, load_npy

BOTH = pytest.mark.parametrize("mapped", [False, True])


@pytest.fixture(autouse=True)
def nothing_known():
    loading._heads.clear()
    loading._starts.clear()


def save(path: Path, seed: int, shape=(1, 8, 5), dtype=torch.float32, **options) -> torch.Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    torch.save(values, path, **options)
    return values


def refuse_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("torch.load was called")

    monkeypatch.setattr(torch, "load", refused)


@BOTH
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_of_each_shape_torch_reads_the_first_file(tmp_path, monkeypatch, mapped, dtype):
    path, shapes = tmp_path / "a.pt", [(1, 8, 5), (1, 8, 6), (1, 5, 8)]
    for shape in shapes:
        values = save(path, 0, shape, dtype)
        assert torch.equal(load_features(str(path), mapped=mapped), values.mT)
    for seed, shape in enumerate(shapes, 1):
        values = save(path, seed, shape, dtype)
        with monkeypatch.context() as patched:
            refuse_torch(patched)
            found = load_features(str(path), mapped=mapped)
        assert found.dtype == dtype
        assert torch.equal(found, values.mT)


@BOTH
def test_what_is_read_is_ones_own(tmp_path, mapped):
    for name, load in (("a.pt", load_features), ("a.npy", load_npy)):
        path = tmp_path / name
        for seed in range(2):
            values = save(path, seed)[0]
            if name == "a.npy":
                np.save(path, values.numpy())
            before = path.read_bytes()
            found = load(str(path), mapped=mapped)
            found.add_(1)
            assert path.read_bytes() == before
            assert not torch.equal(load(str(path), mapped=mapped), found)


def test_a_file_with_a_known_head_is_still_looked_at_whole(tmp_path):
    path = tmp_path / "a.pt"
    save(path, 0)
    load_features(str(path))
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:750], b"PK" + whole[3:], whole[:200]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a\.pt: cannot be read: "):
            load_features(str(path))


def test_other_archives_of_torchs_are_read_by_torch(tmp_path):
    path = tmp_path / "a.pt"
    for seed in range(2):
        values = save(path, seed, _use_new_zipfile_serialization=False)
        assert torch.equal(load_features(str(path)), values.mT)
        values = torch.randn(1, 5, 8).mT
        torch.save(values, path)
        assert torch.equal(load_features(str(path)), values.mT)
        values = save(tmp_path / "b.pt", seed)
        with zipfile.ZipFile(tmp_path / "b.pt") as source, zipfile.ZipFile(path, "w") as target:
            for name in source.namelist():
                target.writestr(name, source.read(name), zipfile.ZIP_STORED)
        assert torch.equal(load_features(str(path)), values.mT)
    torch.save({"values": values}, path)
    with pytest.raises(ValueError, match="needed a tensor"):
        load_features(str(path))


def test_few_heads_are_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "MAX_HEADS", 3)
    for frames in range(1, 9):
        path = tmp_path / f"{frames}.pt"
        values = save(path, frames, (1, 4, frames))
        for _ in range(2):
            assert torch.equal(load_features(str(path)), values.mT)
        assert len(loading._heads) <= 3


@BOTH
@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4"])
@pytest.mark.parametrize("shape", [(5, 8), (2, 5, 8)])
def test_arrays_are_numpys(tmp_path, mapped, dtype, shape):
    path = tmp_path / "a.npy"
    rng = np.random.default_rng(0)
    for values in (rng.random(shape), rng.random(shape[::-1]).T):
        np.save(path, values.astype(dtype))
        found = load_npy(str(path), mapped=mapped).numpy()
        assert np.array_equal(found.reshape(shape), np.load(path))


@BOTH
def test_what_is_no_array_of_floats_is_named(tmp_path, mapped):
    path = tmp_path / "a.npy"
    np.save(path, np.ones((3, 4), "<f4"))
    whole = path.read_bytes()
    wrong = [b"", b"\x93", whole[:40], whole[:-1], whole + b"x", whole[1:], whole[:8] + b"\xff\xff"]
    for data in wrong:
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"a\.npy: cannot be read: "):
            load_npy(str(path), mapped=mapped)
    np.save(path, np.array([{}], dtype=object))
    with pytest.raises(ValueError, match=r"a\.npy: cannot be read: it holds objects"):
        load_npy(str(path), mapped=mapped)
    for values in (np.ones((3, 4), "<i4"), np.ones(3, "<f4"), np.ones((1, 1, 3, 4), "<f4")):
        np.save(path, values)
        with pytest.raises(ValueError, match=r"a\.npy: needed an array"):
            load_npy(str(path), mapped=mapped)
    with pytest.raises(FileNotFoundError):
        load_npy(str(tmp_path / "none.npy"), mapped=mapped)
