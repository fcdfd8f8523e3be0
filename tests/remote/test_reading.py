"""Bytes from a server, a bucket, an archive: the samples of the file that holds the same."""

import io
import tarfile
import zipfile

import fsspec
import numpy as np
import pytest
import soundfile

from extract.audio.faults import AudioError
from extract.audio.spans import Span
from extract.remote import places
from extract.remote.opener import AnyFiles
from extract.remote.reading import FIRST_BYTES, GROWTH, open_url
from support.decoding import decode, probe_duration_s
from support.recordings import speech_like, write_coded, write_wav

LONG_S = 25


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A short WAV, and long recordings of more than the first part."""
    folder = tmp_path_factory.mktemp("files")
    write_wav(folder / "short.wav", 0.7)
    for name in ("long.wav", "long.flac"):
        soundfile.write(folder / name, speech_like(LONG_S, 1, 44100), 44100)
    write_coded(folder / "long.m4a", duration_s=LONG_S)
    write_coded(folder / "long.mp3", duration_s=LONG_S)
    return {path.name: path for path in sorted(folder.iterdir())}


def in_web(files, web, _s3, _folder):
    web.files = {f"/in/{name}": path.read_bytes() for name, path in files.items()}
    return f"{web.url}/in/{{}}?token=1"


def in_bucket(files, _web, s3, _folder):
    bucket = s3()
    for name, path in files.items():
        bucket.put(f"in/{name}", path.read_bytes())
    return f"{bucket.url}/in/{{}}"


def in_zip(files, _web, _s3, folder):
    with zipfile.ZipFile(folder / "all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in files.items():
            archive.write(path, f"in/{name}")
    return f"zip://in/{{}}::{folder}/all.zip"


def in_tar(files, web, _s3, folder):
    with tarfile.open(folder / "all.tar", "w") as archive:
        for name, path in files.items():
            archive.add(path, f"in/{name}")
    web.files = {"/all.tar": (folder / "all.tar").read_bytes()}
    return f"tar://in/{{}}::{web.url}/all.tar"


def in_memory(files, _web, _s3, _folder):
    memory = fsspec.filesystem("memory")
    for name, path in files.items():
        memory.pipe(f"/in/{name}", path.read_bytes())
    return "memory://in/{}"


PLACES = [in_web, in_bucket, in_zip, in_tar, in_memory]


@pytest.mark.parametrize("put", PLACES)
def test_the_samples_are_those_of_the_file_bit_for_bit(put, files, web, s3, tmp_path):
    where, opener = put(files, web, s3, tmp_path), AnyFiles()
    for name, path in files.items():
        url = where.format(name)
        assert np.array_equal(decode(url, opener=opener), decode(path)), name
        assert probe_duration_s(url, opener=opener) == probe_duration_s(path)
        assert opener.stamp(url)[0] == path.stat().st_size
        with opener.open(url) as file:
            content = path.read_bytes()
            assert file.read() == content
            for offset, whence, expected in [(5, 0, 5), (-9, 2, len(content) - 9), (2, 1, None)]:
                at = file.seek(offset, whence)
                assert expected in (None, at)
                assert file.read(7) == content[at : at + 7]
    with pytest.raises(AudioError, match="no such file") as caught:
        decode(where.format("none.wav"), opener=opener)
    assert caught.value.reason == "missing"
    assert opener.stamp(where.format("none.wav")) == (-1, -1)


def test_a_header_is_read_without_the_whole_file_and_a_cut_without_what_lies_before(files, web):
    where, opener = in_web(files, web, None, None), AnyFiles()
    for name in ("long.wav", "long.flac"):
        size = files[name].stat().st_size
        probe_duration_s(where.format(name), opener=opener)
        assert web.sent(f"/in/{name}") <= FIRST_BYTES < size / 5
    web.asked.clear()
    span = Span.of(20.0, 1.0)
    assert len(decode(where.format("long.wav"), span=span, opener=opener)) == 32_000
    assert web.sent("/in/long.wav") < files["long.wav"].stat().st_size * 0.8


def test_a_short_recording_takes_one_request_and_a_long_one_few(files, web):
    where = in_web(files, web, None, None)
    decode(where.format("short.wav"), opener=AnyFiles())
    assert [(method, path) for method, path, _ in web.asked] == [("GET", "/in/short.wav")]
    web.asked.clear()
    decode(where.format("long.wav"), opener=AnyFiles())
    size = files["long.wav"].stat().st_size
    assert FIRST_BYTES * (1 + GROWTH) < size <= FIRST_BYTES * (1 + GROWTH + GROWTH**2)
    assert (web.num("HEAD"), web.num("GET")) == (1, 3)
    assert web.sent("/in/long.wav") == size, "each byte once"


@pytest.mark.parametrize("lengths", [True, False])
def test_a_server_without_ranges_sends_everything_once(files, web, lengths):
    where = in_web(files, web, None, None)
    web.ranges, web.lengths = False, lengths
    for name, path in files.items():
        web.asked.clear()
        assert np.array_equal(decode(where.format(name), opener=AnyFiles()), decode(path))
        assert web.sent(f"/in/{name}") == path.stat().st_size


def test_a_file_of_exactly_one_part_and_an_empty_one(web, s3):
    contents = {"one": bytes(FIRST_BYTES), "more": bytes(FIRST_BYTES + 1), "none": b""}
    web.files = {f"/{name}": content for name, content in contents.items()}
    bucket = s3()
    for ranges, lengths in [(True, True), (False, True), (False, False)]:
        web.ranges, web.lengths = ranges, lengths
        for name, content in contents.items():
            for url in (f"{web.url}/{name}", bucket.put(name, content)):
                with open_url(url) as file:
                    assert (file.seek(0, io.SEEK_END), file.seek(0)) == (len(content), 0)
                    assert file.read() == content


# --- faults --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["short.wav", "long.wav", "long.m4a"])
@pytest.mark.parametrize(
    ("fault", "reason", "said"),
    [
        (404, "missing", "no such file"),
        (410, "missing", "no such file"),
        (403, "undecodable", "cannot be fetched: ClientResponseError: 403, message='Forbidden'"),
        (503, "undecodable", "503, message='Service Unavailable'"),
        ("cut", "undecodable", "cannot be fetched: ClientPayloadError"),
        ("short", "undecodable", " bytes came of "),
        ("long", "undecodable", " bytes came of "),
    ],
)
def test_a_fault_of_the_server_is_that_recordings_with_its_cause(
    files, web, name, fault, reason, said
):
    where = in_web(files, web, None, None)
    web.faults[f"/in/{name}"] = fault
    opener = AnyFiles()
    opener.stamp(where.format(name))
    with pytest.raises(AudioError) as caught:
        decode(where.format(name), opener=opener)
    assert caught.value.reason == reason
    assert said in str(caught.value)


def test_a_redirect_is_followed(files, web):
    where = in_web(files, web, None, None)
    web.faults["/moved.wav"] = "away /in/long.wav?signature=1"
    url = f"{web.url}/moved.wav?token=1"
    assert np.array_equal(decode(url, opener=AnyFiles()), decode(files["long.wav"]))
    assert AnyFiles().stamp(url) == AnyFiles().stamp(where.format("long.wav"))
    web.faults["/in/long.wav"] = 403
    with pytest.raises(OSError, match="403") as caught:
        AnyFiles().open(url)
    assert "signature=***" in caught.value.strerror, "nor are the secrets told of where it leads"


def test_what_is_not_there_and_what_cannot_be_read(tmp_path, web, s3):
    bucket = s3()
    web.faults = {"/denied.zip": 403}
    bucket.put("in/a.wav", b"some")
    (tmp_path / "bad.zip").write_bytes(b"no zip")
    for url, reason, said in [
        (f"{bucket.url}/in", "missing", "no such file"),
        ("s3://no-such-bucket/a.wav", "missing", "no such file"),
        (f"zip://a.wav::{tmp_path}/none.zip", "missing", "no such file"),
        (f"zip://a.wav::{tmp_path}/bad.zip", "undecodable", "BadZipFile: File is not a zip file"),
        (f"zip://a.wav::{web.url}/denied.zip", "undecodable", "403, message='Forbidden'"),
        (f"zip://a.wav::{web.url}/none.zip", "missing", "no such file"),
        ("nothing://a.wav", "undecodable", "Protocol not known: nothing"),
        ("http://127.0.0.1:9/a.wav", "undecodable", "cannot be fetched: ClientConnectorError"),
        (f"file://{tmp_path}", "undecodable", "a directory"),
    ]:
        with pytest.raises(AudioError) as caught:
            decode(url, opener=AnyFiles())
        assert (caught.value.reason, said in str(caught.value)) == (reason, True), caught.value
        assert AnyFiles().stamp(url)[1] <= 0 or url.startswith("file:")


def test_after_an_error_no_more_is_asked(files, web):
    where = in_web(files, web, None, None)
    with open_url(where.format("long.wav")) as file:
        web.faults["/in/long.wav"] = 500
        web.asked.clear()
        for _ in range(3):
            file.seek(FIRST_BYTES + 5)
            with pytest.raises(OSError, match="500"):
                file.read(10)
        assert len(web.asked) == 1


def test_archives_are_opened_once_and_not_too_many_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "MAX_ARCHIVES", 3)
    monkeypatch.setattr(places._process, "places", {})
    for number in range(5):
        with zipfile.ZipFile(tmp_path / f"{number}.zip", "w") as archive:
            archive.writestr("a", b"%d" % number)
            archive.writestr("b", b"b")
    opened = []
    really = places._open
    monkeypatch.setattr(places, "_open", lambda name, url: opened.append(name) or really(name, url))
    for number in range(5):
        for member in ("a", "b"):
            with open_url(f"zip://{member}::{tmp_path}/{number}.zip") as file:
                assert file.read() == (b"%d" % number if member == "a" else b"b")
    assert len(opened) == 5
    assert sum(str(tmp_path) in name for name in places._process.places) <= 3
