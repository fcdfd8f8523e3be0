"""The bytes of arks and tars: golden, and those that kaldiio and Python's own modules write."""

import io
import json
import re
import tarfile
import wave
from pathlib import Path

import kaldiio
import numpy as np
import pytest
import torch

from extract.store.layouts import kaldi, webdataset
from support.archives import READERS, archives, opened, samples
from support.stores import encoded

GOLDEN = Path(__file__).parent / "golden_files"
# (1, num_frames, hidden_size) and samples, of which the golden files are made
VALUES = ((torch.arange(12, dtype=torch.float32) - 3.5) / 8).view(1, 3, 4)
WAV = torch.arange(-3, 4, dtype=torch.int16) * 4681
IDS = ("below/a b.wav", "c.wav")
LONG = "née/" + "x" * 200 + ".wav"


def write(store, items) -> Path:
    store.create()
    kept = [one for item in items for one in store.layout.put(item)] + [*store.layout.close()]
    lines = [{"id": one.id, "files": one.files, "num_frames": 3} for one in kept]
    store.layout.finish(lambda: lines)
    [path] = archives(store.directory, store.layout_name)
    return path


def test_an_ark_and_its_lists_are_made_of_these_bytes(tmp_path):
    items = [encoded(IDS[0], VALUES, WAV), encoded(IDS[1], -VALUES, WAV)]
    path = write(opened(tmp_path, "kaldi"), items)
    keys = ["below/a%20b.wav", "c.wav"]
    matrices = {keys[0]: VALUES[0].numpy(), keys[1]: -VALUES[0].numpy()}
    kaldiio.save_ark(str(tmp_path / "theirs"), matrices)
    assert (tmp_path / "theirs").read_bytes() == (GOLDEN / "kaldi.ark").read_bytes()
    assert path.read_bytes() == (GOLDEN / "kaldi.ark").read_bytes()
    assert re.fullmatch(r"0-of-1-[0-9a-f]{8}-000000\.ark", path.name)
    assert (tmp_path / "feats.scp").read_text() == f"{keys[0]} {path}:16\n{keys[1]} {path}:85\n"
    assert (tmp_path / "utt2num_frames").read_text() == f"{keys[0]} 3\n{keys[1]} 3\n"


def test_an_ark_begins_with_its_format_byte_by_byte(tmp_path):
    """`<key> `, then `\\0B` for binary, `FM ` for float32, and each size after its own length."""
    data = (GOLDEN / "kaldi.ark").read_bytes()
    assert data[:31] == b"below/a%20b.wav \0BFM \4\3\0\0\0\4\4\0\0\0"
    assert data[31 : 31 + 48] == VALUES.numpy().astype("<f4").tobytes()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_tar_is_made_of_these_bytes(tmp_path, dtype):
    items = [encoded(IDS[0], VALUES.to(dtype), WAV), encoded(LONG, VALUES.to(dtype), WAV[:0])]
    path = write(opened(tmp_path, "webdataset"), items)
    golden = (GOLDEN / f"{str(dtype).removeprefix('torch.')}.tar").read_bytes()
    assert theirs(items) == golden
    assert path.read_bytes() == golden


def theirs(items) -> bytes:
    """The same tar by Python's own modules and NumPy."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for item in items:
            id_, values = item.recording.id, item.features.values[0].numpy()
            about = {"id": id_, "duration": None, "num_frames": 3, "dtype": str(values.dtype)}
            about |= {"source": f"/there/{id_}", "extra": None}
            array = io.BytesIO()
            np.save(array, values)
            contents = {"json": json.dumps(about, ensure_ascii=False).encode()}
            contents["npy"] = array.getvalue()
            if len(item.wav32k):
                contents["wav"] = wav(item.wav32k)
            for suffix, data in contents.items():
                member = tarfile.TarInfo(f"{id_.replace('.', '%2E')}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        end = tar.offset
    return buffer.getvalue()[:end] + bytes(1024)


def wav(samples: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, 32_000, 0, "NONE", None))
        file.writeframes(samples.numpy().astype("<i2").tobytes())
    return buffer.getvalue()


def test_a_tar_says_nothing_of_when_and_by_whom_it_was_made(tmp_path):
    path = write(opened(tmp_path, "webdataset"), [encoded(IDS[0], VALUES, WAV)])
    with tarfile.open(path) as tar:
        for member in tar:
            owner = member.uid, member.gid, member.uname, member.gname
            assert (member.mtime, *owner, member.mode) == (0, 0, 0, "", "", 0o644)


@pytest.mark.parametrize("kind", list(READERS))
def test_ids_that_need_care_are_read_back_by_the_formats_own_reader(tmp_path, kind):
    ids = [LONG, "__a__/b.wav", "__a__", "a.b/c.wav", "a\u3000b c", "50%", "%20", "x/__removed__"]
    path = write(opened(tmp_path, kind), [encoded(id_, VALUES, WAV) for id_ in ids])
    assert READERS[kind](tmp_path).keys() == set(ids)
    with path.open("rb") as file:
        format_ = {"kaldi": kaldi.Ark, "webdataset": webdataset.Tar}[kind]()
        found = list(format_.scan(file))
    assert [block.id for block in found] == ids
    data = path.read_bytes()
    for _id, offset, size in found:
        assert data[offset:].startswith(format_.start(_id))
        assert torch.equal(format_.features(data[offset : offset + size]), VALUES)


def test_what_is_blank_is_read_by_no_reader(tmp_path):
    """webdataset passes over `__removed__`; a key of an ark of backslashes is no utterance's."""
    store = opened(tmp_path / "tar", "webdataset")
    write(store, [encoded(f"{n}.wav", VALUES, WAV) for n in range(3)])
    store.layout.discard("1.wav")
    assert [sample["json"]["id"] for sample in samples(store.directory)] == ["0.wav", "2.wav"]
    store = opened(tmp_path / "ark", "kaldi")
    for length in range(1, 9):  # of the id: a matrix is filled up with a longer key
        ids = ["x" * length, "b"]
        path = write(store, [encoded(id_, VALUES, WAV) for id_ in ids])
        size = path.stat().st_size
        store.layout.discard(ids[0])
        held = dict(kaldiio.load_ark(str(path)))
        assert path.stat().st_size == size
        assert held.keys() - {"\\" * n for n in range(1, 5)} == {"b"}
        assert np.array_equal(held["b"], VALUES[0].numpy())
        path.unlink()
        store = opened(tmp_path / "ark", "kaldi")


def test_a_scan_ends_where_an_archive_is_damaged(tmp_path):
    for kind, format_ in (("kaldi", kaldi.Ark()), ("webdataset", webdataset.Tar())):
        items = [encoded(f"{n}.wav", VALUES, WAV) for n in range(4)]
        data = write(opened(tmp_path / kind, kind), items).read_bytes()
        blocks = list(format_.scan(io.BytesIO(data)))
        for cut in range(0, len(data), 7):
            found = list(format_.scan(io.BytesIO(data[:cut])))
            whole = [block for block in blocks if block.offset + block.size <= cut]
            assert found[: len(whole)] == whole
            assert all(block.offset + block.size <= cut for block in found)
        flipped = bytearray(data)
        flipped[blocks[2].offset + 3] ^= 0x80
        assert list(format_.scan(io.BytesIO(flipped)))[:2] == blocks[:2]


def test_features_of_half_the_size_are_float32_in_an_ark(tmp_path):
    values = VALUES.half()
    write(opened(tmp_path, "kaldi"), [encoded("a", values, WAV)])
    assert torch.equal(READERS["kaldi"](tmp_path)["a"], values.float())
