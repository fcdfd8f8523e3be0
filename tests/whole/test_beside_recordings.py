"""A store may be a folder of recordings: those are read, and nothing but its own files changes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from extract.manifest.sources.folder import read_folder
from support import readers
from support.command import TINY
from support.models import tiny_model
from support.recordings import write_wav
from support.stores import audit, ledger

IN_PLACE = ["npy", "so_vits_svc"]


@pytest.fixture
def corpus(tmp_path) -> Path:
    """Recordings in two folders, and files of other programs' beside them."""
    for number, name in enumerate(("a.wav", "speaker/b.wav", "speaker/c.wav")):
        write_wav(tmp_path / "corpus" / name, 0.2 + 0.1 * number, number)
    for name in ("notes.txt", "speaker/b.lab", "speaker/other.npy", "other.soft.pt"):
        (tmp_path / "corpus" / name).write_text("mine")
    return tmp_path / "corpus"


@pytest.fixture
def extract(command, corpus):
    """Extracts the corpus; returns the exit code."""
    few = ("dataset=folder", f"dataset.path={corpus}", *TINY, "loader.num_workers=0")
    return lambda *options: command(*few, *options)


def seen(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in all_files(folder)}


def all_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def ids(path: Path) -> set[str]:
    return {record["id"] for record in ledger(path)}


@pytest.mark.parametrize("layout", IN_PLACE)
def test_recordings_beside_a_store_are_read_again_and_nothing_of_theirs_changes(
    extract, corpus, layout, capfd
):
    where = f"store={layout}", f"store.dir={corpus}"
    before, recordings = seen(corpus), {"a.wav", "speaker/b.wav", "speaker/c.wav"}
    if layout == "so_vits_svc":
        assert extract("store=so_vits_svc") == 0  # its folder is that of the recordings
        assert "dataset.extensions" not in capfd.readouterr().err
    other, gate = ("model.layer=1", "overwrite=true"), "audio.min_duration_s=0.3"
    for options in ((), other, (gate, *other)):
        assert extract(*where, *options) == 0
        assert ids(corpus) == recordings
        after = seen(corpus)
        assert {name: after[name] for name in before} == before
    capfd.readouterr()
    assert extract(*where, gate, "model.layer=1") == 0
    assert "0 of 3 recordings to do" in capfd.readouterr().err
    saved = {record["id"] for record in ledger(corpus) if record["status"] == "saved"}
    assert saved == {"speaker/b.wav", "speaker/c.wav"}
    ours = seen(corpus).keys() - before.keys()
    ending = readers.opened(corpus).layout.suffixes[0]
    assert {name for name in ours if name.endswith(ending)} == {f"{id_}{ending}" for id_ in saved}


@pytest.mark.parametrize("layout", IN_PLACE)
def test_no_output_becomes_an_input_even_where_every_file_is_taken(extract, corpus, layout):
    where = f"store={layout}", f"store.dir={corpus}", "dataset.extensions=[]"
    for name in ("notes.txt", "speaker/b.lab", "speaker/other.npy", "other.soft.pt"):
        (corpus / name).unlink()
    for _ in range(2):
        assert extract(*where) == 0
        audit(corpus, {"a.wav", "speaker/b.wav", "speaker/c.wav"}, recordings=corpus)


@pytest.mark.parametrize("layout", IN_PLACE)
def test_another_run_over_the_folder_above_reads_what_lies_beside_a_store(
    extract, corpus, layout, tmp_path
):
    audio = ("store.audio=wav32k",) if layout == "npy" else ()
    assert extract(f"store={layout}", f"store.dir={corpus}", *audio) == 0
    recordings = {f"corpus/{name}" for name in ("a.wav", "speaker/b.wav", "speaker/c.wav")}
    assert {*read_folder(tmp_path).ids} == recordings
    data = json.loads((corpus / "metadata.json").read_text())
    folders, endings = {"npy": (["", "wav32k"], [".npy"]), "so_vits_svc": ([""], [".soft.pt"])}[
        layout
    ]
    assert data["beside"] == {"folders": folders, "endings": endings}
    for damaged in ({}, [], {"folders": [1], "endings": []}, {"folders": []}):
        data["beside"] = damaged
        (corpus / "metadata.json").write_text(json.dumps(data))
        with pytest.raises(ValueError, match="no recordings"):
            read_folder(tmp_path)


def test_an_experiment_of_rvcs_holds_recordings_features_and_the_ledger(command, tmp_path):
    """`<exp>/1_16k_wavs` is read, `<exp>/3_feature768` written: as its trainer has them."""
    for number in range(2):
        write_wav(tmp_path / "exp" / "1_16k_wavs" / f"{number}.wav", 0.3, number)
    few = ("dataset=folder", "store=rvc", "store.dir=exp", *TINY, "loader.num_workers=0")
    times = []
    for _ in range(2):
        assert command(*few, "dataset.path=exp/1_16k_wavs") == 0
        audit(tmp_path / "exp", {"0.wav", "1.wav"})
        times.append([path.stat().st_mtime_ns for path in (tmp_path / "exp").rglob("*.npy")])
    assert times[0] == times[1]
    assert {*read_folder(tmp_path / "exp").ids} == {"1_16k_wavs/0.wav", "1_16k_wavs/1.wav"}
    feature = np.load(tmp_path / "exp" / "3_feature768" / "0.wav.npy")
    assert (feature.dtype, feature.ndim, feature.shape[1]) == (np.float32, 2, 32)


def test_another_folder_in_the_same_experiment_is_another_store(command, tmp_path, capfd):
    write_wav(tmp_path / "exp" / "1_16k_wavs" / "0.wav", 0.3)
    few = ("dataset=folder", "store=rvc", "store.dir=exp", *TINY, "loader.num_workers=0")
    assert command(*few, "dataset.path=exp/1_16k_wavs") == 0
    assert command(*few, "dataset.path=exp/1_16k_wavs", "store.folder=3_feature256") == 2
    assert "3_feature768 3_feature256" in " ".join(capfd.readouterr().err.split())


@pytest.mark.parametrize(("layers", "numbers"), [("[2,0]", (2, 0)), ("all", (0, 1, 2))])
def test_several_layers_are_one_array_of_numpys(command, tmp_path, layers, numbers):
    write_wav(tmp_path / "in" / "a.wav", 0.3)
    few = ("dataset=folder", "dataset.path=in", "store=npy", "store.dir=out", *TINY)
    assert command(*few, f"model.layer={layers}", "audio=plain", "loader.num_workers=0") == 0
    found = np.load(tmp_path / "out" / "a.wav.npy", mmap_mode="r")
    [record] = ledger(tmp_path / "out")
    assert found.shape == (len(numbers), record["num_frames"], 32)
    import soundfile

    samples, _rate = soundfile.read(tmp_path / "in" / "a.wav", dtype="float32")
    with torch.inference_mode():
        hidden = tiny_model()(torch.from_numpy(samples)[None], output_hidden_states=True)
    for layer, number in zip(found, numbers, strict=True):
        expected = hidden.hidden_states[number][0]
        assert (torch.from_numpy(np.array(layer)) - expected).abs().max() <= 1e-5


def test_half_precision_in_numpy_and_float32_in_rvc(command, tmp_path):
    write_wav(tmp_path / "in" / "a.wav", 0.3)
    few = ("dataset=folder", "dataset.path=in", *TINY, "loader.num_workers=0", "precision=bf16")
    for layout, dtype, asked in (
        ("npy", np.float32, "auto"),
        ("npy", np.float16, "float16"),
        ("rvc", np.float32, "auto"),
    ):
        out = tmp_path / f"{layout}-{asked}"
        assert command(*few, f"store={layout}", f"store.dtype={asked}", f"store.dir={out}") == 0
        [path] = out.rglob("*.npy")
        assert np.load(path).dtype == dtype
        assert ledger(out)[0]["dtype"] == dtype.__name__
        said = json.loads((out / "metadata.json").read_text())["identity"]
        assert (said["precision"], said["store.dtype"]) == ("bfloat16", dtype.__name__)
