"""What tells a changed recording at a URL, and how many requests that takes."""

import pickle
from datetime import UTC, datetime

import pytest

from extract.opener import MISSING
from extract.remote import stamps
from extract.remote.opener import AnyFiles
from extract.remote.stamps import stamp_of

MANY = 4


def test_a_stamp_is_the_size_and_a_hash_of_what_the_server_says_of_the_content():
    time = datetime(2026, 1, 2, tzinfo=UTC)
    infos = [
        {"size": 5, "ETag": '"a"', "LastModified": time},
        {"size": 5, "ETag": '"b"', "LastModified": time},
        {"size": 5, "etag": "a"},
        {"size": 5, "blob_id": "a"},
        {"size": 5, "CRC": 0},
        {"size": 5, "ETag": "", "LastModified": time},
        {"size": 5, "mtime": 12.5},
        {"size": 5, "mtime": 13},
        {"size": 5},
        {"size": None},
    ]
    found = list(map(stamp_of, infos))
    assert len(set(found)) == len(infos)
    assert [size for size, _ in found] == [5] * 9 + [0]
    assert found[-2:] == [(5, 0), (0, 0)], "a change of the same size goes unseen"
    assert all(0 <= mark < 2**63 for _, mark in found), "as a file's nanoseconds, in the ledger"
    assert stamp_of({**infos[0], "LastModified": None, "name": "x"}) == found[0]
    # golden: a store of an earlier version is not read anew
    assert stamp_of({"size": 7, "ETag": '"0"'}) == (7, 2560956882150942187)


def test_a_web_servers_etag_is_the_stamp_and_a_change_of_the_same_size_is_seen(web):
    web.files["/a.wav"] = b"one"
    before = AnyFiles().stamp(f"{web.url}/a.wav")
    assert AnyFiles().stamp(f"{web.url}/a.wav") == before
    web.files["/a.wav"] = b"two"
    assert AnyFiles().stamp(f"{web.url}/a.wav") != before
    web.etags = False
    assert AnyFiles().stamp(f"{web.url}/a.wav") == (3, 0)


def test_each_is_asked_for_once_and_files_of_this_machine_as_ever(web, tmp_path):
    web.files["/a.wav"] = b"one"
    opener = AnyFiles()
    for _ in range(3):
        opener.stamp(f"{web.url}/a.wav")
        assert opener.stamp(f"{web.url}/none.wav") == MISSING
    assert [path for method, path, _ in web.asked if method == "HEAD"] == ["/a.wav", "/none.wav"]
    path = tmp_path / "a.wav"
    path.write_bytes(b"1")
    assert opener.stamp(str(path)) == (1, path.stat().st_mtime_ns)
    path.write_bytes(b"12")
    assert opener.stamp(str(path)) == (2, path.stat().st_mtime_ns)


@pytest.fixture
def bucket(s3, monkeypatch):
    assert stamps.MANY == 16
    monkeypatch.setattr(stamps, "MANY", MANY)
    bucket = s3()
    bucket.urls = [
        bucket.put(f"in/{number % 2}/{number:02}.wav", b"%d" % number) for number in range(3 * MANY)
    ]
    return bucket


def test_a_folder_of_many_is_listed_instead(bucket, s3_calls):
    opener = AnyFiles()
    found = [opener.stamp(url) for url in bucket.urls]
    assert s3_calls.count("list_objects_v2") == 2, "a folder each"
    assert s3_calls.count("head_object") == 2 * (MANY - 1)
    assert found == [opener.stamp(url) for url in bucket.urls]
    assert len(s3_calls) == 2 * MANY
    worker = pickle.loads(pickle.dumps(opener))
    assert found == [worker.stamp(url) for url in bucket.urls]
    assert s3_calls.count("list_objects_v2") == 2, "but in no worker"


def test_the_folder_of_a_source_is_listed_once(bucket, s3_calls):
    opener = AnyFiles(f"{bucket.url}/in")
    found = [opener.stamp(url) for url in bucket.urls]
    assert s3_calls == ["list_objects_v2"]
    s3_calls.clear()
    assert found == [AnyFiles(lists=False).stamp(url) for url in bucket.urls]
    assert opener.stamp(f"{bucket.url}/in/none.wav") == MISSING
    changed = bucket.put("in/0/00.wav", b"x")
    assert opener.stamp(changed) == found[0], "older than what is read, never newer"
    again = AnyFiles(f"{bucket.url}/in")
    assert [again.stamp(url) == old for url, old in zip(bucket.urls, found, strict=True)] == [
        False,
        *[True] * (len(found) - 1),
    ]


def test_a_server_that_does_not_answer_is_asked_once(web, monkeypatch):
    monkeypatch.setattr(stamps, "TIMEOUT_S", 0.3)
    web.faults = {"/0.wav": "mute", "/1.wav": "mute"}
    opener = AnyFiles()
    assert [opener.stamp(f"{web.url}/{number}.wav") for number in range(2)] == [MISSING, MISSING]
    assert {path for _, path, _ in web.asked} == {"/0.wav"}
