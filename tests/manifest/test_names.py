"""Names that only some file systems take for one, or take at all."""

import os
from types import SimpleNamespace

import pytest

from extract import systems
from extract.manifest import ids
from extract.manifest.ids import check_id
from extract.manifest.manifest import Manifest
from extract.manifest.sources.gpt_sovits import read_gpt_sovits_list
from extract.run import build
from extract.store.layouts.gpt_sovits import GptSovits
from extract.values import Entry
from support.recordings import write_wav
from support.stores import ledger


def entries(*names: str) -> list[Entry]:
    return [Entry(name, f"/{number}/{name}") for number, name in enumerate(names)]


@pytest.mark.parametrize(
    "pair",
    [
        ("a.wav", "A.wav"),
        ("b/É.wav", "B/é.wav"),
        ("caf\u00e9.wav", "cafe\u0301.wav"),  # APFS: composed and decomposed
        ("a", "A.PT/b"),  # features of the one, folder of the other
    ],
)
def test_ids_that_differ_in_case_clash_where_that_is_one_file(pair):
    assert len(Manifest.from_entries(entries(*pair))) == 2
    with pytest.raises(ValueError, match="would write the same file") as caught:
        Manifest.from_entries(entries("other", *pair, "one more"), folds_case=True)
    assert f"  {pair[0]} and {pair[1]}: /1/{pair[0]} and /2/{pair[1]}\n" in str(caught.value)


def test_ids_keep_their_case_where_nothing_clashes():
    manifest = Manifest.from_entries(entries("A.wav", "b.wav"), folds_case=True)
    assert list(manifest.ids) == ["A.wav", "b.wav"]


def test_one_recording_that_is_listed_in_both_cases_is_there_once(tmp_path):
    write_wav(tmp_path / "a.wav", 0.1)
    (tmp_path / "A.wav").symlink_to(tmp_path / "a.wav")
    both = [Entry(name, str(tmp_path / name)) for name in ("a.wav", "A.wav")]
    assert list(Manifest.from_entries(both, folds_case=True).ids) == ["a.wav"]


def test_the_store_s_file_system_decides(extract_folder, tmp_path, monkeypatch, capfd):
    asked = []
    for name in ("a.wav", "A.wav"):
        write_wav(tmp_path / "in" / name, 0.1)
    monkeypatch.setattr(build, "folds_case", lambda folder: not asked.append(folder))
    with monkeypatch.context() as patch:
        patch.setattr(GptSovits, "adds", False)
        assert extract_folder(tmp_path / "in") == 2
    assert asked == [str(tmp_path / "out")]
    assert "A.wav and a.wav" in " ".join(capfd.readouterr().err.split())
    assert not (tmp_path / "out").exists()
    assert extract_folder(tmp_path / "in", "loader.num_workers=0") == 1
    reasons = {record["id"]: record["reason"] for record in ledger(tmp_path / "out")}
    assert reasons == {"A.wav": None, f"{tmp_path}/in/a.wav": "duplicate_name"}
    monkeypatch.setattr(build, "folds_case", lambda _folder: False)
    assert extract_folder(tmp_path / "in", "loader.num_workers=0") == 0


# --- Windows -----------------------------------------------------------------------------------

REFUSED = [
    "a:b.wav",
    "a?.wav",
    "a.",
    "a ",
    "a./b",
    "b/a ",
    "CON",
    "nul.wav",
    "x/Com1.wav",
    "lpt\u00b2",
]
TAKEN = ["a.wav", "a b.wav", ".a", "console.wav", "con-1.wav", "x/acon", "com10.wav", "a. b"]


def test_names_that_windows_refuses_are_refused_there(monkeypatch):
    assert [name for name in REFUSED + TAKEN if check_id(name)] == []
    monkeypatch.setattr(ids, "os", SimpleNamespace(name="nt"))
    assert [name for name in REFUSED if not check_id(name)] == []
    assert [name for name in TAKEN if check_id(name)] == []
    assert "Windows" in check_id("nul.wav")


def test_a_backslash_of_a_list_is_a_separator_on_windows(tmp_path, monkeypatch):
    """A file system that takes both: what a list says is found, and its id is the file's name."""
    monkeypatch.chdir(tmp_path)
    write_wav(tmp_path / "sub" / "a.wav", 0.1)
    lexists = os.path.lexists
    monkeypatch.setattr(os.path, "lexists", lambda path: lexists(path.replace("\\", "/")))
    (tmp_path / "x.list").write_text(
        "sub\\a.wav|s|l|t\nC:\\x\\b.wav|s|l|t\n\\\\host\\y\\c.wav|s|l|t\n"
    )
    assert read_gpt_sovits_list(tmp_path / "x.list").failures  # on Linux it is part of the name
    fake = SimpleNamespace(**{name: getattr(os, name) for name in ("path", "fspath")}, sep="\\")
    monkeypatch.setattr(systems, "os", fake)
    manifest = read_gpt_sovits_list(tmp_path / "x.list")
    assert not manifest.failures
    assert [(entry.id, entry.path) for entry in manifest] == [
        ("a.wav", f"{tmp_path}/sub/a.wav"),
        ("b.wav", "C:/x/b.wav"),
        ("c.wav", "//host/y/c.wav"),
    ]
