"""A store knows what its numbers are made of."""

import json
import os
import unicodedata
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extract.frames import ConvStack
from extract.models.wanted import Wanted
from extract.store import differences, metadata
from extract.values import AudioSettings
from support.posix import FOLDERS, PIPE


def identity(
    weights: str = "abc",
    layer: int = 12,
    precision: str = "float32",
    input_norm: str = "none",
    dtype: str | None = None,
    training_audio: bool = True,
    **audio,
):
    return metadata.identity(
        AudioSettings(**audio),
        weights=weights,
        model=Wanted((layer,)),
        precision=precision,
        source="/data",
        layout="gpt_sovits",
        input_norm=input_norm,
        dtype=dtype,
        training_audio=training_audio,
    )


CHANGES = {
    "model.weights": {"weights": "other"},
    "model.layer": {"layer": 9},
    "precision": {"precision": "float16"},
    "audio.alpha": {"alpha": 0.3},
    "audio.maxx": {"maxx": 0.9},
    "audio.max_peak": {"max_peak": 2.0},
    "audio.min_duration_s": {"min_duration_s": 0.6},
    "audio.max_duration_s": {"max_duration_s": 54.0},
    "audio.resampler": {"resampler": "torchaudio"},
}


# Of these an identity says nothing where they are as they were before there was a choice.
LATER = {
    "model.input_norm": ({"input_norm": "unit_variance"}, "none", "unit_variance"),
    "store.dtype": ({"dtype": "float16"}, "auto", "float16"),
    "store.audio": ({"training_audio": False}, "wav32k", "none"),
    "audio.rate_path": ({"rate_path": "direct"}, "via_32k", "direct"),
    "audio.mix": ({"mix": "mean"}, "ffmpeg", "mean"),
    "audio.gain": ({"gain": "none"}, "peak_blend", "none"),
    "audio.scale": ({"scale": 1.0}, 1145.14, 1.0),
    "audio.resampler_width": ({"resampler_width": 128}, None, 128),
    "audio.pad_samples": ({"pad_samples": (40, 41)}, [0, 0], [40, 41]),
    "audio.min_samples": ({"min_samples": 400}, 0, 400),
    "audio.norm_eps": ({"norm_eps": 1e-5}, 1e-7, 1e-5),
}


@pytest.mark.parametrize("key", LATER)
def test_a_later_setting_is_said_only_where_it_is_not_as_it_was(key):
    change, before, now = LATER[key]
    ours = identity(**change)
    assert ours == {**identity(), key: now}
    for store in (identity(), json.loads(json.dumps(identity()))):  # also one of an old version
        assert differences.compare(store, ours).differing == {key: (before, now)}
        assert differences.compare(ours, store).differing == {key: (now, before)}
    assert not differences.compare(json.loads(json.dumps(ours)), ours).differing
    assert not differences.compare({**identity(), key: before}, identity()).differing
    assert not differences.compare(ours, identity(**change, max_peak=None)).differing.keys() - {
        "audio.max_peak"
    }


def test_the_later_settings_are_all_that_the_first_version_did_not_have():
    names = {f"audio.{field.name}" for field in fields(AudioSettings)}
    first = {key for key in identity() if key.startswith("audio.")}
    assert {key for key in LATER if key.startswith("audio.")} == names - first


def test_what_changes_no_file_is_in_no_identity():
    assert identity(dtype="float32") == identity()
    plain = {"rate_path": "direct"}  # no training audio is made, whether it is wanted or not
    assert identity(training_audio=False, **plain) == identity(**plain)


def test_a_new_way_to_16_khz_is_another_setting():
    direct, over = identity(rate_path="direct"), identity(rate_path="via_44k")
    assert over == {**identity(), "audio.rate_path": "via_44k"}
    assert differences.compare(direct, over).differing == {"audio.rate_path": ("direct", "via_44k")}


@pytest.mark.parametrize("key", CHANGES)
def test_everything_that_changes_the_numbers_is_seen_and_named(key):
    comparison = differences.compare(identity(), identity(**CHANGES[key]))
    assert set(comparison.differing) == {key}
    assert comparison.only_gates is (key.removeprefix("audio.") in metadata.GATES)


def test_nothing_else_is_in_an_identity():
    assert set(identity()) == {*CHANGES, "dataset.path", "layout"}


def test_the_same_settings_do_not_differ():
    assert not differences.compare(identity(), identity()).differing
    assert not differences.compare(None, identity()).differing
    assert not differences.compare(json.loads(json.dumps(identity())), identity()).differing


def test_a_key_that_only_one_side_knows_differs():
    older = identity()
    del older["audio.maxx"]
    assert set(differences.compare(older, identity()).differing) == {"audio.maxx"}
    assert set(differences.compare({**identity(), "new": 1}, identity()).differing) == {"new"}


def test_gates_beside_other_changes_are_not_only_gates():
    both = differences.compare(identity(), identity(max_peak=2.0, alpha=0.3))
    assert not both.only_gates


def test_the_message_shows_both_sides_and_the_ways_out(tmp_path):
    weights = "0123456789abcdef" * 4
    comparison = differences.compare(identity(), identity(alpha=0.25, weights=weights))
    lines = comparison.message(str(tmp_path)).splitlines()
    assert str(tmp_path) in lines[0]
    [row] = [line.split() for line in lines if "audio.alpha" in line]
    assert row == ["audio.alpha", "0.5", "0.25"]
    [row] = [line.split() for line in lines if "model.weights" in line]
    assert row == ["model.weights", "abc", "0123456789abcdef01234..."]
    assert "store.dir=DIR" in lines[-1]
    assert "overwrite=true" in lines[-1]


def test_what_is_written_is_read_back(tmp_path):
    assert metadata.read(tmp_path) is None
    metadata.write(tmp_path, identity(), {"torch": "2.11"})
    data = metadata.read(tmp_path)
    assert data["identity"] == identity()
    assert data["made_with"] == {"torch": "2.11"}
    assert [path.name for path in tmp_path.iterdir()] == ["metadata.json"]


def test_metadata_is_made_of_these_bytes(tmp_path):
    """Stores outlive versions: another text here is a store that refuses to go on."""
    run = metadata.identity(
        AudioSettings(),
        weights="0123abcd",
        model=Wanted((12,)),
        precision="float16",
        source="/data/ä",
        layout="gpt_sovits",
    )
    made_with = {"model": "some/model", "torch": "2.11.0"}
    metadata.write(tmp_path, run, made_with, ConvStack(((10, 5), (8, 4))))
    assert (
        (tmp_path / "metadata.json").read_bytes().decode()
        == """{
  "format": 1,
  "identity": {
    "dataset.path": "/data/ä",
    "model.weights": "0123abcd",
    "model.layer": 12,
    "precision": "float16",
    "audio.max_peak": 2.2,
    "audio.maxx": 0.95,
    "audio.alpha": 0.5,
    "audio.min_duration_s": 0.0,
    "audio.max_duration_s": 600.0,
    "audio.resampler": "soxr",
    "layout": "gpt_sovits"
  },
  "made_with": {
    "model": "some/model",
    "torch": "2.11.0"
  },
  "frames": {
    "sample_rate": 16000,
    "hop": 20,
    "conv_layers": [
      [
        10,
        5
      ],
      [
        8,
        4
      ]
    ]
  }
}
"""
    )


def test_a_path_that_is_not_unicode_is_read_back_as_it_was(tmp_path):
    run = {"dataset.path": "/data/\udcff"}
    metadata.write(tmp_path, run, {})
    assert metadata.read(tmp_path)["identity"] == run


@pytest.mark.parametrize("fsync", [pytest.param(True, marks=FOLDERS), False])
def test_metadata_is_whole_or_not_there_and_survives_a_power_cut_if_asked_to(
    tmp_path, monkeypatch, fsync
):
    events = []
    for name in ("fsync", "rename", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *args, real=real, name=name: (events.append(name), real(*args))
        )
    metadata.write(tmp_path, identity(), {}, fsync=fsync)
    assert events == (["fsync", "replace", "fsync"] if fsync else ["replace"])


def test_metadata_that_cannot_be_written_stays_as_it_was(tmp_path, monkeypatch):
    metadata.write(tmp_path, identity(), {"torch": "2.11"})
    before = (tmp_path / "metadata.json").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        metadata.write(tmp_path, identity(layer=1), {"torch": "2.12"})
    assert (tmp_path / "metadata.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["metadata.json"]


A = "/data/some/folder/with/a/long/name"
APART = [
    (f"{A}/one", f"{A}/two"),
    (A, f"{A}/below"),
    (A, A + " "),
    ("/data/caf\u00e9", "/data/cafe\u0301"),
    ("\x1b[31mred", "\x1b[32mgreen"),
    ("a" * 999 + "x", "a" * 999 + "y" * 999),
    (1, "1"),
    (None, "None"),
    ([1, 2], [1, 3]),
    ("\ud800", "\ud801"),
]


@pytest.mark.parametrize(("theirs", "ours"), APART)
def test_what_differs_is_shown_where_it_differs_and_is_printable(tmp_path, theirs, ours):
    shown = differences.shown_apart(theirs, ours)
    assert shown[0] != shown[1]
    assert unicodedata.normalize("NFC", shown[0]) != unicodedata.normalize("NFC", shown[1])
    assert all(len(text) <= 24 and text.isprintable() for text in shown)
    message = differences.Comparison({"\x1b[2Jkey": (theirs, ours)}).message(str(tmp_path))
    assert message.replace("\n", "").isprintable()
    assert all(text in message for text in shown)


@given(st.text(min_size=1), st.text(), st.text())
def test_two_values_never_look_alike(start, one, other):
    theirs, ours = start + one, start + other
    if theirs != ours and "." not in theirs + ours:  # what is left out is shown as dots
        shown = differences.shown_apart(theirs, ours)
        assert shown[0] != shown[1]
        assert all(len(text) <= 24 and text.isprintable() for text in shown)


def test_a_message_is_bounded_whatever_the_metadata_hold(tmp_path):
    many = {f"{n}" * 1000: (None, n) for n in range(1000)}
    message = differences.Comparison(many).message(str(tmp_path))
    assert "and 980 more" in message
    assert len(message) < 4_000


UNREADABLE = ["null", '{"format": 1}', '{"format": 1, "identity": null}', "[" * 100_000]
UNREADABLE += ['{"format": true, "identity": {}}', '{"format": 1, "identity": []}', "1" * 5_000]


@pytest.mark.parametrize("stands_there", ["folder", "link", PIPE, "not utf-8"])
def test_metadata_that_are_no_file_of_ours_are_named(tmp_path, stands_there):
    path = tmp_path / "metadata.json"
    if stands_there == "folder":
        path.mkdir()
    elif stands_there == "link":
        metadata.write(tmp_path, identity(), {})
        path.symlink_to(path.rename(tmp_path / "elsewhere"))
    elif stands_there == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(b"\xff\xfe")
    with pytest.raises(metadata.Unreadable, match=r"metadata\.json"):
        metadata.read(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 99}', *UNREADABLE])
def test_metadata_that_is_not_ours_is_named(tmp_path, text):
    (tmp_path / "metadata.json").write_text(text)
    with pytest.raises(ValueError, match=r"metadata\.json"):
        metadata.read(tmp_path)
