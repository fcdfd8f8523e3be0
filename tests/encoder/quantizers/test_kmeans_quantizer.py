"""k-means units: the published formula's in any batch, from any file of centres."""

import json
import logging

import joblib
import numpy as np
import pytest
import torch
from sklearn.cluster import MiniBatchKMeans

from extract.encoder.centres import read_centres, write_centres
from extract.encoder.quantizers import kmeans
from extract.encoder.quantizers.kmeans import Options, load
from support.units import apply_kmeans

WIDTH = 24
LENGTHS = [1, 2, 7, 50, 333, 1_501, 5]


@pytest.fixture(scope="module")
def model() -> MiniBatchKMeans:
    frames = np.random.default_rng(0).normal(size=(3_000, WIDTH)).astype(np.float32)
    return MiniBatchKMeans(100, random_state=0, n_init=1, batch_size=1_000).fit(frames)


@pytest.fixture
def saved(tmp_path, model):
    """Centres in every kind of file; the first is this package's."""
    write_centres(tmp_path / "own.npy", model.cluster_centers_, {"made_for": {"model.layer": 2}})
    np.save(tmp_path / "bare.npy", model.cluster_centers_)
    joblib.dump(model, tmp_path / "km.bin")
    joblib.dump(model, tmp_path / "small.bin", compress=3)
    return [tmp_path / name for name in ("own.npy", "bare.npy", "km.bin", "small.bin")]


def utterances() -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    return [torch.randn(WIDTH, length, generator=draw) for length in LENGTHS]


def test_units_are_the_published_formulas_in_any_batch(model, saved):
    found, rng = load(Options(path=str(saved[0])), WIDTH), np.random.default_rng(0)
    expected = [apply_kmeans(model.cluster_centers_, x.T.numpy()) for x in utterances()]
    model64 = MiniBatchKMeans(100)
    vars(model64).update(vars(model), cluster_centers_=model.cluster_centers_.astype(np.float64))
    for x, alone in zip(utterances(), expected, strict=True):
        assert found.assign(x, [x.shape[1]]).tolist() == alone
        assert model64.predict(x.T.numpy().astype(np.float64)).tolist() == alone
    for _ in range(4):
        order = rng.permutation(len(LENGTHS))[: rng.integers(1, len(LENGTHS) + 1)]
        parts = [utterances()[index] for index in order]
        sizes = [x.shape[1] for x in parts]
        units = torch.split(found.assign(torch.cat(parts, dim=1), sizes), sizes)
        assert [x.tolist() for x in units] == [expected[index] for index in order]
    assert len(set(expected[5])) > 90


def test_every_kind_of_file_gives_the_same_units(saved):
    found = [load(Options(path=str(path)), WIDTH) for path in saved]
    assert len({one.fingerprint for one in found}) == 1
    assert found[0].fingerprint.startswith("kmeans:")
    assert [one.made_for for one in found] == [{"model.layer": 2}, {}, {}, {}]


def test_that_the_kind_of_features_is_not_known_is_said_once(saved, caplog):
    kmeans._say_unknown.cache_clear()
    with caplog.at_level(logging.INFO):
        for path in (*saved[:2], saved[1]):
            load(Options(path=str(path)), WIDTH)
    [said] = caplog.messages
    assert said.startswith(f"{saved[1]}: does not say of which features")


def test_float64_centres_are_rounded(tmp_path, model):
    np.save(tmp_path / "c.npy", model.cluster_centers_.astype(np.float64))
    values = read_centres(tmp_path / "c.npy").values
    assert values.dtype == torch.float32
    assert np.array_equal(values.numpy(), model.cluster_centers_)


def test_json_of_other_centres_or_another_tool(tmp_path, model, saved):
    about = json.loads((tmp_path / "own.json").read_text())
    assert [*about] == ["format", "centres", "made_for"]
    np.save(tmp_path / "own.npy", model.cluster_centers_ + 1)
    with pytest.raises(ValueError, match=r"own\.json beside it is of other centres"):
        load(Options(path=str(tmp_path / "own.npy")), WIDTH)
    (tmp_path / "bare.json").write_text('{"learning_rate": 0.1}')
    assert load(Options(path=str(tmp_path / "bare.npy")), WIDTH).made_for == {}


def test_each_wrong_file_has_its_own_sentence(tmp_path, model):
    def said(array=None, name="c.npy", width=WIDTH) -> str:
        if array is not None:
            np.save(tmp_path / name, array)
        with pytest.raises(ValueError, match=name) as caught:
            load(Options(path=str(tmp_path / name)), width)
        assert str(caught.value).isprintable()
        return str(caught.value)

    centres = model.cluster_centers_
    assert "centres of 24 numbers, and a frame has 32; needed" in said(centres, width=32)
    assert "float32 of the shape (24,); needed floats, (clusters, dim" in said(centres[0])
    assert "int64 of the shape (2, 24)" in said(np.zeros((2, 24), np.int64))
    assert "float32 of the shape (0, 24)" in said(centres[:0])
    assert "not all are finite" in said(centres * np.inf)
    assert "cannot be read: No such file" in said(name="none.npy")
    assert "does not load: " in said(np.array([{}], dtype=object))
    (tmp_path / "c.npy").write_text("<html>")
    assert "is a web page" in said()
    (tmp_path / "c.npy").write_bytes(b"RIFFxxxx")
    assert "is no file of centres: it starts b'RIFF" in said()
