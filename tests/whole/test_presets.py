"""Presets on the command line: what they choose, what they give way to, help, sweeps, mistakes."""

from pathlib import Path

import pytest

from extract.config import Config
from extract.hydra_setup import conf_dir
from extract.run import job
from extract.run_name import run_name
from extract.words import prepared
from support.recordings import write_wav

PRESETS = sorted(path.stem for path in Path(conf_dir(), "preset").glob("*.yaml"))


@pytest.fixture
def given(command, monkeypatch):
    """Runs the command line up to `run_shard`; returns the config of each of its jobs."""
    configs: list[Config] = []

    def run_shard(config, *_, **_options):
        configs.append(config)
        raise ValueError("that is enough")

    monkeypatch.setattr(job, "run_shard", run_shard)

    def given(*argv):
        configs.clear()
        assert command(*argv) == 2
        return list(configs)

    return given


def chosen(config: Config) -> dict[str, object]:
    """What a preset chooses, as far as tools differ in it."""
    data, model, audio, store = config.dataset, config.model, config.audio, config.store
    folder = store.dir.removesuffix(f"/{run_name(config)}")
    return {
        "reads": (data.kind, getattr(data, "subfolder", None), getattr(data, "extensions", None)),
        "model": (model.path, model.layer, model.projection, model.input_norm.name),
        "final_norm": model.final_norm.name,
        "audio": (audio.rate_path.name, audio.resampler.name, audio.resampler_width),
        "plain": (audio.mix.name, audio.gain.name, audio.scale, audio.max_peak),
        "zeros": (audio.pad_samples, audio.min_samples),
        "norm_eps": audio.norm_eps,
        "writes": (store.layout, folder, getattr(store, "folder", None)),
        "precision": config.precision.name,
    }


EXP = "logs/a (1)"
ALL = {  # of every preset, if it says nothing else
    "final_norm": "transformers",
    "audio": ("direct", "soxr", None),
    "plain": ("mean", "none", 1.0, None),
    "zeros": ((0, 0), 0),
    "norm_eps": 1e-7,
    "precision": "fp32",
}
RVC = {
    "reads": ("folder", "1_16k_wavs", ["wav"]),
    "model": ("./assets/hubert_base", None, "auto", "auto"),
    "norm_eps": 1e-5,
    "writes": ("rvc", EXP, "3_feature768"),
    "precision": "auto",
}
CHOSEN = {
    "rvc_v2": RVC,
    "rvc_v1": {
        **RVC,
        "model": ("./assets/hubert_base", 9, True, "auto"),
        "writes": ("rvc", EXP, "3_feature256"),
    },
    "applio": {
        "reads": ("folder", "sliced_audios_16k", ["wav"]),
        "model": ("./rvc/models/embedders/contentvec", None, "auto", "none"),
        "writes": ("applio", EXP, None),
    },
    "so_vits_svc": {
        "reads": ("folder", None, ["wav"]),
        "model": ("./pretrain/checkpoint_best_legacy_500.pt", 12, "auto", "none"),
        "final_norm": "fairseq",
        "audio": ("via_44k", "soxr", None),
        "writes": ("so_vits_svc", EXP, None),
    },
    "ddsp_svc": {
        "reads": ("folder", "audio", ["wav"]),
        "model": ("./pretrain/contentvec/checkpoint_best_legacy_500.pt", 12, "auto", "none"),
        "final_norm": "fairseq",
        "audio": ("via_44k", "torchaudio", 128),
        "zeros": ((0, 0), 400),
        "writes": ("ddsp_svc", EXP, None),
    },
    "fairseq_km": {
        "reads": ("tsv", None, None),
        "model": ("facebook/hubert-base-ls960", 6, "auto", "auto"),
        "final_norm": "fairseq",
        "norm_eps": 1e-5,
        "writes": ("npy", "outputs/a (1)", None),  # by the run's name
    },
}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_chooses_what_the_tool_has_and_needs_the_path_alone(given, preset):
    """Written out here, so that no choice of a preset changes unseen."""
    [config] = given(f"preset={preset}", f"dataset.path={EXP}")
    assert config.dataset.path == EXP
    assert chosen(config) == {**ALL, **CHOSEN[preset]}


def test_the_command_line_comes_before_a_preset(given):
    of_rvc = ("preset=rvc_v1", "dataset.path=EXP")
    [config] = given(*of_rvc, "model=contentvec", "model.layer=5", "store.dir=x", "audio.scale=2")
    assert (config.model.path, config.model.layer) == ("lengyue233/content-vec-best", 5)
    assert (config.store.dir, config.store.folder, config.audio.scale) == ("x", "3_feature256", 2)
    for model in ("model.path=a b.pt", "model=local model.path='a b.pt'"):
        words = ["model=local", "model.path=a b.pt"] if "local" in model else [model]
        [config] = given(*words, *of_rvc)
        assert config.model.path == "a b.pt"
    [config] = given("preset=rvc_v2", "dataset.path=EXP", "store=npy", "precision=fp16")
    assert (config.store.layout, config.store.dir, config.precision.name) == ("npy", "EXP", "fp16")


def test_another_audio_of_a_preset_may_be_chosen(given):
    [config] = given("preset=ddsp_svc", "dataset.path=x", "audio.rate_path=direct")
    assert config.audio.rate_path.name == "direct"
    [config] = given("preset=rvc_v2", "dataset.path=x", "audio=gpt_sovits")
    assert config.audio.gain.name == "peak_blend"


@pytest.mark.parametrize("path", ["a(1)", "it's", "2024_11_25", "语音 [é], x", "~x", "a=b"])
def test_a_path_under_a_preset_is_taken_as_typed(given, path):
    [config] = given("preset=rvc_v2", f"dataset.path={path}", f"model.path={path}")
    assert (config.dataset.path, config.store.dir, config.model.path) == (path,) * 3


def test_a_home_folder_under_a_preset_is_that_of_the_store_too(given, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    [config] = given("dataset.path=~/EXP", "preset=so_vits_svc")
    assert config.dataset.path == config.store.dir == f"{tmp_path}/EXP"


def test_a_sweep_over_presets_gives_each_its_own_options(given):
    sweep = ("-m", "preset=rvc_v2,rvc_v1", "dataset.path=a(1)", "store.dir=o-${store.folder}")
    configs = given(*sweep, "dataset.subfolder=wavs")
    assert [config.dataset.path for config in configs] == ["a(1)"] * 2
    assert [config.dataset.subfolder for config in configs] == ["wavs"] * 2
    assert [config.store.dir for config in configs] == ["o-3_feature768", "o-3_feature256"]
    assert [config.model.layer for config in configs] == [None, 9]
    [word] = [word for word in prepared(sweep) if word.startswith("dataset.path")]
    assert word == "dataset.path=choice('a(1)')"


def test_a_sweep_over_paths_under_one_preset(given):
    configs = given("-m", "preset=so_vits_svc", "dataset.path=a(1), it's")
    assert [config.store.dir for config in configs] == ["a(1)", "it's"]


def test_help_lists_the_presets_and_cfg_shows_the_options_of_the_one_chosen(command, capsys):
    assert command("--help") == 0
    out = capsys.readouterr().out
    [line] = [line for line in out.splitlines() if line.strip().startswith("preset ")]
    assert line.split("preset ")[1].strip() == ", ".join(PRESETS)
    assert command("--cfg", "job", "preset=ddsp_svc") == 0
    out = capsys.readouterr().out
    assert "subfolder: audio" in out
    assert "rate_path: via_44k" in out
    assert "path: ???" in out  # not the path of `dataset=demo`, which is shown without a preset


def test_a_misspelled_preset_is_refused_with_those_there_are(command, capsys):
    assert command("preset=rvc", "dataset.path=x") == 2
    err = capsys.readouterr().err
    assert "preset/rvc" in err
    assert all(preset in err for preset in PRESETS)


@pytest.mark.parametrize("preset", ["rvc_v2", "applio", "so_vits_svc", "ddsp_svc"])
def test_a_model_that_is_not_in_the_working_folder_is_looked_for_on_no_hub(
    command, tmp_path, capsys, preset
):
    write_wav(tmp_path / "a.wav")
    assert command(f"preset={preset}", "dataset.path=.", "dataset.subfolder=null") == 2
    model = str(CHOSEN[preset]["model"][0])
    assert capsys.readouterr().err.replace("\n", " ").strip() == (
        f"{model}: no such folder or file; looked for {tmp_path / model}. Run this in the folder "
        "where that path starts, or name the model: model.path=PATH"
    )
    assert {path.name for path in tmp_path.iterdir()} == {"a.wav"}
