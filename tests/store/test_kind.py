"""The kind of features, by which a quantizer is refused."""

import pytest

from extract.models.wanted import Wanted
from extract.store.kind import kind_of, layer_of, require_kind
from extract.store.metadata import identity
from extract.values import AudioSettings

ALL = {
    "model.weights": "abc",
    "model.layer": 9,
    "model.projection": False,
    "model.final_norm": "transformers",
    "model.input_norm": "none",
    "audio.scale": 1145.14,
    "audio.rate_path": "via_32k",
}


def made(layers=(9,), input_norm="none", final_norm=True, projected=False, **audio):
    return identity(
        AudioSettings(**audio),
        weights="abc",
        model=Wanted(layers, projected=projected, final_norm=final_norm),
        precision="float16",
        source="/there",
        layout="npy",
        input_norm=input_norm,
    )


def test_the_kind_is_seven_settings_also_where_an_identity_leaves_them_out():
    assert kind_of(made()) == ALL
    assert kind_of(made(scale=1.0, rate_path="direct")) == ALL | {
        "audio.scale": 1.0,
        "audio.rate_path": "direct",
    }
    other = kind_of(made(final_norm=False, projected=True))
    assert other == ALL | {"model.final_norm": "fairseq", "model.projection": True}


@pytest.mark.parametrize(
    "audio",
    [
        {"alpha": 0.1, "maxx": 0.5},
        {"gain": "none"},
        {"max_peak": 1.0, "max_duration_s": 3.0},
        {"resampler": "torchaudio", "mix": "mean"},
        {"pad_samples": (40, 40), "min_samples": 400, "norm_eps": 1e-5},
    ],
)
def test_level_gates_and_rounding_are_no_part_of_it(audio):
    assert kind_of(made(**audio)) == ALL


def test_behind_unit_variance_a_scale_is_no_part_of_it():
    one, other = (kind_of(made(input_norm="unit_variance", scale=scale)) for scale in (1.0, 99.0))
    assert one == other
    assert one["model.input_norm"] == "unit_variance"
    require_kind(one, made(input_norm="unit_variance", scale=7.0), "x")
    with pytest.raises(ValueError, match=r"model\.input_norm .*unit_variance .*none"):
        require_kind(one, made(), "x")


def test_what_is_not_known_refuses_nothing():
    require_kind({}, made(), "x")
    require_kind({"model.layer": 9}, made(), "x")
    with pytest.raises(ValueError, match=r"model\.layer") as caught:
        require_kind({"model.layer": 6}, made(), "some/store")
    assert str(caught.value).splitlines()[0] == (
        "some/store: features of another kind than the quantizer is for"
    )


def test_a_layer_of_several_is_named():
    several = made(layers=(6, 9))
    assert layer_of(several, 9, "x") == (9, 1)
    assert layer_of(made(), None, "x") == (9, 0)
    require_kind({"model.layer": 9}, several, "x", 9)
    for asked in (None, 7):
        with pytest.raises(ValueError, match="x: has the layers 6, 9; needed --layer"):
            layer_of(several, asked, "x")
