"""The pages "Coming from ..." run as they are written, and give what the tool itself gives.

The commands run in a folder where the tool's model and recordings lie under the tool's own names,
so that a preset alone finds them. `support.tools` has each tool's step.
"""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import HubertConfig

from extract.commands import fairseq, kmeans, quantize
from extract.store.layout import Layout
from extract.store.layouts import applio
from extract.store.store import Store
from support import tools
from support.checkpoints import fairseq_file
from support.models import LARGE, SIZES
from support.recordings import speech_like
from support.stores import ledger
from support.tools import WithFinalProj

DOCS = Path(__file__).parents[2] / "docs"
HERE = ("device=cpu", "loader.num_workers=0")
# librosa.load imports audioread, and that what Python 3.13 has dropped.
pytestmark = pytest.mark.filterwarnings("ignore:'(aifc|audioop|sunau)':DeprecationWarning")


def commands(page: str) -> list[list[str]]:
    """The arguments of each `python -m extract` in a page's blocks of shell commands."""
    blocks = re.findall(r"^```sh\n(.*?)^```", (DOCS / f"{page}.md").read_text(), re.M | re.S)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    found = [shlex.split(line) for line in lines]
    assert all(words[:3] == ["python", "-m", "extract"] for words in found)
    return [words[3:] for words in found]


def model_of(seed: int = 0, **settings: object) -> WithFinalProj:
    """A small ContentVec with lively norms: 12 layers, and a `final_proj` to 20 numbers."""
    sizes = {**SIZES, "num_hidden_layers": 12, "classifier_proj_size": 20, **settings}
    torch.manual_seed(seed)
    model = WithFinalProj(HubertConfig(**sizes)).eval().requires_grad_(False)
    for weight in model.parameters():
        if weight.dim() == 1:
            weight += 0.1 * torch.randn_like(weight)
    return model


def save_file(model: WithFinalProj, path: Path, *, normalize: bool = False) -> WithFinalProj:
    """A model as fairseq saves it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    held = fairseq_file(model, normalize=normalize)
    held["model"]["final_proj.weight"] = model.final_proj.weight
    held["model"]["final_proj.bias"] = model.final_proj.bias
    held["cfg"]["model"]["final_dim"] = model.config.classifier_proj_size
    torch.save(held, path)
    return model


def record(path: Path, seconds: float, rate_hz: int = 16_000, num_channels: int = 1) -> None:
    """A recording with another sound in each channel; in float32, as RVC's and Applio's are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = len(path.name) + round(1000 * seconds)
    channels = [speech_like(seconds, seed + one, rate_hz) for one in range(num_channels)]
    soundfile.write(path, np.stack(channels, axis=1), rate_hz, "FLOAT")


def sliced(folder: Path, *, stereo: bool = True) -> None:
    for number, seconds in enumerate((0.025, 0.31, 0.9, 1.27)):
        record(folder / f"0_{number}.wav", seconds, num_channels=1 + (stereo and number == 2))


def assert_written(folder: Path, expected: dict, read: Callable, ending: str) -> None:
    """The files of an ending below a folder are those expected, alike in shape, dtype, values."""
    found = {str(path.relative_to(folder)) for path in folder.rglob(f"*{ending}")}
    assert found == set(expected)
    for name, theirs in expected.items():
        ours = read(folder / name)
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), name
        assert np.abs(np.asarray(ours) - np.asarray(theirs)).max() <= 1e-5, name


def load_pt(path: Path) -> torch.Tensor:
    return torch.load(path, weights_only=True)


# --- RVC and Applio ------------------------------------------------------------------------------


def test_rvc_finds_the_features_of_both_versions(command, tmp_path):
    shipped = tools.save_folder(model_of(), tmp_path / "assets" / "hubert_base")
    # Version 1 at the shapes of RVC's own `hubert_base.pt`, but for the inner layers.
    of_rvc = {"hidden_size": 768, "num_attention_heads": 12, "num_conv_pos_embedding_groups": 16}
    large = model_of(**of_rvc, intermediate_size=64, classifier_proj_size=256)
    save_file(large, tmp_path / "hubert_base.pt")
    two, one = tmp_path / "logs" / "EXP", tmp_path / "logs" / "EXP_V1"
    for experiment in (two, one):
        sliced(experiment / "1_16k_wavs")
        record(experiment / "0_gt_wavs" / "0_0.wav", 0.5, 40_000)
    of_v2, of_v1 = commands("coming_from_rvc")[:2]

    assert command(*of_v2, *HERE) == 0
    assert_written(two, tools.rvc(two, shipped, "v2", normalize=False), np.load, ".npy")
    assert {path.name for path in two.iterdir()} == {
        *("0_gt_wavs", "1_16k_wavs", "3_feature768", "ledger.jsonl", "metadata.json", ".extract")
    }
    assert command(*of_v1, *HERE) == 0
    expected = tools.rvc(one, large, "v1", normalize=False)
    assert {array.shape[1] for array in expected.values()} == {256}
    assert_written(one, expected, np.load, ".npy")


def test_rvc_normalises_where_the_models_preprocessor_says_so(command, tmp_path):
    model = model_of(**LARGE)
    shipped = tools.save_folder(model, tmp_path / "assets" / "hubert_base", normalize=True)
    exp = tmp_path / "EXP"
    sliced(exp / "1_16k_wavs")
    quiet = exp / "1_16k_wavs" / "quiet.wav"
    soundfile.write(quiet, 1e-3 * speech_like(0.7), 16_000, "FLOAT")
    assert command("preset=rvc_v2", "dataset.path=EXP", *HERE) == 0
    assert_written(exp, tools.rvc(exp, shipped, "v2", normalize=True), np.load, ".npy")


def test_a_bad_recording_is_named_and_a_second_run_changes_no_file(command, tmp_path):
    """Nor does a run of the other version in the same experiment: it is refused."""
    tools.save_folder(model_of(), tmp_path / "assets" / "hubert_base")
    exp = tmp_path / "EXP"
    sliced(exp / "1_16k_wavs")
    torn = exp / "1_16k_wavs" / "torn.wav"
    torn.write_bytes(b"RIFF")
    run = ("preset=rvc_v2", "dataset.path=EXP", *HERE)
    assert command(*run) == 1
    [failed] = [line for line in ledger(exp) if line["status"] != "saved"]
    assert (failed["id"], failed["reason"]) == ("torn", "undecodable")

    torn.unlink()
    before = {path: path.stat().st_mtime_ns for path in exp.rglob("*.npy")}
    assert len(before) == 4
    assert command(*run) == 0
    assert command("preset=rvc_v1", "dataset.path=EXP", *HERE) == 2
    assert before == {path: path.stat().st_mtime_ns for path in exp.rglob("*.npy")}


@pytest.mark.skipif(not hasattr(Layout, "replaces_foreign"), reason="no layout replaces files yet")
def test_what_rvc_wrote_is_replaced_where_the_run_names_it_and_else_kept(command, tmp_path):
    shipped = tools.save_folder(model_of(), tmp_path / "assets" / "hubert_base")
    exp, zeros = tmp_path / "EXP", np.zeros((3, 768), np.float32)
    sliced(exp / "1_16k_wavs")
    (exp / "3_feature768").mkdir()
    for name in ("0_0.npy", "mute.npy"):
        np.save(exp / "3_feature768" / name, zeros)
    assert command("preset=rvc_v2", "dataset.path=EXP", *HERE) == 0
    expected = tools.rvc(exp, shipped, "v2", normalize=False)
    assert_written(exp, {**expected, "3_feature768/mute.npy": zeros}, np.load, ".npy")


def test_applio_finds_the_features_and_the_embedders_name(command, tmp_path):
    embedders = tmp_path / "rvc" / "models" / "embedders"
    contentvec = tools.save_folder(model_of(), embedders / "contentvec")
    spin = tools.save_folder(model_of(1), embedders / "spin-v2")
    exp, other = tmp_path / "logs" / "EXP", tmp_path / "logs" / "EXP_SPIN"
    for experiment in (exp, other):
        sliced(experiment / "sliced_audios_16k")
        record(experiment / "sliced_audios_16k" / "0_9.wav", 0.7, 22_050)
    noted = {"total_dataset_duration": "00:00:02", "total_seconds": 2.5}
    (exp / "model_info.json").write_text(json.dumps(noted, indent=4))
    for words in commands("coming_from_rvc")[2:]:
        assert command(*words, *HERE) == 0
    assert_written(exp, tools.applio(exp, contentvec), np.load, ".npy")
    assert_written(other, tools.applio(other, spin), np.load, ".npy")
    info = json.loads((exp / "model_info.json").read_text())
    assert info == {**noted, "embedder_model": "contentvec"}
    assert json.loads((other / "model_info.json").read_text()) == {"embedder_model": "spin-v2"}

    spin_in_exp = ("preset=applio", f"dataset.path={exp}", f"model.path={embedders}/spin-v2", *HERE)
    assert command(*spin_in_exp) == 2
    assert json.loads((exp / "model_info.json").read_text()) == info
    assert command(*spin_in_exp, "overwrite=true") == 0
    assert_written(exp, tools.applio(exp, spin), np.load, ".npy")
    changed = json.loads((exp / "model_info.json").read_text())
    assert changed == {**noted, "embedder_model": "spin-v2"}


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("./rvc/models/embedders/contentvec", "contentvec"),
        ("rvc/models/embedders/japanese_hubert_base/", "japanese-hubert-base"),
        ("/models/my_contentvec", "/models/my_contentvec"),
        ("spin", "spin"),
    ],
)
def test_an_embedder_is_noted_as_applio_names_it(path, said):
    assert applio.embedder(path) == said


@pytest.mark.parametrize("text", ["", "[1]", '{"embedder_model": "spin"'])
def test_a_damaged_model_info_of_applios_is_named_before_any_work(tmp_path, text):
    info = tmp_path / "model_info.json"
    info.write_text(text)
    options = applio.Options(str(tmp_path), embedder_model="spin")
    with pytest.raises(ValueError, match=f"{info}: cannot be read: .*; needed a JSON object"):
        Store(tmp_path, options=options).create()
    assert info.read_text() == text


# --- so-vits-svc and DDSP-SVC --------------------------------------------------------------------


def sung(folder: Path) -> None:
    record(folder / "alice" / "a.wav", 1.3, 44_100)
    record(folder / "alice" / "b.wav", 0.71, 44_100, num_channels=2)
    record(folder / "bob" / "a.wav", 0.5, 22_050)
    record(folder / "bob" / "c.wav", 0.9, 48_000)


def test_so_vits_svc_finds_the_features_of_both_encoders(command, tmp_path):
    model = save_file(model_of(), tmp_path / "pretrain" / "checkpoint_best_legacy_500.pt")
    encoders = {
        "dataset/44k": lambda waveform: tools.layer(model, waveform, 12),
        "dataset/44k_256": lambda waveform: model.final_proj(tools.layer(model, waveform, 9)),
    }
    for folder in encoders:
        sung(tmp_path / folder)
    of_so_vits = commands("coming_from_so_vits_svc")[:2]
    for words, (folder, encode) in zip(of_so_vits, encoders.items(), strict=True):
        for _again in range(2):
            assert command(*words, *HERE) == 0
        expected = tools.so_vits_svc(tmp_path / folder, encode)
        assert len(expected) == 4
        assert_written(tmp_path / folder, expected, load_pt, ".pt")
        assert len(ledger(tmp_path / folder)) == 4


def test_ddsp_svc_finds_the_units_of_both_sets(command, tmp_path):
    path = tmp_path / "pretrain" / "contentvec" / "checkpoint_best_legacy_500.pt"
    model = save_file(model_of(), path)
    folders = [tmp_path / "data" / "train", tmp_path / "data" / "val"]
    for folder, words in zip(folders, commands("coming_from_so_vits_svc")[2:], strict=True):
        sung(folder / "audio")
        record(folder / "audio" / "short.wav", 0.02, 44_100)
        assert command(*words, *HERE) == 0
        assert_written(folder, tools.ddsp_svc(folder, model), np.load, ".npy")


# --- fairseq -------------------------------------------------------------------------------------


def test_fairseq_finds_the_features_of_its_lists_in_shards(command, tmp_path):
    """Of a large model, which wants unit variance; one of the recordings is quiet."""
    model = save_file(model_of(**LARGE), tmp_path / "hubert_base_ls960.pt", normalize=True)
    lines = []
    for number, seconds in enumerate((0.9, 0.31, 1.27, 0.025, 0.6)):
        path = tmp_path / "flac" / f"{number % 2}" / f"{number}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = speech_like(seconds, number) * (1e-2 if number == 2 else 1)
        soundfile.write(path, samples, 16_000)
        lines.append(f"{path.relative_to(tmp_path / 'flac')}\t{len(samples)}\n")
    (tmp_path / "tsv").mkdir()
    tsv = tmp_path / "tsv" / "train.tsv"
    tsv.write_text(f"{tmp_path / 'flac'}\n" + "".join(reversed(lines)))
    of_fairseq, joined, fit, units = commands("coming_from_fairseq")
    assert command(*of_fairseq, *HERE) == 0
    assert joined[0] == "fairseq"
    assert fairseq.main(joined[1:]) == 0
    expected = tools.fairseq(tsv, model, 9, normalize=True)
    feat = tmp_path / "feat"
    lengths = [(feat / f"train_{rank}_2.len").read_text().splitlines() for rank in range(2)]
    assert list(map(len, lengths)) == [2, 3]
    assert [*map(int, lengths[0] + lengths[1])] == expected["len"].tolist()
    ours = np.concatenate([np.load(feat / f"train_{rank}_2.npy") for rank in range(2)])
    assert (ours.dtype, ours.shape) == (expected["npy"].dtype, expected["npy"].shape)
    assert np.abs(ours - expected["npy"]).max() <= 1e-5
    fit[fit.index("500")], fit[fit.index("0.1")] = "4", "1"  # there are but a hundred frames
    assert kmeans.main(fit[1:]) == 0
    assert quantize.main(units[1:]) == 0
    centres = np.load(tmp_path / "km500.npy").astype(np.float64)
    lines = (tmp_path / "lab" / "train.km").read_text().splitlines()
    each = np.split(ours.astype(np.float64), np.cumsum(expected["len"])[:-1])
    nearest = [np.square(one[:, None] - centres).sum(2).argmin(1).tolist() for one in each]
    assert [[*map(int, line.split())] for line in lines] == nearest
