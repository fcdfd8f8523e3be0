"""From a store to k-means centres, to units, to the files of fairseq, GSLM and slamkit."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from extract.commands.kmeans import main as kmeans
from extract.commands.quantize import main as quantize
from extract.config import Config
from extract.encoder.encoder import Encoder
from extract.encoder.quantizers.kmeans import Options
from extract.manifest.sources import tsv
from extract.run.job import run_shard
from extract.shard import Shard
from extract.store.layouts import npy
from extract.training import store_frames
from support.configs import tiny_config
from support.recordings import write_wav
from support.stores import ledger
from support.units import (
    apply_kmeans,
    by_scikit_learn,
    read_gslm,
    read_km,
    read_slamkit,
    represented,
    tsv_lines,
)

NAMES = ["c.wav", "missing.wav", "below/a.wav", "broken.wav", "d.wav", "b.wav", "e.wav", "f.wav"]
FIT = ["--clusters", "6", "--batch-size", "30", "--epochs", "2", "--seed", "4"]
AGAIN, BAD = "d.wav", "no number"  # a recording that is listed again, and a line that is none


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with a list, recordings, the store `out` of it and its centres `km.npy`."""
    folder = tmp_path_factory.mktemp("units")
    for index, name in enumerate(NAMES):
        if name == "broken.wav":
            (folder / "in" / name).write_bytes(b"RIFF but not really")
        elif name != "missing.wav":
            write_wav(folder / "in" / name, 0.3 + 0.11 * index, index)
    lines = [f"{name}\t16000" for name in NAMES]
    lines = [*lines[:3], f"x.wav\t{BAD}", *lines[3:], f"{AGAIN}\t16000"]
    (folder / "train.tsv").write_text("\n".join([str(folder / "in"), *lines, ""]))
    run_shard(config(folder, "out"), Shard())
    assert kmeans([str(folder / "out"), *FIT, "--output", str(folder / "km.npy")]) == 0
    return folder


@pytest.fixture
def folder(made, tmp_path) -> Path:
    """A copy of it, that a test may change."""
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


def config(folder: Path, store: str, centres: str | None = None, **options) -> Config:
    small = tiny_config(folder / "in", folder / store)
    small.loader.num_workers = 0
    small.dataset = tsv.Options(path=str(folder / "train.tsv"), root=str(folder / "in"))
    small.store = npy.Options(str(folder / store), num_writers=2, fsync=False)
    if centres is None:
        return small
    return replace(small, quantizer=Options(path=str(folder / centres), **options))


def features(store: Path) -> dict[str, np.ndarray]:
    """Of each saved recording, in the ledger's order."""
    saved = [record["id"] for record in ledger(store) if record["status"] == "saved"]
    return {id_: np.load(store / f"{id_}.npy") for id_ in saved}


def units(store: Path, centres: Path) -> dict[str, list[int]]:
    """By the published formula, of the features in a store."""
    return {id_: apply_kmeans(np.load(centres), x) for id_, x in features(store).items()}


def expected_km(folder: Path) -> list[list[int]]:
    found = units(folder / "out", folder / "km.npy")
    names = tsv_lines(folder / "train.tsv")
    assert (names.count(AGAIN), names.count("x.wav"), len(names)) == (2, 1, len(NAMES) + 2)
    return [found.get(name, []) for name in names]


# --- centres --------------------------------------------------------------------------------------


def epochs_of(items: list[np.ndarray], seed: int, num: int = 2) -> list[list[np.ndarray]]:
    orders = [np.random.default_rng([seed, epoch]).permutation(len(items)) for epoch in range(num)]
    return [[items[index] for index in order] for order in orders]


def test_the_centres_of_a_store_are_scikit_learns(made):
    items = [*features(made / "out").values()]
    expected = by_scikit_learn(epochs_of(items, 4), 6, 30, 4)
    assert np.array_equal(np.load(made / "km.npy"), expected.cluster_centers_)
    about = json.loads((made / "km.json").read_text())
    identity = json.loads((made / "out" / "metadata.json").read_text())["identity"]
    assert about["made_for"]["model.weights"] == identity["model.weights"]
    assert about["made_for"]["model.layer"] == identity["model.layer"] == 2
    assert about["fit"]["frames"] == sum(map(len, items))
    assert about["stores"] == [str(made / "out")]


def test_centres_lie_beside_the_store_and_nothing_else_does(folder, capsys):
    before = sorted(path.name for path in (folder / "out").rglob("*"))
    there = {path.name for path in folder.iterdir()}
    assert kmeans([str(folder / "out"), *FIT]) == 0
    assert capsys.readouterr().out.startswith(f"{folder / 'out.kmeans6.npy'}: 6 centres of 32 num")
    assert {path.name for path in folder.iterdir()} - there == {
        "out.kmeans6.npy",
        "out.kmeans6.json",
    }
    assert sorted(path.name for path in (folder / "out").rglob("*")) == before
    ours = folder / "out.kmeans6.npy"
    assert ours.read_bytes() == (folder / "km.npy").read_bytes()
    about, given = (
        json.loads(path.with_suffix(".json").read_text()) for path in (ours, folder / "km.npy")
    )
    assert about.pop("stores") != given.pop("stores")
    assert about == given
    assert kmeans([str(folder / "out"), *FIT]) == 2
    assert "is there already; --overwrite replaces it" in capsys.readouterr().err
    assert kmeans([str(folder / "out"), *FIT, "--overwrite"]) == 0


class Killed(BaseException):
    """The process is gone: nothing catches it."""


def test_a_killed_call_is_taken_up_and_reads_no_utterance_again(folder, monkeypatch, tmp_path):
    read, output = [], folder / "again.npy"
    reading = store_frames.StoreFrames._read
    monkeypatch.setattr(
        store_frames.StoreFrames, "_read", lambda *args: read.append(args) or reading(*args)
    )
    argv = [str(folder / "out"), *FIT[:2], "--batch-size", "6", *FIT[4:], "--output", str(output)]
    assert kmeans([*argv[:-1], str(tmp_path / "whole.npy")]) == 0
    assert len(read) == 12

    def dying(self, epoch, frames, inertia):
        if epoch:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("extract.commands.kmeans._Progress.__call__", dying)
        with pytest.raises(Killed):
            kmeans(argv)
    assert (folder / "again.npy.checkpoint").exists()
    read.clear()
    assert kmeans(argv) == 0
    assert 0 < len(read) < 6
    assert output.read_bytes() == (tmp_path / "whole.npy").read_bytes()
    assert not (folder / "again.npy.checkpoint").exists()


def test_a_signal_stops_it_and_the_same_command_goes_on(folder, monkeypatch, capsys):
    import signal

    def interrupted(self, epoch, frames, inertia):
        signal.raise_signal(signal.SIGTERM)

    argv = [str(folder / "out"), *FIT, "--output", str(folder / "again.npy")]
    with monkeypatch.context() as patch:
        patch.setattr("extract.commands.kmeans._Progress.__call__", interrupted)
        assert kmeans(argv) == 143
    assert "stopped; the same command goes on from here" in capsys.readouterr().err
    assert not (folder / "again.npy").exists()
    assert kmeans(argv) == 0
    assert (folder / "again.npy").read_bytes() == (folder / "km.npy").read_bytes()


@pytest.mark.parametrize("share", [["--fraction", "0.4"], ["--frames", "100"]])
def test_a_part_of_the_frames_is_whole_utterances_drawn_by_the_seed(made, tmp_path, share):
    lengths = [len(x) for x in features(made / "out").values()]
    wanted = 0.4 * sum(lengths) if share[0] == "--fraction" else 100
    found = set()
    for seed in range(6):
        output = tmp_path / f"{seed}.npy"
        argv = ["--clusters", "6", "--batch-size", "30", "--seed", str(seed), *share]
        assert kmeans([str(made / "out"), *argv, "--output", str(output)]) == 0
        frames = json.loads(output.with_suffix(".json").read_text())["fit"]["frames"]
        assert wanted <= frames < wanted + max(lengths)
        assert any(frames == total for total in sums(lengths))
        found.add(frames)
    assert len(found) > 2


def sums(lengths: list[int]) -> set[int]:
    totals = {0}
    for length in lengths:
        totals |= {total + length for total in totals}
    return totals


@pytest.mark.skipif(sys.platform == "win32", reason="an open file is not replaced there")
def test_a_ledger_that_is_replaced_meanwhile_changes_nothing(folder, monkeypatch):
    before = store_frames.StoreFrames.epoch

    def epoch(self, number, start):
        if not number:  # units are added to every line
            assert quantize([*argv, str(folder / "km.npy")]) == 0
        yield from before(self, number, start)

    argv = [str(folder / "out"), "--quantizer", "kmeans", "--path"]
    monkeypatch.setattr(store_frames.StoreFrames, "epoch", epoch)
    assert kmeans([str(folder / "out"), *FIT, "--output", str(folder / "again.npy")]) == 0
    assert (folder / "out" / "units.txt").exists()
    assert (folder / "again.npy").read_bytes() == (folder / "km.npy").read_bytes()


def test_features_that_are_damaged_are_left_out(folder, capsys):
    path = folder / "out" / "d.wav.npy"
    path.write_bytes(path.read_bytes()[:-8] + b"\0" * 8)
    (folder / "out" / "f.wav.npy").unlink()
    argv = ["--clusters", "6", "--batch-size", "30", "--epochs", "1", "--seed", "4"]
    assert kmeans([str(folder / "out"), *argv, "--output", str(folder / "fewer.npy")]) == 0
    frames = json.loads((folder / "fewer.json").read_text())["fit"]["frames"]
    assert frames == sum(len(np.load(folder / "out" / f"{id_}.npy")) for id_ in LEFT)
    said = capsys.readouterr().err
    for name in ("d.wav", "f.wav"):
        assert said.count(f"{name}: its features are damaged or gone; left out") == 1


LEFT = ("c.wav", "below/a.wav", "b.wav", "e.wav")


def test_several_stores_are_of_one_kind(folder, capsys):
    one, two = str(folder / "out"), str(folder / "two")
    small = config(folder, "two")
    small.audio.alpha = 0.2
    run_shard(small, Shard())
    output = str(folder / "both.npy")
    assert kmeans([one, two, *FIT, "--output", output]) == 0
    about = json.loads((folder / "both.json").read_text())
    assert about["fit"]["frames"] == 2 * sum(map(len, features(folder / "out").values()))
    small.audio.scale, small.store.dir = 1.0, str(folder / "three")
    run_shard(small, Shard())
    capsys.readouterr()
    assert kmeans([one, str(folder / "three"), *FIT, "--output", str(folder / "no.npy")]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith(
        f"{folder / 'three'}: features of another kind than {folder / 'out'} is"
    )
    assert said[2].split() == ["audio.scale", "1145.14", "1.0"]
    assert len(said) == 4


def test_a_layer_of_several_has_centres_and_units_of_its_own(folder, capsys):
    small = config(folder, "layers")
    small.model.layer = [0, 2]
    run_shard(small, Shard())
    store, output = str(folder / "layers"), str(folder / "layer0.npy")
    assert kmeans([store, *FIT, "--output", output]) == 2
    assert "has the layers 0, 2; needed --layer with one of them" in capsys.readouterr().err
    assert kmeans([store, *FIT, "--layer", "0", "--output", output]) == 0
    saved = [record["id"] for record in ledger(folder / "layers") if record["status"] == "saved"]
    items = [np.load(folder / "layers" / f"{id_}.npy")[0] for id_ in saved]
    expected = by_scikit_learn(epochs_of(items, 4), 6, 30, 4).cluster_centers_
    assert np.array_equal(np.load(output), expected)
    argv = [store, "--quantizer", "kmeans", "--path"]
    assert quantize([*argv, output, "--layer", "2"]) == 2
    assert "model.layer" in capsys.readouterr().err
    assert quantize([*argv, output]) == 0
    x = {id_: np.load(folder / "layers" / f"{id_}.npy")[0] for id_ in LEFT}
    found = read_gslm(folder / "layers" / "units.txt")
    assert {id_: found[id_] for id_ in LEFT} == {
        id_: apply_kmeans(np.load(output), frames) for id_, frames in x.items()
    }
    assert quantize([*argv, str(folder / "km.npy")]) == 2  # of layer 2 of the same model
    assert "the units here are of" in capsys.readouterr().err
    assert quantize([*argv, str(folder / "km.npy"), "--overwrite"]) == 0
    found = read_gslm(folder / "layers" / "units.txt")
    assert found == units(folder / "out", folder / "km.npy")
    shutil.copy(output, folder / "bare.npy")  # which does not say of which layer it is
    argv.append(str(folder / "bare.npy"))
    assert quantize([*argv, "--layer", "2", "--overwrite"]) == 0
    assert quantize([*argv, "--layer", "0"]) == 2
    assert quantize(argv) == 2
    assert "has the layers 0, 2; needed --layer with one" in capsys.readouterr().err


# --- units ----------------------------------------------------------------------------------------


def test_a_run_writes_the_published_formulas_units_in_the_lists_order(made, tmp_path):
    expected = units(made / "out", made / "km.npy")
    for kind in ("gslm", "fairseq", "slamkit"):
        shutil.rmtree(tmp_path / kind, ignore_errors=True)
        small = config(made, "x", "km.npy", format=kind)
        small.store.dir = str(tmp_path / kind)
        run_shard(small, Shard())
    assert read_gslm(tmp_path / "gslm" / "units.txt") == expected
    left = [
        ".tmp-units.txt-7-0123abcd",
        ".tmp-units.0-of-2.km-7-0123abcd",
        ".tmp-6-name2semantic-0.tsv-7",
    ]
    for name in left:
        (tmp_path / "slamkit" / name).touch()
    run_shard(small, Shard())
    assert not [*(tmp_path / "slamkit").glob(".tmp*")]
    order = [name for name in NAMES if name in expected]
    assert [*read_gslm(tmp_path / "gslm" / "units.txt")] == order
    names = tsv_lines(made / "train.tsv")
    assert read_km(tmp_path / "fairseq" / "units.km", len(names)) == expected_km(made)
    found = read_slamkit(tmp_path / "slamkit" / "units.jsonl")
    assert found == {name: represented(expected[name]) for name in order}
    assert any(set(one["duration"]) > {1} for one in found.values())


def test_units_alone_are_the_same_and_take_no_features(made, tmp_path):
    small = config(made, "x", "km.npy", dedup=True)
    small.store.dir, small.features = str(tmp_path / "alone"), False
    run_shard(small, Shard())
    expected = units(made / "out", made / "km.npy")
    merged = {name: represented(expected[name])["units"] for name in expected}
    assert read_gslm(tmp_path / "alone" / "units.txt") == merged
    assert {record["id"]: record.get("units") for record in ledger(tmp_path / "alone")} == {
        **dict.fromkeys(("missing.wav", "broken.wav", "train.tsv:5")),
        **{name: " ".join(map(str, one)) for name, one in expected.items()},
    }
    names = {path.name for path in (tmp_path / "alone").iterdir()}
    assert names == {"ledger.jsonl", "metadata.json", "units.txt", ".extract"}


def test_shards_are_joined_in_the_lists_order(folder, monkeypatch):
    small = config(folder, "three", "km.npy", format="fairseq")
    for shard in Shard(0, 3).all():
        run_shard(small, shard)
    store, joined = folder / "three", folder / "train.km"
    parts = sorted(path.name for path in store.glob("units*"))
    assert parts == [f"units.{index}-of-3.km" for index in range(3)]
    before = [(store / name).read_bytes() for name in parts]
    argv = [str(store), "--quantizer", "kmeans", "--path", str(folder / "km.npy")]
    argv += ["--list", str(folder / "train.tsv"), "--output"]
    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "_compute", None)
        assert quantize([*argv, str(joined), "--format", "fairseq"]) == 0
        assert quantize([*argv, str(folder / "all.txt"), "--dedup"]) == 0
    assert read_km(joined, len(NAMES) + 2) == expected_km(folder)
    assert [(store / name).read_bytes() for name in parts] == before
    expected = units(folder / "out", folder / "km.npy")
    merged = {name: represented(expected[name])["units"] for name in expected}
    found = read_gslm(folder / "all.txt")
    assert found == merged
    assert [*found] == [name for name in NAMES if name in merged]


def test_another_format_takes_the_place_of_the_one_before(folder, capsys):
    store = folder / "out"
    argv = [str(store), "--quantizer", "kmeans", "--path", str(folder / "km.npy")]
    listed = ["--list", str(folder / "train.tsv")]

    def files() -> list[str]:
        return sorted(path.name for path in store.glob("*.*") if path.name[0] in "u6")

    for words, expected in [
        (["--format", "slamkit"], ["units.jsonl"]),
        ([], ["units.txt"]),
        (["--format", "gpt_sovits"], ["6-name2semantic-0.tsv"]),
        (["--format", "fairseq", *listed], ["units.km"]),
    ]:
        assert quantize([*argv, *words]) == 0
        assert files() == expected
    assert read_km(store / "units.km", len(NAMES) + 2) == expected_km(folder)
    (store / ".extract" / "units-0-of-1").write_text(
        "../../in/c.wav"
    )  # no format: nothing is removed
    assert quantize([*argv, "--format", "slamkit"]) == 0
    assert (folder / "in" / "c.wav").exists()
    assert quantize([*argv, "--format", "fairseq"]) == 2
    assert "its lines have no ids; needed --list FILE" in capsys.readouterr().err


def test_features_of_another_kind_are_refused_before_any_work(folder, capsys, tmp_path):
    other = config(folder, "other", "km.npy")
    other.seed = 1
    with pytest.raises(ValueError, match="this run: features of another kind") as caught:
        run_shard(other, Shard())
    said = str(caught.value).splitlines()
    assert said[1].split() == ["the", "quantizer", "these", "features"]
    assert [line.split()[0] for line in said[2:-1]] == ["model.weights"]
    assert not (folder / "other").exists()
    for setting, value in [("scale", 1.0), ("rate_path", "direct")]:
        wrong = config(folder, "wrong", "km.npy")
        setattr(wrong.audio, setting, value)
        wrong.audio.__post_init__()
        with pytest.raises(ValueError, match=f"audio.{setting}"):
            run_shard(wrong, Shard())
    for setting, value in [("alpha", 0.1), ("maxx", 0.5), ("max_duration_s", 0.2)]:
        fine = config(folder, f"fine-{setting}", "km.npy")
        setattr(fine.audio, setting, value)
        run_shard(fine, Shard())
    shutil.copy(folder / "km.npy", folder / "bare.npy")
    bare = config(folder, "other", "bare.npy")
    bare.seed = 1
    run_shard(bare, Shard())
    argv = [str(folder / "other"), "--quantizer", "kmeans", "--path", str(folder / "km.npy")]
    capsys.readouterr()
    assert quantize([*argv, "--overwrite"]) == 2
    assert "features of another kind than the quantizer is for" in capsys.readouterr().err


def test_the_command_line(command, folder, capfd, monkeypatch):
    monkeypatch.chdir(folder)
    words = ["dataset=tsv", "dataset.path=train.tsv", "dataset.root=in", "model=tiny_random"]
    words += ["device=cpu", "store=npy", "store.dir=cli", "loader.num_workers=0"]
    words += ["quantizer=kmeans", "quantizer.path=km.npy"]
    assert command(*words, "quantizer.format=fairseq") == 1  # some failed
    assert read_km(folder / "cli" / "units.km", len(NAMES) + 2) == expected_km(folder)
    assert command(*words, "store.dir=other", "seed=1", "preflight=true") == 2
    assert "features of another kind than the quantizer is for" in capfd.readouterr().out
    assert command(*words, "quantizer.format=km") == 2
    assert "quantizer.format: km: none of extract's unit_formats" in capfd.readouterr().err


def test_what_is_wrong_with_the_call_is_said(made, tmp_path, capsys):
    out = str(made / "out")
    for argv, said in [
        ([str(tmp_path)], "no metadata.json or no ledger here"),
        ([out, "--fraction", "1.5"], "--fraction 1.5: needed more than 0, at most 1"),
        ([out, "--frames", "0"], "--frames 0: needed at least 1"),
        ([out, "--clusters", "0"], "0 clusters, 5 epochs; needed at least one"),
        ([out, "--clusters", "5000"], "needed at least one frame a cluster"),
        ([out, "--layer", "1"], "has the layers 2; needed --layer with one of them"),
        ([out, "--output", str(tmp_path / "km.bin")], "needed a name that ends in .npy"),
    ]:
        output = ["--output", str(tmp_path / "x.npy")] * ("--output" not in argv)
        assert kmeans([*argv, *output]) == 2
        assert said in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]
    if sys.platform != "win32":
        (tmp_path / "file").touch()
        assert kmeans([out, *FIT, "--output", str(tmp_path / "file" / "x.npy")]) == 1
        assert "File exists" in capsys.readouterr().err
