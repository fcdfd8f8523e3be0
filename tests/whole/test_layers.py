"""Layers, projection and final norm through the whole command."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from extract import choices
from extract.models.fingerprint import fingerprint
from extract.models.load import load_model
from extract.store.layout import LayoutOptions
from extract.store.store import Store
from extract.values import AudioSettings
from support import fives
from support.decoding import prepare
from support.models import folder_of, small_model, tiny_model
from support.packages import install
from support.recordings import DEMO
from support.stores import contents, ledger

OPTIONS = ("dataset=folder", "device=cpu", "loader.num_workers=0", "store.dir=out")
CLIP = "es_dir-welcome.wav"
SOURCE = Path(fives.__file__).read_text("utf8")


@pytest.fixture
def extract_clip(command, tmp_path):
    """Extracts one clip into `out`; returns the exit code."""
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    (recordings / CLIP).symlink_to(DEMO / CLIP)

    def extract_clip(*options: str) -> int:
        return command(*OPTIONS, f"dataset.path={recordings}", *options)

    return extract_clip


@pytest.fixture
def waveform() -> torch.Tensor:
    return torch.from_numpy(prepare(DEMO / CLIP, AudioSettings()).waveform)


@pytest.fixture
def archives(tmp_path, monkeypatch):
    """An installed layout that takes several layers: `store.layout=some_fives`."""
    install(tmp_path / "site", "extract.layouts", "some_fives", "some_fives", SOURCE)
    monkeypatch.syspath_prepend(tmp_path / "site")
    cached = choices._offered, choices._entry_points
    for one in cached:
        one.cache_clear()
    yield LayoutOptions(layout="some_fives")
    for one in cached:
        one.cache_clear()


def identity(store: Path) -> dict:
    return json.loads((store / "metadata.json").read_text())["identity"]


def features(store: Path) -> torch.Tensor:
    return torch.load(store / "4-cnhubert" / f"{CLIP}.pt", weights_only=True)


@pytest.mark.parametrize(("layer", "number"), [("0", 0), ("1", 1), ("-2", 1), ("[-1]", 2)])
def test_a_layer_is_a_file_of_the_usual_shape(extract_clip, tmp_path, waveform, layer, number):
    assert extract_clip("model=tiny_random", f"model.layer={layer}") == 0
    expected = tiny_model()(waveform[None], output_hidden_states=True).hidden_states[number]
    assert (features(tmp_path / "out") - expected.mT).abs().max() <= 1e-5
    assert identity(tmp_path / "out")["model.layer"] == number


def test_the_last_layer_under_any_name_is_one_store(extract_clip, tmp_path, capfd):
    assert extract_clip("model=tiny_random") == 0
    before = (tmp_path / "out" / "metadata.json").read_bytes()
    assert not {"model.projection", "model.final_norm"} & set(identity(tmp_path / "out"))
    for layer in ("2", "-1", "[2]", "null"):
        capfd.readouterr()
        assert extract_clip("model=tiny_random", f"model.layer={layer}") == 0
        assert "0 of 1 recording to do" in capfd.readouterr().err
    assert (tmp_path / "out" / "metadata.json").read_bytes() == before
    assert extract_clip("model=tiny_random", "model.layer=0") == 2
    assert "model.layer" in capfd.readouterr().err


@pytest.mark.parametrize("layer", ["all", "[0,2]"])
def test_a_layout_of_one_layer_refuses_several_before_any_work(
    extract_clip, tmp_path, capfd, layer
):
    assert (
        extract_clip("model=local", "model.path=not_even_looked_for", f"model.layer={layer}") == 2
    )
    said = " ".join(capfd.readouterr().err.split())
    assert "the layout gpt_sovits holds one layer" in said
    assert "-m model.layer=6,9" in said
    assert not (tmp_path / "out").exists()


def test_several_layers_are_one_pass_one_line_and_one_identity(
    extract_clip, tmp_path, waveform, archives, capfd
):
    options = "model=tiny_random", "store.layout=some_fives"
    assert extract_clip(*options, "model.layer=[2,0]") == 0
    [record] = ledger(tmp_path / "out")
    store = Store(tmp_path / "out", options=archives)
    found = store.layout.read(store.layout.kept(record))
    hidden = tiny_model()(waveform[None], output_hidden_states=True).hidden_states
    assert found.shape == (2, record["num_frames"], 32)
    assert (found - torch.cat([hidden[2], hidden[0]])).abs().max() <= 1e-5
    assert identity(tmp_path / "out")["model.layer"] == [2, 0]

    capfd.readouterr()
    assert extract_clip(*options, "model.layer=[-1,0]") == 0
    assert "0 of 1 recording to do" in capfd.readouterr().err
    assert extract_clip(*options, "model.layer=all") == 2
    said = capfd.readouterr().err
    assert "[2, 0]" in said
    assert "[0, 1, 2]" in said


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("model.layer=nine", "model.layer: 'nine'; needed a whole number (0 = what enters"),
        ("model.layer=1.5", "model.layer: 1.5; needed"),
        ("model.layer=[]", "model.layer: []; needed"),
        ("model.layer=[1,1]", "model.layer: [1, 1]; needed"),
        ("model.layer=3", "layer=3: this model has layers 1 to 2; 0 is what enters the first"),
        ("model.projection=maybe", "model.projection: 'maybe'; needed auto, true or false"),
        ("model.projection=true", "projection=true: this model's file holds no final_proj"),
        ("model.final_norm=none", "expected one of [transformers, fairseq]"),
    ],
)
def test_a_mistake_is_named_before_any_work(extract_clip, tmp_path, capfd, option, said):
    assert extract_clip("model=tiny_random", option) == 2
    assert said in " ".join(capfd.readouterr().err.split())
    assert not (tmp_path / "out").exists()


@pytest.fixture
def contentvec(tmp_path) -> Path:
    """A folder as ContentVec's: HuBERT, and a `final_proj` beside it."""
    folder = folder_of(small_model("group"), tmp_path / "contentvec")
    path = folder / "model.safetensors"
    generator = torch.Generator().manual_seed(0)
    projection = {
        "final_proj.weight": torch.randn(16, 48, generator=generator),
        "final_proj.bias": torch.randn(16, generator=generator),
    }
    save_file({**load_file(path), **projection}, path, metadata={"format": "pt"})
    return folder


def test_a_projection_is_applied_where_it_is_asked_for(
    extract_clip, tmp_path, waveform, contentvec
):
    options = "model=local", f"model.path={contentvec}", "model.layer=2"
    assert extract_clip(*options, "model.projection=true") == 0
    hidden = small_model("group")(waveform[None], output_hidden_states=True).hidden_states[2]
    weights = load_file(contentvec / "model.safetensors")
    expected = hidden @ weights["final_proj.weight"].T + weights["final_proj.bias"]
    assert (features(tmp_path / "out") - expected.mT).abs().max() <= 1e-4 * expected.abs().max()
    projected = identity(tmp_path / "out")
    assert projected["model.projection"] is True

    assert extract_clip(*options) == 2, "another kind of features"
    assert extract_clip(*options, "overwrite=true") == 0
    assert (features(tmp_path / "out") - hidden.mT).abs().max() <= 1e-5
    plain = identity(tmp_path / "out")
    assert projected == {
        **plain,
        **{k: projected[k] for k in ("model.projection", "model.weights")},
    }
    assert projected["model.weights"] != plain["model.weights"]


def test_a_projection_that_is_not_used_is_in_no_fingerprint(tmp_path, contentvec):
    bare = folder_of(small_model("group"), tmp_path / "bare")
    with_it, without = (load_model(str(folder)) for folder in (contentvec, bare))
    assert fingerprint(with_it) == fingerprint(without)
    used = fingerprint(with_it, projected=True)
    assert used != fingerprint(with_it)
    with_it.projection[1][0] += 1
    assert fingerprint(with_it, projected=True) != used
    assert without.projection is None


@pytest.mark.parametrize("shape", [(16, 47), (16,), (16, 1, 48), (0, 48)], ids=str)
def test_a_projection_that_does_not_fit_is_none(tmp_path, contentvec, shape):
    path = contentvec / "model.safetensors"
    weights = {**load_file(path), "final_proj.weight": torch.zeros(shape)}
    save_file(weights, path, metadata={"format": "pt"})
    assert load_model(str(contentvec)).projection is None


def test_fairseqs_last_layer_is_another_store(extract_clip, tmp_path, waveform):
    model = small_model("layer")
    folder = folder_of(model, tmp_path / "large")
    options = "model=local", f"model.path={folder}", "model.final_norm=fairseq"
    assert extract_clip(*options) == 0
    last = model(waveform[None]).last_hidden_state
    assert (features(tmp_path / "out") - last.mT).abs().max() <= 1e-5
    assert "model.final_norm" not in identity(tmp_path / "out"), "no layer is named"
    before = contents(tmp_path / "out")

    assert extract_clip(*options, "model.layer=-1") == 2
    assert contents(tmp_path / "out") == before
    assert extract_clip(*options, "model.layer=-1", "overwrite=true") == 0
    named = features(tmp_path / "out").mT
    assert (model.encoder.layer_norm(named) - last).abs().max() <= 1e-4
    assert (named - last).abs().max() > 1e-2
    assert identity(tmp_path / "out")["model.final_norm"] == "fairseq"
