"""Runs over recordings at URLs: the bytes of a run over the same files, and the truth of faults."""

import sys
import tarfile
import zipfile

import pytest

pytest.importorskip("fsspec")

import fsspec

from extract.hydra_setup import stem
from support.command import TINY
from support.recordings import write_wav
from support.stores import ledger as records_of


@pytest.fixture
def folder(tmp_path):
    """Four recordings, one in a folder below, and what is none."""
    for number, name in enumerate(("a.wav", "b.flac", "below/c.wav", "d.wav")):
        write_wav(tmp_path / "in" / name, 0.2 + number / 9, number)
    (tmp_path / "in" / "text.txt").write_text("no recording")
    (tmp_path / "in" / ".hidden.wav").write_text("no recording")
    return tmp_path / "in"


def paths_in(folder):
    return {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}


def ledger(store):
    return {record["id"]: record for record in records_of(store)}


def features(store):
    return {
        path.relative_to(store): path.read_bytes()
        for kind in ("4-cnhubert", "5-wav32k")
        for path in sorted((store / kind).rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def run(command, tmp_path):
    def run(source, *options, store="out"):
        dataset = [f"dataset.path={source}", f"store.dir={tmp_path / store}"]
        return command(*dataset, *TINY, *options)

    return run


def test_a_folder_of_a_bucket_an_archive_or_memory_gives_the_files_of_a_folder(
    run, folder, tmp_path, s3, web
):
    bucket, memory = s3(), fsspec.filesystem("memory")
    for name, path in paths_in(folder).items():
        bucket.put(f"speech/{name}", path.read_bytes())
        memory.pipe(f"/speech/{name}", path.read_bytes())
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as packed:
        for name, path in paths_in(folder).items():
            packed.write(path, f"speech/{name}")
    with tarfile.open(tmp_path / "all.tar", "w") as packed:
        packed.add(folder, "speech")
    web.files["/all.zip"] = (tmp_path / "all.zip").read_bytes()
    assert run(folder, "dataset=folder", store="local") == 0
    expected = features(tmp_path / "local")
    assert len(expected) == 8
    sources = {
        "s3": f"{bucket.url}/speech/",
        "zip": f"zip://speech::{web.url}/all.zip?token=s3cret",
        "tar": f"tar://speech::{tmp_path}/all.tar",
        "memory": "memory://speech",
    }
    for name, source in sources.items():
        options = ["loader.num_workers=0"] if name == "memory" else []
        assert run(source, "dataset=folder", *options, store=name) == 0, name
        assert features(tmp_path / name) == expected, name
        records = ledger(tmp_path / name)
        assert sorted(records) == ["a.wav", "b.flac", "below/c.wav", "d.wav"]
        assert all(source.split("speech")[0] in record["path"] for record in records.values())
        written = [path for path in (tmp_path / name).rglob("*") if path.is_file()]
        assert not [path for path in written if b"s3cret" in path.read_bytes()]


def test_a_store_is_named_after_a_urls_folder_without_its_secrets():
    assert stem("s3://bucket/speech.v1/") == "speech.v1"
    assert stem("zip://::https://me:s3cret@host/in/all.zip?sig=s3cret") == "all.zip"


def test_running_again_lists_once_and_does_what_changed(run, folder, tmp_path, s3, s3_calls):
    bucket = s3()
    for name, path in paths_in(folder).items():
        bucket.put(f"speech/{name}", path.read_bytes())
    assert run(f"{bucket.url}/speech", "dataset=folder", "loader.num_workers=0") == 0
    s3_calls.clear()
    assert run(f"{bucket.url}/speech", "dataset=folder", "loader.num_workers=0") == 0
    assert s3_calls == ["list_objects_v2"] * 2, "the source, and the stamps of all"
    before = {id_: record["source_mtime_ns"] for id_, record in ledger(tmp_path / "out").items()}
    content = bytearray((folder / "a.wav").read_bytes())
    content[-2:] = b"\1\1"
    bucket.put("speech/a.wav", bytes(content))
    bucket.files.rm(f"{bucket.url}/speech/d.wav")
    assert run(f"{bucket.url}/speech/", "dataset=folder", "loader.num_workers=0") == 0
    after = {id_: record["source_mtime_ns"] for id_, record in ledger(tmp_path / "out").items()}
    assert {id_ for id_ in before if before[id_] != after[id_]} == {"a.wav"}


@pytest.mark.fault(
    "a recording at a URL: not there, no access, a connection that breaks",
    "`missing`, or `undecodable` with the cause; all others saved",
)
def test_a_list_may_name_urls_beside_files(run, folder, tmp_path, web, capsys):
    web.files = {f"/{name}": path.read_bytes() for name, path in paths_in(folder).items()}
    web.files["/cut.wav"] = web.files["/a.wav"]
    web.faults = {"/denied.wav": 403, "/cut.wav": "cut"}
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(folder / "below/c.wav", "in/c.wav")
    host = web.url.removeprefix("http://")
    (folder / "x:y.wav").write_bytes((folder / "d.wav").read_bytes())
    names = ["b.flac", "denied.wav", "cut.wav", "gone.wav"]
    lines = [f"http://me:s3cret@{host}/{name}?sig=s3cret|s|en|hm" for name in names]
    lines += [f"{folder}/a.wav|s|en|hm", f"zip://in/c.wav::{tmp_path}/all.zip|s|en|hm"]
    lines += ["in/x:y.wav|s|en|hm", f"http://me:s3cret@{host}/?sig=s3cret|s|en|hm"]
    (tmp_path / "my.list").write_text("\n".join(lines))
    assert run(tmp_path / "my.list", "dataset=gpt_sovits") == 1
    records = ledger(tmp_path / "out")
    found = {id_: record["reason"] for id_, record in records.items()}
    assert found == {
        **dict.fromkeys(["b.flac", "a.wav", "c.wav", "x:y.wav"]),
        "denied.wav": "undecodable",
        "cut.wav": "undecodable",
        "gone.wav": "missing",
        "my.list:8": "bad_id",
    }
    assert "403" in records["denied.wav"]["detail"]
    assert "Not enough data" in records["cut.wav"]["detail"]
    assert records["b.flac"]["path"] == f"http://***@{host}/b.flac?sig=***"
    web.faults.clear()
    assert run(tmp_path / "my.list", "dataset=gpt_sovits") == 1
    assert ledger(tmp_path / "out")["denied.wav"]["reason"] == "missing", "tried again"
    said = capsys.readouterr()
    assert "s3cret" not in said.out + said.err
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or b"s3cret" not in path.read_bytes(), path


def test_a_folder_that_cannot_be_listed_is_said_before_any_work(run, web, capsys, monkeypatch):
    for url, said in [
        (f"{web.url}/in?sig=s3cret", "HTTP lists no folders; a list of URLs is needed"),
        (f"zip://::{web.url}/none.zip?sig=s3cret", "none.zip?sig=***: cannot be listed: no such"),
        ("memory://nothing", "memory://nothing/: no recordings: looked for files ending in"),
        ("gs://bucket/in", "needs the package gcsfs, which is missing"),
    ]:
        assert run(url, "dataset=folder") == 2
        output = capsys.readouterr().err
        assert said in " ".join(output.split())
        assert "s3cret" not in output
    monkeypatch.setitem(sys.modules, "fsspec", None)
    assert run("s3://bucket/in", "dataset=folder") == 2
    assert "fsspec, which is missing: pip install 'extract-ssl[remote]'" in " ".join(
        capsys.readouterr().err.split()
    )


def test_stores_and_hidden_files_below_a_url_are_no_recordings(run, folder, tmp_path, s3):
    bucket = s3()
    assert run(folder, "dataset=folder", store="in/run") == 0
    for name, path in paths_in(folder).items():
        bucket.put(name, path.read_bytes())
    assert len(bucket.files.find(bucket.url)) > 12
    assert run(bucket.url, "dataset=folder", "dataset.extensions=[]", store="out") == 1
    found = {id_: record["status"] for id_, record in ledger(tmp_path / "out").items()}
    saved = dict.fromkeys(["a.wav", "b.flac", "below/c.wav", "d.wav"], "saved")
    assert found == {**saved, "text.txt": "failed"}
