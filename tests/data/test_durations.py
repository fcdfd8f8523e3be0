"""The index of durations: a header is read once, and again only where the file changed."""

import hashlib
import io
import os

import numpy as np
import pytest

from extract import internal
from extract.data import durations as module
from extract.data.durations import CHUNK, durations
from extract.internal import InternalErrors
from extract.manifest.manifest import Manifest
from extract.manifest.sources.folder import read_folder
from support.posix import PIPE
from support.recordings import write_wav


@pytest.fixture
def folder(tmp_path):
    for index in range(10):
        write_wav(tmp_path / "in" / f"{index}.wav", 0.1 + index / 10)
    return tmp_path / "in"


class Reader:
    """Reads an index and knows which headers it needed."""

    def __init__(self, folder, index) -> None:
        self.folder, self.index, self.read = folder, index, []
        self.internal = InternalErrors()

    def __call__(self, manifest: Manifest | None = None) -> np.ndarray:
        self.read.clear()

        def scan(items, chunks):
            for chunk in chunks:
                assert len(chunk) <= CHUNK
                self.read += [int(index) for index in chunk]
                yield [items[int(index)] for index in chunk]

        told = []
        found = durations(
            manifest or read_folder(self.folder), self.index, scan, told.append, self.internal
        )
        assert sum(told) == len(self.read)
        return found


@pytest.fixture
def reader(folder, tmp_path):
    return Reader(folder, tmp_path / "lengths.npy")


EXPECTED = 0.1 + np.arange(10) / 10


def test_headers_are_read_once(reader):
    np.testing.assert_allclose(reader(), EXPECTED, atol=1e-4)
    assert reader.read == list(range(10))
    again = reader()
    assert reader.read == []
    assert np.array_equal(again, reader())


def test_the_first_run_plans_with_the_numbers_of_the_second(reader):
    assert np.array_equal(reader(), reader())


def test_a_changed_recording_is_read_again_and_alone(reader, folder):
    reader()
    write_wav(folder / "3.wav", 2.0)
    found = reader()
    assert reader.read == [3]
    assert found[3] == pytest.approx(2.0, abs=1e-4)


def test_new_ones_are_read_and_known_ones_kept_wherever_they_stand(reader, folder):
    reader()
    write_wav(folder / "00.wav", 0.7)
    found = reader()
    assert reader.read == [1]
    np.testing.assert_allclose(np.delete(found, 1), EXPECTED, atol=1e-4)


def test_a_header_that_says_nothing_is_unknown_and_remembered(reader, folder):
    (folder / "5.wav").write_bytes(b"not a recording")
    assert reader()[5] == module.UNKNOWN_S
    reader()
    assert reader.read == []


def test_an_index_is_made_of_these_bytes(tmp_path):
    """Eight bytes of a hash and four of a duration each, sorted, behind numpy's header."""
    module._write(tmp_path / "index", np.array([7, 3], "<u8"), np.array([1.5, 0.25]))
    header = b"{'descr': [('key', '<u8'), ('duration_s', '<f4')], 'fortran_order': False, "
    assert (tmp_path / "index").read_bytes() == (
        (b"\x93NUMPY\x01\x00v\x00" + header + b"'shape': (2,), }").ljust(127)
        + b"\n\x03\0\0\0\0\0\0\0\0\0\x80>\x07\0\0\0\0\0\0\0\0\0\xc0?"
    )
    text = b"/there/\xc3\xa4.wav\x0040044\x001700000000123456789"
    stamp = (40_044, 1_700_000_000_123_456_789)
    assert module._key("/there/ä.wav", stamp) == hashlib.blake2b(text, digest_size=8).digest()


DAMAGES = ["empty", "torn", "text", "other", "pickle", "npz", "huge", "longer", "nan", "negative"]
DAMAGES += ["infinite", "unsorted", "columns", "folder", "link", "header", "version"]


def damaged(damage: str, data: bytes) -> bytes:
    """An index's bytes, damaged."""
    table = np.load(io.BytesIO(data)).copy()
    if damage in ("nan", "negative", "infinite"):
        value = {"nan": np.nan, "negative": -1, "infinite": np.inf}[damage]
        table["duration_s"][3] = value
    elif damage == "unsorted":
        table = table[::-1]
    elif damage == "columns":
        table = table.reshape(2, 5)
    else:
        changes = {
            "empty": b"",
            "torn": data[:-7],
            "text": b"hello",
            "longer": data + b"more",
            "huge": data.replace(b"(10,)", b"(9**9**9,)"),
            "header": data.replace(b"'descr'", b"'\xff\xfe\0r'"),
            "version": data[:6] + b"\x09" + data[7:],
        }
        return changes[damage]
    file = io.BytesIO()
    np.save(file, table)
    return file.getvalue()


@pytest.mark.parametrize("damage", [*DAMAGES, PIPE])
def test_a_damaged_index_is_only_a_cache(reader, damage, tmp_path):
    before = reader()
    data = reader.index.read_bytes()
    (tmp_path / "victim").write_bytes(data)
    if damage in ("folder", "link", "pipe"):
        reader.index.unlink()
    if damage == "folder":
        reader.index.mkdir()
    elif damage == "link":
        reader.index.symlink_to(tmp_path / "victim")
    elif damage == "pipe":
        os.mkfifo(reader.index)
    elif damage == "npz":
        with reader.index.open("wb") as file:
            np.savez(file, np.arange(5))
    elif damage == "other":
        np.save(reader.index, np.arange(5))
    elif damage == "pickle":
        np.save(reader.index, np.array([{}], dtype=object), allow_pickle=True)
    else:
        reader.index.write_bytes(damaged(damage, data))
    assert np.array_equal(reader(), before)
    assert len(reader.read) == 10
    reader()
    assert reader.read == []
    assert reader.index.read_bytes() == data == (tmp_path / "victim").read_bytes()


def test_a_folder_in_the_place_of_the_index_that_holds_something_is_kept(reader, caplog):
    reader.index.mkdir()
    (reader.index / "mine").write_text("mine")
    np.testing.assert_allclose(reader(), EXPECTED, atol=1e-4)
    np.testing.assert_allclose(reader(), EXPECTED, atol=1e-4)
    assert (reader.index / "mine").read_text() == "mine"
    assert "computes it again" in caplog.text


def test_an_interrupted_scan_keeps_what_it_has_read(reader, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 4)
    manifest = read_folder(reader.folder)

    def interrupted(items, chunks):
        yield [items[int(index)] for index in chunks[0]]

    durations(manifest, reader.index, interrupted, lambda _: None)
    np.testing.assert_allclose(reader(), EXPECTED, atol=1e-4)
    assert reader.read == list(range(4, 10))


def test_nothing_is_left_beside_the_index(reader, tmp_path):
    reader()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "lengths.npy"]


def wrong_call(*_):
    raise TypeError("open() got an unexpected keyword argument")


def test_a_fault_of_ours_is_neither_silent_nor_remembered(reader, monkeypatch):
    probe = module.probe_duration_s
    with monkeypatch.context() as patch:
        patch.setattr(
            module,
            "probe_duration_s",
            lambda file, where: wrong_call() if where.endswith("5.wav") else probe(file, where),
        )
        found = reader()
    assert reader.internal.num == 1
    assert not reader.internal.give_up
    assert found[5] == module.UNKNOWN_S
    np.testing.assert_allclose(reader(), EXPECTED, atol=1e-4)
    assert reader.read == [5]


def test_headers_are_not_read_to_the_end_where_each_meets_a_fault_of_ours(reader, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 1)
    monkeypatch.setattr(module, "probe_duration_s", wrong_call)
    monkeypatch.setattr(internal, "GIVE_UP_AFTER", 4)
    reader()
    assert reader.internal.give_up
    assert len(reader.read) == 4
