"""A folder is read to its depth, and nothing that a run wrote is read as a recording."""

import json
import os
import shutil
from pathlib import Path

import pytest

from extract.commands import report
from extract.manifest import folders
from extract.manifest.folders import read_metadata
from extract.manifest.paths import same_place
from extract.manifest.source import Output, read_source
from extract.manifest.sources.folder import Ids, Options, read_folder
from extract.shard import Shard
from extract.store import differences, lock, metadata
from extract.store.layouts import gpt_sovits
from extract.text import printable
from support.command import TINY
from support.recordings import write_wav
from support.stores import ledger


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def make_store(folder: Path, *, damaged: bool = False) -> Path:
    """What a run leaves, with one recording's training audio in it."""
    touch(folder, "5-wav32k/saved.wav", "4-cnhubert/saved.wav.pt", "ledger.jsonl")
    touch(folder, ".extract/lock")
    metadata.write(folder, {"layout": "gpt_sovits"}, {})
    if damaged:
        (folder / "metadata.json").write_text('{"format": 1, "id')
    return folder


def ids(folder: Path, own_store: Path | None = None) -> list[str]:
    return list(read_folder(folder, store=own_store).ids)


def test_the_names_that_a_store_is_known_by_are_those_that_a_run_writes():
    assert gpt_sovits.GptSovits.folders == folders.WRITTEN
    assert folders.METADATA == metadata.NAME
    assert folders.PRIVATE == lock.PRIVATE
    assert folders.LEDGER_NAME.fullmatch(Shard().ledger_name)
    assert folders.LEDGER_NAME.fullmatch(Shard(3, 16).ledger_name)


@pytest.mark.parametrize("damaged", [False, True])
def test_a_store_below_the_folder_is_not_entered_and_a_line_says_so(tmp_path, caplog, damaged):
    touch(tmp_path, "a.wav", "outputs/b.wav")
    for name in ("one", "two"):
        make_store(tmp_path / "outputs" / name, damaged=damaged)
    caplog.set_level("INFO")
    assert ids(tmp_path) == ["a.wav", "outputs/b.wav"]
    [line] = [line for line in caplog.messages if "left out" in line]
    assert f"{tmp_path}/outputs/one/" in line
    assert f"{tmp_path}/outputs/two/" in line


def test_many_stores_are_one_line_of_bounded_length(tmp_path, caplog):
    touch(tmp_path, "a.wav")
    for number in range(14):
        make_store(tmp_path / f"store{number}")
    caplog.set_level("INFO")
    assert ids(tmp_path) == ["a.wav"]
    assert caplog.text.count(str(tmp_path)) == 11
    assert "and 4 more" in caplog.text


def test_the_runs_own_store_is_not_entered_whatever_it_holds(tmp_path, caplog):
    touch(tmp_path, "a.wav", "out/5-wav32k/a.wav", "out/notes/b.wav")
    caplog.set_level("INFO")
    assert ids(tmp_path, tmp_path / "out") == ["a.wav"]
    assert ids(tmp_path, tmp_path / "x" / ".." / "out") == ["a.wav"]
    assert caplog.messages == 2 * [f"{tmp_path}/: left out what runs wrote: {tmp_path}/out/"]
    assert ids(tmp_path, tmp_path / "none" / "yet") == [
        *("a.wav", "out/5-wav32k/a.wav", "out/notes/b.wav")
    ]


def test_a_link_to_outputs_is_not_followed(tmp_path):
    out = make_store(tmp_path / "elsewhere" / "out")
    touch(tmp_path, "in/a.wav")
    (tmp_path / "in" / "store").symlink_to(out)
    (tmp_path / "in" / "wavs").symlink_to(out / "5-wav32k")
    assert ids(tmp_path / "in", out) == ["a.wav"]


@pytest.mark.parametrize("has_metadata", [True, False])
def test_a_store_that_is_the_folder_itself_is_read_without_its_outputs(tmp_path, has_metadata):
    make_store(tmp_path)
    touch(tmp_path, "a.wav", "s/5-wav32k/b.wav")
    if not has_metadata:
        (tmp_path / "metadata.json").unlink()
        shutil.rmtree(tmp_path / ".extract")
    assert ids(tmp_path, tmp_path) == ["a.wav", "s/5-wav32k/b.wav"]
    if has_metadata:
        assert ids(tmp_path) == ["a.wav", "s/5-wav32k/b.wav"]


def test_training_audio_that_is_named_is_read(tmp_path):
    make_store(tmp_path / "old")
    assert ids(tmp_path / "old" / "5-wav32k", tmp_path / "new") == ["saved.wav"]


@pytest.mark.parametrize("below", ["", "speaker"])
def test_a_run_cannot_read_what_it_would_write(tmp_path, below):
    touch(tmp_path, "out/5-wav32k/speaker/a.wav")
    with pytest.raises(ValueError, match=f"would write what it reads.*{tmp_path}/out$"):
        read_folder(tmp_path / "out" / "5-wav32k" / below, store=tmp_path / "out")


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "{}", '{"format": 1}', '{"identity": {}}', "[" * 50_000, "\xff"],
    ids=lambda text: repr(text[:12]),
)
def test_metadata_of_another_kind_hides_nothing(tmp_path, text):
    touch(tmp_path, "corpus/a.wav", "corpus/ledger.jsonl")
    (tmp_path / "corpus" / "metadata.json").write_text(text, "latin1")
    assert ids(tmp_path) == ["corpus/a.wav"]


def test_metadata_that_would_take_long_or_for_ever_to_read_is_not_read(tmp_path):
    ours = json.dumps({"format": 1, "identity": {}})
    (tmp_path / "large").write_text(ours + " " * 70_000)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "small").write_text(ours)
    found = [read_metadata(f"{tmp_path}/{name}") for name in ("large", "pipe", "small", "none")]
    assert found == [None, None, json.loads(ours), None]


def test_a_path_of_an_earlier_version_is_the_same_place(tmp_path):
    touch(tmp_path, "w/a.wav", "sub/b.wav")
    (tmp_path / "link").symlink_to("w")
    source = f"{tmp_path}/w"
    for stored in (source, f"{tmp_path}/sub/../w", f"{tmp_path}/link", f"{tmp_path}//w/"):
        assert same_place(stored, source)
        old, new = ({"dataset.path": path, "precision": "float32"} for path in (stored, source))
        assert not differences.compare(old, new).differing
    for stored in (f"{tmp_path}/sub", "", None, 5, "a\0b", ["x"]):
        assert not same_place(stored, source)
        assert differences.compare(
            {"dataset.path": stored}, {"dataset.path": source}
        ).differing == {"dataset.path": (stored, source)}


# --- through the command -----------------------------------------------------------------------


def test_a_run_in_its_own_folder_finds_the_same_recordings_each_time(command, tmp_path):
    write_wav(tmp_path / "a.wav")
    write_wav(tmp_path / "s" / "b.wav")
    for _ in range(3):
        assert command("dataset=folder", "dataset.path=.", *TINY) == 0
        [out] = (tmp_path / "outputs").glob("*/*")
        assert {record["id"] for record in ledger(out)} == {"a.wav", "s/b.wav"}
        assert len(ledger(out)) == 2


def test_a_sweeps_job_does_not_read_what_the_one_before_wrote(command, tmp_path):
    write_wav(tmp_path / "a.wav")
    argv = ["-m", "dataset=folder", "dataset.path=.", *TINY, "audio.alpha=0.3,0.7"]
    assert command(*argv) == 0
    stores = list((tmp_path / "outputs").glob("*/*/metadata.json"))
    assert len(stores) == 2
    assert [len(ledger(path.parent)) for path in stores] == [1, 1]


def test_a_run_into_the_folder_of_its_recordings_goes_on_there(command, tmp_path):
    write_wav(tmp_path / "w" / "a.wav")
    for _ in range(2):
        assert command("dataset=folder", "dataset.path=w", "store.dir=w", *TINY) == 0
        assert [record["id"] for record in ledger(tmp_path / "w")] == ["a.wav"]


def test_a_run_over_its_own_training_audio_is_refused(command, tmp_path, capfd):
    write_wav(tmp_path / "out" / "5-wav32k" / "a.wav")
    before = sorted(tmp_path.rglob("*"))
    assert command("dataset=folder", "dataset.path=out/5-wav32k", "store.dir=out", *TINY) == 2
    assert "this run would write what it reads here" in capfd.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_one_folder_is_one_folder_however_it_is_spelled(command, tmp_path, capfd, monkeypatch):
    write_wav(tmp_path / "w" / "a.wav")
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to("w")
    monkeypatch.chdir(tmp_path / "sub")
    for number, path in enumerate(
        ("../w", f"{tmp_path}/w", "../link", "../sub/../w/", f"{tmp_path}//w", "../link/.")
    ):
        argv = ("dataset=folder", f"dataset.path={path}", f"store.dir={tmp_path}/out", *TINY)
        assert command(*argv) == 0
        assert f"{number == 0:d} of 1 recording to do" in capfd.readouterr().err


def test_a_store_of_an_earlier_version_goes_on(extract_folder, tmp_path, capfd):
    write_wav(tmp_path / "w" / "a.wav")
    (tmp_path / "link").symlink_to("w")
    assert extract_folder(tmp_path / "link") == 0
    path = tmp_path / "out" / "metadata.json"
    data = json.loads(path.read_text())
    before = dict(data["identity"])
    for earlier in (f"{tmp_path}/link", f"{tmp_path}/another"):  # no folder is part of it now
        data["identity"]["dataset.path"] = earlier
        path.write_text(json.dumps(data))
        assert extract_folder(tmp_path / "link") == 0
        assert "0 of 1 recording to do" in capfd.readouterr().err
        assert json.loads(path.read_text())["identity"] == before
        assert "dataset.path" not in before
    assert json.loads(path.read_text())["made_with"]["dataset"] == f"{tmp_path}/w"


def test_a_store_of_one_folder_alone_knows_it_however_it_is_spelled(
    extract_folder, tmp_path, capfd, monkeypatch
):
    monkeypatch.setattr(gpt_sovits.GptSovits, "adds", False)
    write_wav(tmp_path / "w" / "a.wav")
    write_wav(tmp_path / "other" / "a.wav")
    (tmp_path / "link").symlink_to("w")
    assert extract_folder(tmp_path / "link") == 0
    path = tmp_path / "out" / "metadata.json"
    data = json.loads(path.read_text())
    assert data["identity"]["dataset.path"] == f"{tmp_path}/w"
    assert "dataset" not in data["made_with"]
    data["identity"]["dataset.path"] = f"{tmp_path}/link"  # as it was written then
    path.write_text(json.dumps(data))
    assert extract_folder(tmp_path / "link") == 0
    assert "0 of 1 recording to do" in capfd.readouterr().err
    assert json.loads(path.read_text())["identity"]["dataset.path"] == f"{tmp_path}/w"
    assert extract_folder(tmp_path / "other") == 2
    assert "dataset.path" in capfd.readouterr().err


def test_a_folder_that_is_not_unicode_runs_and_goes_on(extract_folder, tmp_path, monkeypatch):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xd3\xef\xd2\xf4"))
    write_wav(tmp_path / "a.wav").replace(folder.mkdir() or folder / "a.wav")
    monkeypatch.chdir(folder)
    for _ in range(2):
        assert extract_folder(Path()) == 0
        assert [record["status"] for record in ledger(tmp_path / "out")] == ["saved"]
    written = (tmp_path / "out" / "metadata.json").read_text("utf8")
    assert json.loads(written)["made_with"]["dataset"] == printable(str(folder))


def test_names_with_a_colon_are_saved(extract_folder, tmp_path):
    names = {"a:b.wav", "Q: why.wav", "ab:c.wav", "1:2.wav", "s/a:b.wav", "C:/d.wav"}
    for name in names:
        write_wav(tmp_path / "w" / name)
    assert extract_folder(tmp_path / "w") == 0
    assert {record["id"] for record in ledger(tmp_path / "out")} == names


def test_folders_are_told_apart_where_the_file_system_numbers_no_files(tmp_path, monkeypatch):
    """As on some of Windows's: every `st_ino` is 0."""

    class Unnumbered(type(Path())):
        def stat(self, **options: bool) -> os.stat_result:
            fields = list(super().stat(**options))
            fields[1] = 0  # st_ino
            return os.stat_result(fields)

    touch(tmp_path, "a/x.wav", "b/y.wav", "c/z.wav")
    (tmp_path / "a" / "loop").symlink_to(tmp_path / "b")
    monkeypatch.setattr(folders, "Path", Unnumbered)
    assert ids(tmp_path) == ["a/x.wav", "b/y.wav", "c/z.wav"]


# --- a tool's own folders ------------------------------------------------------------------------


def test_a_subfolder_is_read_in_place_of_the_folder_which_may_be_the_store(tmp_path):
    """RVC's experiment: recordings in one folder of it, features in another, the ledger in it."""
    touch(tmp_path, "EXP/1_16k_wavs/0_1.wav", "EXP/0_gt_wavs/0_1.wav", "EXP/ledger.jsonl")
    touch(tmp_path, "EXP/.extract/lock")
    options = Options(kind="folder", path=f"{tmp_path}/EXP", subfolder="1_16k_wavs")
    manifest = read_source(options, Output(f"{tmp_path}/EXP", folders=("3_feature768",)))
    assert list(manifest.ids) == ["0_1.wav"]
    assert manifest[0].path == f"{tmp_path}/EXP/1_16k_wavs/0_1.wav"
    assert manifest.source == f"{tmp_path}/EXP/1_16k_wavs"


def test_a_missing_subfolder_is_named(tmp_path):
    with pytest.raises(ValueError, match="/1_16k_wavs: no such folder; looked for /"):
        read_source(Options(kind="folder", path=str(tmp_path), subfolder="1_16k_wavs"), Output())


def test_ids_may_be_paths_without_their_extensions(tmp_path):
    touch(tmp_path, "a.b.wav", "s.1/x.FLAC", "s.1/none")
    options = Options(kind="folder", path=str(tmp_path), ids=Ids.stem, extensions=[])
    manifest = read_source(options, Output())
    assert list(manifest.ids) == ["a.b", "s.1/none", "s.1/x"]
    assert [entry.path.removeprefix(f"{tmp_path}/") for entry in manifest] == [
        *("a.b.wav", "s.1/none", "s.1/x.FLAC")
    ]


def test_two_recordings_of_one_stem_are_an_error_before_the_work(tmp_path):
    touch(tmp_path, "a.wav", "a.flac")
    with pytest.raises(ValueError, match=r"a\.flac") as refused:
        read_source(Options(kind="folder", path=str(tmp_path), ids=Ids.stem), Output())
    assert f"{tmp_path}/a.wav" in str(refused.value)


def test_a_sweeps_page_and_table_are_no_recordings_and_anothers_files_are(command, tmp_path):
    for name in ("a.wav", "below/sweep.csv", "below/sweep.html"):
        write_wav(tmp_path / "w" / f"{name}.wav").rename(tmp_path / "w" / name)
    argv = ["-m", "dataset=folder", "dataset.path=w", "dataset.extensions=[]", *TINY]
    argv += ["store.dir=w/out/${audio.alpha}", "audio.alpha=0.3,0.7"]
    assert command(*argv) == 0
    stores = [tmp_path / "w" / "out" / alpha for alpha in ("0.3", "0.7")]
    assert report.main(["--sweep", *map(str, stores), "--output", str(tmp_path / "w")]) == 0
    assert report.main(["--sweep", *map(str, stores)]) == 0
    assert command(*argv, "overwrite=true") == 0
    for store in stores:
        ids = {record["id"] for record in ledger(store)}
        assert ids == {"a.wav", "below/sweep.csv", "below/sweep.html"}
