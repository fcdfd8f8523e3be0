"""A store knows what its numbers are made of."""

import json

import pytest

from extract import metadata
from extract.audio import AudioSettings


def identity(weights: str = "abc", layer: int = 12, precision: str = "float32", **audio):
    return metadata.identity(
        AudioSettings(**audio), weights=weights, layer=layer, precision=precision, source="/data"
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


@pytest.mark.parametrize("key", CHANGES)
def test_everything_that_changes_the_numbers_is_seen_and_named(key):
    comparison = metadata.compare(identity(), identity(**CHANGES[key]))
    assert set(comparison.differing) == {key}
    assert comparison.only_gates is (key.removeprefix("audio.") in metadata.GATES)


def test_nothing_else_is_in_an_identity():
    assert set(identity()) == {*CHANGES, "dataset.path", "layout"}


def test_the_same_settings_do_not_differ():
    assert not metadata.compare(identity(), identity()).differing
    assert not metadata.compare(None, identity()).differing
    assert not metadata.compare(json.loads(json.dumps(identity())), identity()).differing


def test_a_key_that_only_one_side_knows_differs():
    older = identity()
    del older["audio.maxx"]
    assert set(metadata.compare(older, identity()).differing) == {"audio.maxx"}
    assert set(metadata.compare({**identity(), "new": 1}, identity()).differing) == {"new"}


def test_gates_beside_other_changes_are_not_only_gates():
    both = metadata.compare(identity(), identity(max_peak=2.0, alpha=0.3))
    assert not both.only_gates


def test_the_message_shows_both_sides_and_the_ways_out(tmp_path):
    weights = "0123456789abcdef" * 4
    comparison = metadata.compare(identity(), identity(alpha=0.25, weights=weights))
    lines = comparison.message(tmp_path).splitlines()
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


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 99}'])
def test_metadata_that_is_not_ours_is_named(tmp_path, text):
    (tmp_path / "metadata.json").write_text(text)
    with pytest.raises(ValueError, match=r"metadata\.json"):
        metadata.read(tmp_path)
