"""k-means centres of a stream: scikit-learn's own on the same frames, whatever interrupts it."""

import json
import subprocess
import sys
import tracemalloc
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.cluster import MiniBatchKMeans

from extract.training import kmeans_fit
from extract.training.kmeans import BLOCK, fit_kmeans
from extract.training.kmeans_fit import Settings
from extract.values import Failure
from support.units import apply_kmeans, by_scikit_learn

WIDTH = 12
FIXED = {"clusters": 10, "batch_size": 25, "seed": 5}
SMALL = {**FIXED, "epochs": 3}


def utterances(num: int = 60) -> list[np.ndarray]:
    """Around a dozen points, of lengths that never repeat; one longer than a block, two empty."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(12, WIDTH)) * 3
    lengths = [*range(1, num - 2), 0, BLOCK * 25 + 30, 0]
    return [
        (points[rng.integers(0, 12, length)] + rng.normal(size=(length, WIDTH))).astype(np.float32)
        for length in lengths
    ]


def test_centres_are_scikit_learns_on_the_same_frames():
    items = utterances()
    found = fit_kmeans(items, **SMALL)
    expected = by_scikit_learn([items] * 3, **FIXED)
    assert found.centres.dtype == np.float32
    assert np.array_equal(found.centres, expected.cluster_centers_)
    assert (found.num_frames, found.finished) == (sum(map(len, items)), True)
    whole = -expected.score(np.concatenate(items)) / found.num_frames
    assert found.inertia == pytest.approx(whole, rel=0.15)
    other = fit_kmeans(items, **{**SMALL, "seed": 6}).centres
    assert not np.allclose(found.centres, other)


def test_the_recipe_is_the_documented_one():
    recipe = MiniBatchKMeans(init="k-means++", n_init=1, reassignment_ratio=0.0)
    settings = {"n_clusters": 500, "batch_size": 10_000, "random_state": 0, "compute_labels": False}
    assert kmeans_fit._new_model(Settings()).get_params() == recipe.get_params() | settings


def test_one_batch_of_all_frames_is_one_step_of_scikit_learn():
    """No shuffling, no blocks: with as many epochs as steps, centres are those of `partial_fit`."""
    [frames] = [np.concatenate(utterances())]
    found = fit_kmeans([frames], 10, epochs=1, batch_size=len(frames), seed=3).centres
    order = np.random.default_rng([3, 0, 0]).permutation(len(frames))
    plain = MiniBatchKMeans(10, random_state=3, reassignment_ratio=0.0, batch_size=len(frames))
    assert np.array_equal(found, plain.partial_fit(frames[order]).cluster_centers_)


def test_any_iterable_of_features_is_a_stream():
    items = utterances()
    expected = fit_kmeans(items, **SMALL).centres
    tensors = [torch.from_numpy(item).requires_grad_() for item in items]
    values = [SimpleNamespace(recording=None, features=item) for item in tensors]
    failure = Failure.of_source("x", "x", "bad_line", "x")
    for stream in (tensors, tuple(values)):
        assert np.array_equal(fit_kmeans(stream, **SMALL).centres, expected)
    assert np.isfinite(fit_kmeans([failure, *values, failure], **SMALL).centres).all()


def test_batches_give_their_frames_without_padding():
    items = [item for item in utterances() if len(item)]
    batches, epochs = [], []
    for start in range(0, len(items), 7):
        some = items[start : start + 7]
        padded = torch.full((len(some), max(map(len, some)), WIDTH), torch.nan)
        for row, item in zip(padded, some, strict=True):
            row[: len(item)] = torch.from_numpy(item)
        lengths = torch.tensor([*map(len, some)])
        batches.append(SimpleNamespace(features=padded, feature_lengths=lengths, failures=[]))

    class Loader(list):
        def set_epoch(self, epoch: int) -> None:
            epochs.append(epoch)

    joined = [np.concatenate(items[start : start + 7]) for start in range(0, len(items), 7)]
    found = fit_kmeans(Loader(batches), **SMALL).centres
    assert np.array_equal(found, fit_kmeans(joined, **SMALL).centres)
    assert epochs == [0, 1, 2]


class Killed(BaseException):
    """The process is gone: nothing catches it."""


def test_a_fit_that_is_killed_at_any_block_gives_the_same_centres(tmp_path):
    """scikit-learn's reassignment, which draws at random in each step, is on: its state counts."""
    items, calls = utterances(), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kmeans_fit, "_new_model", lambda settings: drawing(settings))
        whole = fit_kmeans(items, **SMALL, progress=lambda *said: calls.append(said))
        assert len(calls) > 20
        for number in (0, 1, 7, len(calls) - 1):
            path, left = tmp_path / f"{number}.checkpoint", iter(range(number))

            def dying(*said, left=left):
                if next(left, None) is None:
                    raise Killed

            for _ in range(2 if number < 8 else 1):
                with pytest.raises(Killed):
                    fit_kmeans(items, **SMALL, checkpoint=path, progress=dying)
            again = fit_kmeans(items, **SMALL, checkpoint=path)
            assert np.array_equal(again.centres, whole.centres)
            assert (again.inertia, again.num_frames) == (whole.inertia, whole.num_frames)


def drawing(settings: Settings) -> MiniBatchKMeans:
    return MiniBatchKMeans(
        settings.clusters, n_init=1, compute_labels=False, random_state=5, reassignment_ratio=0.5
    )


FIT = """
import os, signal
import numpy as np
from extract.training.kmeans import fit_kmeans
items = [*np.load({items!r}).values()]
calls = iter(range(5))
def progress(*said):
    if next(calls, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)
fit_kmeans(items, **{settings!r}, checkpoint={path!r}, progress=progress)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_fit_survives_sigkill(tmp_path):
    path, items = str(tmp_path / "checkpoint"), utterances()
    np.savez(tmp_path / "items.npz", *items)
    code = FIT.format(items=str(tmp_path / "items.npz"), path=path, settings=SMALL)
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert killed.returncode == -9, killed.stderr
    started = []
    found = fit_kmeans(items, **SMALL, checkpoint=path, progress=lambda *said: started.append(said))
    assert np.array_equal(found.centres, by_scikit_learn([items] * 3, **FIXED).cluster_centers_)
    assert started[0][1] > 5 * 25  # it went on, behind the sixth block


def test_a_stopped_fit_goes_on(tmp_path):
    items, path = utterances(), tmp_path / "checkpoint"
    calls = iter([False, False, True])
    stopped = fit_kmeans(items, **SMALL, checkpoint=path, stop=lambda: next(calls))
    assert not stopped.finished
    again = fit_kmeans(items, **SMALL, checkpoint=path)
    assert np.array_equal(again.centres, fit_kmeans(items, **SMALL).centres)
    nothing = fit_kmeans([items[57]] * 2, **SMALL, stop=lambda: True)  # it has no frames
    assert (nothing.centres.shape, nothing.finished) == ((0, 0), False)


def test_a_checkpoint_holds_arrays_alone_and_one_of_another_fit_is_not_used(tmp_path, caplog):
    items, path = utterances(25), tmp_path / "checkpoint"
    fit_kmeans(items, **SMALL, checkpoint=path, made_of="these")
    with np.load(path, allow_pickle=False) as file:
        assert all(isinstance(file[name], np.ndarray) for name in file)
        assert np.array_equal(file["model.cluster_centers_"], fit_kmeans(items, **SMALL).centres)
    for other in ({"made_of": "others"}, {"seed": 6}):
        caplog.clear()
        settings = {**SMALL, "made_of": "these", **other}
        expected = fit_kmeans(items, **settings).centres
        assert np.array_equal(fit_kmeans(items, **settings, checkpoint=path).centres, expected)
        assert "of other features or settings; begun anew" in caplog.text
        fit_kmeans(items, **SMALL, checkpoint=path, made_of="these")
    path.write_bytes(path.read_bytes()[:1_000])
    caplog.clear()
    fit_kmeans(items, **SMALL, checkpoint=path)
    assert "begun anew" in caplog.text


def test_memory_is_a_blocks_however_long_the_stream_is():
    def stream(num: int):
        rng = np.random.default_rng(0)
        return (rng.normal(size=(3 + index % 197, 64)).astype(np.float32) for index in range(num))

    def peak(num: int) -> int:
        tracemalloc.start()
        fit_kmeans(stream(num), 10, epochs=1, batch_size=100)
        _now, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    block = BLOCK * 100 * 64 * 4
    peak(5)  # what scikit-learn imports at its first fit
    assert peak(300) < 3 * block < 300 * 100 * 64 * 4 / 10


def test_what_cannot_be_clustered_is_refused():
    items = utterances()
    for settings, said in [
        ({"clusters": 0}, "0 clusters, 3 epochs; needed at least one of each"),
        ({"epochs": 0}, "10 clusters, 0 epochs"),
        ({"batch_size": 9}, "a batch size of 9 for 10 clusters; needed at least one frame"),
        ({"seed": -1}, "a seed of -1; needed 0 to 4294967295"),
    ]:
        with pytest.raises(ValueError, match=said):
            fit_kmeans(items, **{**SMALL, **settings})
    with pytest.raises(ValueError, match="6 frames for 10 clusters; needed at least one frame"):
        fit_kmeans(items[:3], **SMALL)
    with pytest.raises(ValueError, match="no frames in epoch 2; needed features that can be"):
        fit_kmeans(iter(items), **SMALL)
    with pytest.raises(ValueError, match="features of 5 dimensions behind some of 12"):
        fit_kmeans([*items, items[5][:, :5]], **SMALL)
    with pytest.raises(ValueError, match=r"of the shape \(3, 12, 1\); needed \(frames, dim"):
        fit_kmeans([items[2][..., None]], **SMALL)


def test_centres_are_saved_with_what_they_are_of(tmp_path):
    found = fit_kmeans(utterances(), **SMALL)
    with pytest.raises(ValueError, match=r"needed a name that ends in \.npy"):
        found.save(tmp_path / "km.bin")
    found.save(tmp_path / "km.npy", {"model.layer": 3}, note="x")
    assert np.array_equal(np.load(tmp_path / "km.npy"), found.centres)
    about = json.loads((tmp_path / "km.json").read_text())
    assert about.pop("made_with").keys() == {"scikit-learn", "numpy"}
    assert about.pop("centres").startswith("kmeans:")
    fit = {**SMALL, "frames": found.num_frames, "inertia": found.inertia}
    assert about == {"format": 1, "made_for": {"model.layer": 3}, "fit": fit, "note": "x"}


def test_units_are_the_nearest_centres():
    found = fit_kmeans(utterances(), **SMALL)
    for frames in utterances()[-3:]:
        units = found.units(torch.from_numpy(frames))
        assert units.dtype == torch.int64
        assert units.tolist() == apply_kmeans(found.centres, frames)


def test_without_scikit_learn_its_extra_is_named(monkeypatch):
    def version(name):
        raise PackageNotFoundError(name)

    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    monkeypatch.setattr(kmeans_fit, "version", version)
    with pytest.raises(ValueError, match=r"k-means needs the package sklearn.*ssl\[units\]"):
        fit_kmeans(utterances(), **SMALL)
