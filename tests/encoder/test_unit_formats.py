"""Formats of units: what other tools read out of them."""

import json

import pytest

from extract.encoder.unit_format import UnitFiles
from extract.shard import Shard
from support.units import read_gslm, read_km, read_slamkit, represented

ROWS = [
    ("b/a.wav", "12 12 7"),
    ("failed.wav", None),
    ("short.wav", ""),
    ("x|y.wav", "7"),
    ("", None),
]


def written(tmp_path, name: str, dedup: bool | None = None):
    path = tmp_path / name
    path.write_text("".join(UnitFiles(name, dedup).text(ROWS)))
    return path


@pytest.mark.parametrize(("dedup", "first"), [(None, [12, 12, 7]), (True, [12, 7])])
def test_a_km_has_a_line_for_each_of_the_list(tmp_path, dedup, first):
    path = written(tmp_path, "fairseq", dedup)
    assert read_km(path, len(ROWS)) == [first, [], [], [7], []]


@pytest.mark.parametrize(("dedup", "first"), [(False, [12, 12, 7]), (True, [12, 7])])
def test_gslm_reads_each_recording_that_has_units(tmp_path, dedup, first):
    assert read_gslm(written(tmp_path, "gslm", dedup)) == {"b/a.wav": first, "x%7Cy.wav": [7]}


def test_slamkit_reads_units_without_repeats_and_their_durations(tmp_path):
    expected = {"b/a.wav": represented([12, 12, 7]), "x|y.wav": represented([7])}
    assert read_slamkit(written(tmp_path, "slamkit")) == expected
    assert expected["b/a.wav"] == {"units": [12, 7], "duration": [2, 1]}
    all_of_one = read_slamkit(written(tmp_path, "slamkit", dedup=False))
    assert all_of_one["b/a.wav"] == {"units": [12, 12, 7], "duration": [1, 1, 1]}


def test_the_bytes_of_each_format():
    found = {name: "".join(UnitFiles(name).text(ROWS)) for name in ("fairseq", "gslm", "slamkit")}
    assert found == {
        "fairseq": "12 12 7\n\n\n7\n\n",
        "gslm": "b/a.wav|12 12 7\nx%7Cy.wav|7\n",
        "slamkit": '{"units": [12, 7], "duration": [2, 1], "file_name": "b/a.wav"}\n'
        '{"units": [7], "duration": [1], "file_name": "x|y.wav"}\n',
    }
    assert json.loads(found["slamkit"].splitlines()[1])


def test_each_shard_has_a_file_of_its_own():
    names = [(UnitFiles(one).name(Shard()), UnitFiles(one).name(Shard(1, 3))) for one in FORMATS]
    assert names == [
        ("units.km", "units.1-of-3.km"),
        ("units.txt", "units.1-of-3.txt"),
        ("units.jsonl", "units.1-of-3.jsonl"),
        ("6-name2semantic-0.tsv", "6-name2semantic-1.tsv"),
    ]
    assert [UnitFiles(one).follows_list for one in FORMATS] == [True, False, False, False]


FORMATS = ("fairseq", "gslm", "slamkit", "gpt_sovits")


def test_a_format_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"^quantizer.format: gsml: none .* needed fairseq or gpt"):
        UnitFiles("gsml")
