"""A file of the store is whole or not there, whatever the disk does."""

import errno
import io
import os
import re
import stat
import struct
import zlib
from pathlib import Path

import pytest
import soundfile
import torch

from extract.store.files import num_bytes
from extract.store.formats import encode_features, encode_wav
from extract.store.store import Store, StoreUnusable, WriteFailed
from support import posix
from support.stores import paths, put
from support.windows import is_disguised

FEATURES = torch.arange(60, dtype=torch.float32).view(1, 20, 3)
WAV = torch.arange(-6_400, 6_720, dtype=torch.int16)


@pytest.fixture
def store(tmp_path) -> Store:
    store = Store(tmp_path / "store", fsync=False)
    store.create()
    return store


def files(store: Store) -> list[str]:
    return sorted(
        str(path.relative_to(store.directory))
        for path in store.directory.rglob("*")
        if path.is_file()
    )


def record(store: Store, id_: str) -> dict:
    written = put(store, id_, FEATURES, WAV)
    return {"id": id_, "status": "saved", "files": written}


# --- what is written -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_both_files_are_read_back_as_they_were(store, dtype):
    put(store, "speaker/a.wav", FEATURES.to(dtype), WAV)
    features = torch.load(store.directory / "4-cnhubert/speaker/a.wav.pt", weights_only=True)
    assert features.dtype == dtype
    assert torch.equal(features, FEATURES.to(dtype).mT)
    samples, rate = soundfile.read(store.directory / "5-wav32k/speaker/a.wav", dtype="int16")
    assert rate == 32_000
    assert torch.equal(torch.from_numpy(samples), WAV)


def test_special_values_survive_every_dtype():
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        values = torch.tensor([[[0.0, -0.0], [1e-7, -torch.finfo(dtype).max]]], dtype=dtype)
        found = torch.load(io.BytesIO(b"".join(encode_features(values))), weights_only=True)
        assert torch.equal(found.view(torch.uint8), values.mT.contiguous().view(torch.uint8))


def test_a_slice_of_a_batch_costs_only_itself():
    batch = torch.randn(1, 100_000, 32)
    alone = num_bytes(encode_features(batch[:, :50].clone()))
    assert num_bytes(encode_features(batch[:, :50])) == alone
    assert alone < 50 * 32 * 4 + 2_000
    wavs = torch.zeros(1_000_000, dtype=torch.int16)
    assert num_bytes(encode_wav(wavs[:500])) == 44 + 2 * 500


def test_a_wav_header_says_what_follows():
    data = b"".join(encode_wav(torch.tensor([1, -2], dtype=torch.int16)))
    expected = struct.pack(
        "<4sI4s4sIHHIIHH4sIhh",
        *(b"RIFF", 40, b"WAVE", b"fmt ", 16, 1, 1, 32_000, 64_000, 2, 16, b"data", 4, 1, -2),
    )
    assert data == expected


def test_files_are_as_readable_as_the_users_mask_says(store):
    before = os.umask(0o022)
    try:
        put(store, "a.wav", FEATURES, WAV)
    finally:
        os.umask(before)
    for path in paths(store, "a.wav"):
        assert stat.S_IMODE(Path(path).stat().st_mode) == 0o644


@posix.IN_USE
def test_a_file_is_replaced_as_a_whole(store):
    put(store, "a.wav", FEATURES, WAV)
    with open(paths(store, "a.wav")[1], "rb") as reader:
        before = reader.read(10)
        put(store, "a.wav", 2 * FEATURES, WAV[:100])
        assert len(before + reader.read()) == 44 + 2 * len(WAV), "a reader keeps the old file"
    assert Path(paths(store, "a.wav")[1]).stat().st_size == 44 + 2 * 100


# --- faults --------------------------------------------------------------------------------------


WRITE = "write" if is_disguised() else "writev"


def failing(monkeypatch, name: str, call: int, code: int) -> None:
    """The `call`-th use of `os.<name>` fails."""
    real, calls = getattr(os, name), []

    def fails(*args, **kwargs):
        calls.append(args)
        if len(calls) - 1 == call:
            raise OSError(code, os.strerror(code), str(args[0]))
        return real(*args, **kwargs)

    monkeypatch.setattr(os, name, fails)


@pytest.mark.parametrize(("name", "call"), [("open", 0), ("open", 1), (WRITE, 0), (WRITE, 1)])
def test_a_full_disk_leaves_no_file_and_says_how_much_is_missing(store, monkeypatch, name, call):
    failing(monkeypatch, name, call, errno.ENOSPC)
    with pytest.raises(StoreUnusable, match=r"the disk is full: .* MB free, .* MB needed"):
        put(store, "a.wav", torch.zeros(1, 50_000, 8), WAV)
    assert files(store) == []


def test_the_room_that_is_missing_is_the_utterances_own(store, monkeypatch):
    failing(monkeypatch, WRITE, 0, errno.EDQUOT)
    with pytest.raises(StoreUnusable, match=r"\b1\.6 MB needed for the next utterance alone"):
        put(store, "a.wav", torch.zeros(1, 50_000, 8), WAV)


@pytest.mark.parametrize("at_once", [pytest.param(True, marks=posix.CALLS), False])
def test_a_disk_that_takes_a_part_at_a_time_gets_all_of_it(store, monkeypatch, at_once):
    write, calls = os.write, []

    def take_some(descriptor, data):
        calls.append(len(data))
        return write(descriptor, data[:1000])

    if at_once:  # through the end of the first part, whose length is no multiple of a thousand
        monkeypatch.setattr(os, "writev", lambda fd, parts: take_some(fd, b"".join(parts)))
    else:  # where there is no such call
        monkeypatch.delattr(os, "writev")
        monkeypatch.setattr(os, "write", take_some)
    assert store.intact(record(store, "a.wav"), checksum=True)
    assert len(calls) > 10


def test_features_appear_last_so_that_they_are_the_commit(store, monkeypatch):
    failing(monkeypatch, "replace", 1, errno.EIO)
    with pytest.raises(StoreUnusable):
        put(store, "a.wav", FEATURES, WAV)
    assert files(store) == ["5-wav32k/a.wav"]


@pytest.mark.parametrize("code", [errno.ENAMETOOLONG, errno.EISDIR, errno.EILSEQ])
def test_a_name_the_file_system_refuses_costs_only_that_utterance(store, monkeypatch, code):
    failing(monkeypatch, "replace", 0, code)
    with pytest.raises(WriteFailed, match=r"a\.wav: "):
        put(store, "a.wav", FEATURES, WAV)
    assert files(store) == []


def test_a_name_that_is_really_too_long_fails_alone(store):
    with pytest.raises(WriteFailed):
        put(store, "a" * 400, FEATURES, WAV)
    assert files(store) == []


def test_a_store_that_is_gone_says_so_and_is_not_made_again(store):
    for path in sorted(store.directory.rglob("*"), reverse=True):
        path.rmdir()
    store.directory.rmdir()
    with pytest.raises(StoreUnusable, match="the folder is gone"):
        put(store, "speaker/a.wav", FEATURES, WAV)
    assert not store.directory.exists()


def test_an_interruption_in_mid_write_leaves_nothing(store, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, WRITE, interrupted)
    with pytest.raises(KeyboardInterrupt):
        put(store, "a.wav", FEATURES, WAV)
    assert files(store) == []


def test_a_store_that_cannot_be_made_stops_before_any_work(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnusable, match="file"):
        Store(tmp_path / "file" / "store").create()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.EACCES, r"out: cannot be made or written to: Permission denied: {}$"),
        (errno.EROFS, r"out: cannot be made or written to: Read-only file system: {}$"),
        (errno.ENOSPC, r"out: the disk is full: .*more is needed for {}/out"),
    ],
)
def test_a_store_that_never_was_is_not_said_to_be_gone(tmp_path, monkeypatch, code, said):
    """The place is named where the way ends: the folder that exists."""

    def refused(path, *_args, **_kwargs):
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(os, "mkdir", refused)
    with pytest.raises(StoreUnusable) as caught:
        Store(tmp_path / "out").create()
    assert re.search(said.format(re.escape(str(tmp_path))), str(caught.value))
    assert "gone" not in str(caught.value)


def test_a_file_above_a_store_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnusable) as caught:
        Store(tmp_path / "file" / "deep" / "out").create()
    assert f"{tmp_path / 'file'} is in the way: it is no folder" in str(caught.value)


def test_a_folder_of_the_store_that_is_a_file_is_named(tmp_path):
    (tmp_path / "5-wav32k").touch()
    with pytest.raises(StoreUnusable, match="5-wav32k is in the way: it is no folder"):
        Store(tmp_path).create()


@posix.CALLS
def test_a_disk_without_inodes_says_what_is_missing(store, monkeypatch):
    failing(monkeypatch, "open", 0, errno.ENOSPC)
    disk = os.statvfs(store.directory)
    monkeypatch.setattr(
        os, "statvfs", lambda _: os.statvfs_result([*disk[:5], 1000, 0, 0, *disk[8:]])
    )
    with pytest.raises(StoreUnusable, match="no inodes left"):
        put(store, "a.wav", FEATURES, WAV)


def test_what_the_ledger_keeps_is_each_whole_files_checksum(store):
    for (name, offset, size, crc), path in zip(
        put(store, "deep/a.wav", FEATURES, WAV), paths(store, "deep/a.wav"), strict=True
    ):
        data = Path(path).read_bytes()
        assert (store.directory / name) == Path(path)
        assert (offset, size, crc) == (0, len(data), zlib.crc32(data))


def test_lines_whose_files_are_not_the_utterances_are_not_believed(store):
    whole = record(store, "a.wav")
    feature, wav = whole["files"]
    assert store.intact(whole)
    assert store.intact({**whole, "files": [feature]}), "a line of a run without training audio"
    for files in (
        [],
        [wav],
        [wav, feature],
        [feature, wav, wav],
        [feature, ("5-wav32k/b.wav", *wav[1:])],
        [feature, ("../store/5-wav32k/a.wav", *wav[1:])],
        [feature, (wav[0], 1, *wav[2:])],
        [feature, (wav[0], 0, str(wav[2]), wav[3])],
        ["ab", "cd"],
        {"a": 1},
        7,
    ):
        assert not store.intact({**whole, "files": files})


def test_nothing_is_written_or_removed_through_a_link(store, tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "a.wav").write_text("mine")
    (victim / "a.wav.pt").write_text("mine")
    for folder in ("4-cnhubert", "5-wav32k"):
        (store.directory / folder / "deep").symlink_to(victim)
        (store.directory / folder / "new").symlink_to(tmp_path / "nothing")
    for id_ in ("deep/a.wav", "new/a.wav", "deep/deeper/a.wav"):
        with pytest.raises(WriteFailed, match="symbolic link"):
            put(store, id_, FEATURES, WAV)
        store.layout.discard(id_)
    assert {path.name: path.read_text() for path in victim.iterdir()} == {
        "a.wav": "mine",
        "a.wav.pt": "mine",
    }
    assert not (tmp_path / "nothing").exists()


def test_an_id_that_leaves_the_store_discards_nothing(store, tmp_path):
    (tmp_path / "x").write_text("mine")
    (tmp_path / "x.pt").write_text("mine")
    for id_ in ("../../x", str(tmp_path / "x"), "a/../../../x"):
        store.layout.discard(id_)
    assert (tmp_path / "x").exists()
    assert (tmp_path / "x.pt").exists()


def test_a_file_that_has_grown_is_not_whole(store):
    for which in (0, 1):
        saved = record(store, "a.wav")
        with open(paths(store, "a.wav")[which], "ab") as file:
            file.write(b"more")
        assert not store.intact(saved)
        assert not store.intact(saved, checksum=True)


def test_files_in_a_folder_behind_a_link_are_not_ours(store, tmp_path):
    saved = record(store, "deep/a.wav")
    assert store.intact(saved)
    folder = store.directory / "4-cnhubert" / "deep"
    folder.symlink_to(folder.rename(tmp_path / "elsewhere"))
    again = Store(store.directory, fsync=False)
    assert not again.intact(saved)
    assert not again.intact(saved, checksum=True)


def test_a_file_of_the_same_size_behind_a_link_is_not_ours(store, tmp_path):
    saved = record(store, "a.wav")
    path = Path(paths(store, "a.wav")[0])
    path.symlink_to(path.rename(tmp_path / "elsewhere"))
    assert not store.intact(saved)
    assert not store.intact(saved, checksum=True)


def test_files_reach_the_disk_before_their_names_do(tmp_path, monkeypatch):
    events = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *args, real=real, name=name: (events.append(name), real(*args))
        )
    store = Store(tmp_path / "store", fsync=True)
    store.create()
    put(store, "a.wav", FEATURES, WAV)
    assert events == ["fsync", "fsync", "replace", "replace"]


# --- afterwards ----------------------------------------------------------------------------------


def test_what_is_whole_is_told_from_what_is_not(store):
    for damage in ("none", "cut", "gone", "flipped"):
        for which in (0, 1):
            saved = record(store, "a.wav")
            path = paths(store, "a.wav")[which]
            if damage == "cut":
                os.truncate(path, 50)
            elif damage == "gone":
                Path(path).unlink()
            elif damage == "flipped":
                with open(path, "r+b") as file:
                    values = FEATURES.mT.contiguous().numpy().tobytes()
                    file.seek(2_000 if which else file.read().index(values))
                    file.write(b"\x55\xaa\x55")
            assert store.intact(saved) is (damage in ("none", "flipped"))
            assert store.intact(saved, checksum=True) is (damage == "none"), (damage, which)


def test_discarding_removes_both_files_and_minds_nothing(store):
    put(store, "a.wav", FEATURES, WAV)
    put(store, "b.wav", FEATURES, WAV)
    store.layout.discard("a.wav")
    store.layout.discard("a.wav")
    store.layout.discard("never/there.wav")
    store.layout.discard("a" * 400)
    assert files(store) == ["4-cnhubert/b.wav.pt", "5-wav32k/b.wav"]


def test_sweeping_takes_what_killed_runs_left_and_nothing_else(store):
    put(store, "deep/a.wav", FEATURES, WAV)
    whole = files(store)
    left = [store.directory / folder / ".tmp-host-1-0" for folder in ("4-cnhubert", "5-wav32k")]
    left.append(store.directory / "5-wav32k/deep/.tmp-host-1-1")
    for path in left:
        path.touch()
    assert sorted(store.directory.rglob(".tmp-*")) == sorted(left)
    assert store.layout.sweep() == 3
    assert files(store) == whole


def test_a_second_of_audio_takes_its_samples_and_its_frames(tmp_path):
    layout = Store(tmp_path).layout
    assert layout.bytes_per_second(768, 2, 50) == 2 * 32_000 + 768 * 2 * 50
    assert layout.bytes_per_second(768, 4, 25) == 2 * 32_000 + 768 * 4 * 25
