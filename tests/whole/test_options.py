"""Ranges, names and defaults of the options: derived from the schema, held for every one of it."""

import re
from dataclasses import dataclass, replace
from enum import Enum

import pytest

from extract import choices
from extract.config import Config
from extract.fields import Range
from extract.models.wanted import FinalNorm
from extract.options import check, is_number, options, schema_of
from extract.run_name import run_name
from extract.store.layout import DType, LayoutOptions, TrainingAudio
from extract.values import Gain, Resampler

NUMBERS = [name for name, option in options().items() if is_number(option)]


OF_CHOICES = {"store": "layouts", "engine": "engines"}


def config_with(name, value):
    config = Config()
    config.model.name = "hubert"
    group, _, key = name.rpartition(".")
    if group in OF_CHOICES and not hasattr(getattr(config, group), key):  # of some choices alone
        schemas = [schema_of(group, choice) for choice in choices.own(OF_CHOICES[group])]
        setattr(config, group, next(schema for schema in schemas if hasattr(schema(), key))())
    setattr(getattr(config, group) if group else config, key, value)
    return config


def test_there_are_numbers():
    assert {"seed", "audio.alpha", "loader.num_workers", "shard.count"} < {*NUMBERS}


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_has_a_range_that_its_default_is_in(name):
    option = options()[name]
    allowed = option.metadata.get("range")
    assert isinstance(allowed, Range), f"{name}: give it a range: `number(...)` in config.py"
    assert (allowed.at_least, allowed.above) != (None, None)
    assert option.default in (None, "auto") or option.default in allowed
    check(config_with(name, option.default))


def outside(allowed):
    """Numbers just outside a range, and those in no range."""
    if allowed.at_least is not None:
        yield from (allowed.at_least - 0.05, allowed.at_least - 1)
    if allowed.above is not None:
        yield from (allowed.above, allowed.above - 1)
    if allowed.at_most is not None:
        yield from (allowed.at_most * 1.01, 10 * allowed.at_most)
    yield from (float("nan"), float("inf"), -float("inf"))


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_outside_its_range_is_refused_with_name_value_and_range(name):
    allowed = options()[name].metadata["range"]
    for value in outside(allowed):
        with pytest.raises(ValueError, match=name) as refused:
            check(config_with(name, value))
        assert str(refused.value).startswith(f"{name}: {value!r}; needed {allowed}")


# What is taken, and what is not: written down, so that no range widens unseen.
BOUNDS = {
    "audio.alpha": ((0, 1), (-1e-9, 1 + 1e-9)),
    "audio.maxx": ((1e-6, 1), (0, 1 + 1e-9)),
    "audio.max_peak": ((1e-6, 1e6), (0, -1)),
    "audio.min_duration_s": ((0, 600), (-1e-9,)),
    "audio.max_duration_s": ((1e-6, 1e6), (0,)),
    "audio.scale": ((1e-6, 1e6), (0, -1)),
    "audio.min_samples": ((0, 16_000), (-1, 16_001)),
    "audio.norm_eps": ((1e-9, 1), (0, 1.01)),
    "audio.resampler_width": ((1, 1000), (0, 1001)),
    "loader.num_workers": ((0, 1024), (-1, 1025)),
    "loader.batch_seconds": ((0.1, 1e6), (0, 0.099)),
    "loader.prefetch": ((1, 1000), (0, 1001)),
    "loader.side_by_side": ((1, 1024), (0, 1025)),
    "loader.decoded_mb": ((0, 1e6), (-1,)),
    "loader.timeout_s": ((1e-6, 1e6), (0,)),
    "store.num_writers": ((1, 1024), (0, 1025)),
    "store.ark_mb": ((1e-6, 1e6), (0, -1)),
    "store.shard_mb": ((1e-6, 1e6), (0, -1)),
    "engine.num_gpus": ((0, 0.5, 64), (-1, 64.1)),
    "engine.num_cpus": ((1, 1024), (0, 1025)),
    "engine.max_retries": ((0, 1000), (-1, 1001)),
    "shard.index": ((0,), (-1,)),
    "shard.count": ((1, 1_000_000), (0, 1_000_001)),
    "seed": ((0, 2**64 - 1), (-1, 2**64)),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_the_ends_of_a_range_are_taken_and_what_is_beyond_is_not(name):
    taken, refused = BOUNDS[name]
    for value in taken:
        check(with_effect(config_with(name, value)))
    for value in refused:
        with pytest.raises(ValueError, match=name):
            check(with_effect(config_with(name, value)))


def with_effect(config):
    """The config with the other options that its own has an effect with."""
    if config.audio.resampler_width is not None:
        config.audio.resampler = Resampler.torchaudio
    return config


@pytest.mark.parametrize(
    ("taken", "refused"),
    [((0, 0), None), ((16_000, 16_000), None), ((0, 16_001), 16_001), ((-1, 0), -1)],
)
def test_each_of_two_numbers_is_in_its_range(taken, refused):
    config = config_with("audio.pad_samples", taken)
    if refused is None:
        check(config)
        return
    with pytest.raises(ValueError, match=f"^audio.pad_samples: {refused}; needed 0 to 16000$"):
        check(config)


def test_no_gate_of_the_peak_is_a_value():
    check(config_with("audio.max_peak", None))
    with pytest.raises(ValueError, match=r"^audio.min_duration_s: None; needed at least 0"):
        check(config_with("audio.min_duration_s", None))


# --- options without an effect -------------------------------------------------------------------

IDLE = [
    ("audio.maxx", 0.9, "audio.gain", Gain.none, "peak_blend"),
    ("audio.alpha", 0.3, "audio.gain", Gain.none, "peak_blend"),
    ("audio.resampler_width", 128, "audio.resampler", Resampler.soxr, "torchaudio"),
]


@pytest.mark.parametrize(("name", "value", "owner", "of_owner", "needed"), IDLE)
def test_an_option_that_would_change_nothing_is_refused_with_what_it_needs(
    name, value, owner, of_owner, needed
):
    config = config_with(owner, of_owner)
    check(config)
    setattr(config.audio, name.removeprefix("audio."), value)
    with pytest.raises(ValueError, match=name) as refused:
        check(config)
    assert str(refused.value) == (
        f"{name}={value}: it has no effect with {owner}={of_owner.name}; "
        f"needed {owner}={needed}, or {name} left out"
    )
    setattr(config.audio, owner.removeprefix("audio."), type(of_owner)[needed])
    check(config)


def test_a_name_has_no_setting_without_an_effect_and_says_what_is_none():
    config = config_with("audio.gain", Gain.none)
    config.audio.max_peak, config.audio.pad_samples = None, (40, 41)
    config.model.input_norm = type(config.model.input_norm).none
    assert run_name(config) == "hubert-input_norm_none-max_peak_none-gain_none-pad_samples40_41"


@pytest.mark.parametrize(
    ("allowed", "said"),
    [
        (Range(at_least=0, at_most=1), "0 to 1"),
        (Range(above=0, at_most=1), "more than 0, at most 1"),
        (Range(above=0), "more than 0, and finite"),
        (Range(at_least=0.1), "at least 0.1, and finite"),
    ],
)
def test_a_range_says_what_it_takes(allowed, said):
    assert str(allowed) == said


@pytest.mark.parametrize("value", ["3", "12"])
def test_a_number_may_come_as_text_from_the_environment(value):
    check(config_with("loader.num_workers", value))
    check(config_with("loader.batch_seconds", f"{value}.5"))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("loader.num_workers", "many", "loader.num_workers: 'many'; needed 0 to 1024 or auto"),
        ("loader.num_workers", "2.5", "loader.num_workers: '2.5'; needed 0 to 1024 or auto"),
        ("loader.num_workers", "-1", "loader.num_workers: '-1'; needed 0 to 1024 or auto"),
        ("loader.batch_seconds", "nan", "loader.batch_seconds: 'nan'; needed at least 0.1"),
        ("shard.index", 1, "shard.index=1 shard.count=1; needed 0 <= index < count"),
        (
            "audio.min_duration_s",
            601.0,
            "audio.min_duration_s=601.0 audio.max_duration_s=600.0; needed min <= max",
        ),
    ],
)
def test_what_is_no_such_number_is_refused(name, value, said):
    with pytest.raises(ValueError, match=name) as refused:
        check(config_with(name, value))
    assert str(refused.value).startswith(said)


def test_equal_limits_of_the_duration_are_taken():
    config = config_with("audio.min_duration_s", 600.0)
    check(config)


# What changes no number of a store, or is said by the path before a run's name.
NOT_SAID = {
    *("dataset.name", "dataset.kind", "dataset.path", "dataset.audio_dir", "dataset.extensions"),
    *("dataset.subfolder", "dataset.ids", "store.embedder_model"),
    *("dataset.audio_key", "dataset.root", "dataset.split", "dataset.config", "dataset.column"),
    *("dataset.id_column", "dataset.audio_column", "dataset.columns", "dataset.extension"),
    *("dataset.delimiter", "dataset.header", "dataset.quotes"),
    *("model.path", "loader.num_workers", "loader.batch_seconds", "loader.prefetch"),
    *("loader.timeout_s", "loader.start_method", "store.dir", "store.num_writers", "store.fsync"),
    *("loader.side_by_side", "loader.decoded_mb", "store.ark_mb", "store.shard_mb"),
    *("store.verify", "store.subfolders", "store.lock", "store.scratch"),
    *("shard.index", "shard.count", "engine.kind", "device", "cpu_fallback"),
    *("share_features", "retry_failed", "overwrite", "preflight"),
    *("engine.address", "engine.num_gpus", "engine.num_cpus", "engine.max_retries"),
    *("report.page", "report.tensorboard"),
    *("quantizer.kind", "quantizer.path"),  # units join the features that are there
    *("quantizer.format", "quantizer.dedup"),
}


def others(name):
    """Two values of an option that are not its default, as unlike as they get."""
    default = options()[name].default
    if isinstance(default, Enum):
        return [value for value in type(default) if value is not default][:2]
    if is_number(options()[name]):
        return [0.1234561, 0.1234562] if isinstance(default, float) else [1, 2]
    return ["some", "other"]


@pytest.mark.parametrize("name", options())
def test_a_run_is_named_by_every_setting_that_changes_what_is_in_its_store(name):
    names = [run_name(config_with(name, value)) for value in others(name)]
    names.append(run_name(config_with("model.name", "hubert")))
    if name in NOT_SAID:  # an option of one layout comes with that layout's name
        plain = {re.sub("-(applio|kaldi|webdataset)", "", one) for one in names}
        assert plain == {"hubert-maxx0.95-alpha0.5"}
    else:
        assert len(set(names)) == len(others(name)) + 1


def test_the_names_of_runs_stay_what_they_are():
    config = config_with("model.name", "hubert_base")
    assert run_name(config) == "hubert_base-maxx0.95-alpha0.5"
    config.model.layer, config.precision = 9, type(config.precision).bf16
    config.audio = replace(
        config.audio, alpha=0.3, max_peak=3.0, max_duration_s=54.0, min_duration_s=0.6
    )
    config.audio.resampler = type(config.audio.resampler).torchaudio
    assert run_name(config) == (
        "hubert_base-layer9-bf16-maxx0.95-alpha0.3-torchaudio-max_peak3-min_duration_s0.6-"
        "max_duration_s54"
    )


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("model.layer", -1, "layer-1"),
        ("model.layer", [12, 6, 9], "layer12_6_9"),
        ("model.layer", "all", "layerall"),
        ("model.projection", True, "projection"),
        ("model.projection", False, "no_projection"),
        ("model.final_norm", FinalNorm.fairseq, "fairseq"),
    ],
)
def test_what_is_taken_of_a_model_is_in_a_runs_name(name, value, said):
    config = config_with(name, value)
    config.model.name = "hubert"
    check(config)
    assert run_name(config) == f"hubert-{said}-maxx0.95-alpha0.5"


def test_a_layout_is_in_a_runs_name_by_its_name_alone():
    """Each layout's own default of `store.layout` is itself, and two would share a folder."""

    @dataclass
    class Options(LayoutOptions):
        layout: str = "other"

    config = Config(store=Options())
    config.model.name = "hubert"
    assert run_name(config) == "hubert-other-maxx0.95-alpha0.5"
    config.store.dtype, config.store.audio = DType.float16, TrainingAudio.none
    assert run_name(config) == "hubert-other-float16-audio_none-maxx0.95-alpha0.5"


def test_a_runs_name_is_one_folder():
    assert "/" not in run_name(config_with("model.revision", "refs/pr/1"))
