"""scikit-learn's k-means models as joblib and pickle dump them: their arrays, and nothing else."""

import os
import pickle
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from joblib.numpy_pickle import NumpyArrayWrapper
from sklearn.cluster import KMeans, MiniBatchKMeans

from extract.models.formats import estimators
from extract.models.formats.estimators import read_array
from support.models import Payload

CENTRES = "cluster_centers_"
MKDIR = f"{os.mkdir.__module__}.mkdir"


@pytest.fixture(scope="module")
def model() -> MiniBatchKMeans:
    frames = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    random = np.random.RandomState(3)  # early releases keep one in the model
    return MiniBatchKMeans(5, random_state=random, n_init=1).fit(frames)


@pytest.fixture
def refusal(tmp_path):
    """Dumps an object and returns what is said against it."""

    def refusal(held: Any) -> str:
        joblib.dump(held, tmp_path / "km.bin")
        return said(tmp_path / "km.bin")

    return refusal


def said(path: Path) -> str:
    with pytest.raises(ValueError, match=r"^km\.bin") as caught:
        read_array(path, CENTRES)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 1_000
    return message


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("compress", [0, 3, ("gzip", 3), ("bz2", 3), ("xz", 3), ("lzma", 3)])
def test_what_joblib_dumps_is_read(tmp_path, model, compress, protocol):
    joblib.dump(model, tmp_path / "km.bin", compress=compress, protocol=protocol)
    found = read_array(tmp_path / "km.bin", CENTRES)
    assert found.dtype == np.float32
    assert np.array_equal(found, model.cluster_centers_)
    assert np.array_equal(read_array(tmp_path / "km.bin", "_counts"), model._counts)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_what_pickle_dumps_is_read(tmp_path, model, protocol):
    (tmp_path / "km.bin").write_bytes(pickle.dumps(model, protocol))
    assert np.array_equal(read_array(tmp_path / "km.bin", CENTRES), model.cluster_centers_)


def test_a_file_of_joblib_1_1_has_no_padding(tmp_path, model, monkeypatch):
    """HuBERT's and GSLM's centres are of such a one, and name NumPy's modules of then."""
    begin = NumpyArrayWrapper.__init__

    def as_then(self, *args, **kwargs):
        begin(self, *args, **kwargs)
        del self.numpy_array_alignment_bytes

    with monkeypatch.context() as patch:
        patch.setattr(NumpyArrayWrapper, "__init__", as_then)
        joblib.dump(model, tmp_path / "km.bin", protocol=3)
    assert np.array_equal(read_array(tmp_path / "km.bin", CENTRES), model.cluster_centers_)
    then = pickle.dumps(model, 2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    (tmp_path / "km.bin").write_bytes(then)
    assert np.array_equal(read_array(tmp_path / "km.bin", CENTRES), model.cluster_centers_)


@pytest.mark.parametrize("kind", ["<f8", ">f4", "<f2"])
def test_an_array_of_any_order_and_dtype_is_read(tmp_path, kind):
    centres = np.asfortranarray(np.arange(12).reshape(3, 4).astype(kind))
    joblib.dump(centres, tmp_path / "km.bin")
    found = read_array(tmp_path / "km.bin", CENTRES)
    assert np.array_equal(found, centres)
    frames = np.random.default_rng(0).normal(size=(30, 4))
    model = KMeans(3, n_init=1, random_state=0).fit(frames)
    joblib.dump(model, tmp_path / "km.bin")
    assert np.array_equal(read_array(tmp_path / "km.bin", CENTRES), model.cluster_centers_)


@pytest.mark.parametrize("compress", [0, 3])
def test_no_code_of_a_file_is_run(tmp_path, model, compress):
    harmful = MiniBatchKMeans(5)
    vars(harmful).update(vars(model), verbose=Payload(tmp_path / "ran"))
    joblib.dump(harmful, tmp_path / "km.bin", compress=compress)
    assert f"more in it than arrays: it names {MKDIR}, and running" in said(tmp_path / "km.bin")
    (tmp_path / "km.bin").write_bytes(pickle.dumps(harmful))
    assert f"it names {MKDIR}" in said(tmp_path / "km.bin")
    assert not (tmp_path / "ran").exists()
    joblib.load(tmp_path / "km.bin")
    assert (tmp_path / "ran").exists()  # it would have


def test_nothing_is_imported_and_no_function_of_numpy_is_called(tmp_path, refusal):
    for function in (np.load, np.fromfile, np.memmap, eval, getattr, joblib.load):
        assert f"it names {function.__module__}" in refusal(function)


def test_objects_in_an_array_are_not_read(tmp_path, refusal):
    assert "an array of O8" in refusal(np.array([Payload(tmp_path / "ran")], dtype=object))
    assert not (tmp_path / "ran").exists()


def test_a_file_without_centres_is_said(tmp_path, model, refusal, monkeypatch):
    assert "no array cluster_centers_ in it" in refusal({"a": 1})
    assert "no array cluster_centers_ in it" in refusal([model])
    assert "no array cluster_centers_ in it" in refusal(MiniBatchKMeans(5))
    joblib.dump(model, tmp_path / "km.bin")
    whole = (tmp_path / "km.bin").read_bytes()
    for length in (30, 200, 800):
        (tmp_path / "km.bin").write_bytes(whole[:length])
        assert "does not load" in said(tmp_path / "km.bin")
    joblib.dump(model, tmp_path / "km.bin", compress=3)
    monkeypatch.setattr(estimators, "MAX_BYTES", 1_000)
    assert "more than 1,000 bytes once decompressed" in said(tmp_path / "km.bin")
