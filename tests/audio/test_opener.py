"""Bytes from wherever an opener takes them become the samples of the file that holds the same."""

import errno
import io
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from extract.audio.faults import AudioError, opened
from extract.opener import MISSING, LocalFiles, NotAFileError
from extract.values import AudioSettings
from support.decoding import decode, prepare, probe_duration_s
from support.openers import BareMemory, Memory, TarMembers, pack_tar
from support.recordings import DEMO, PCM, pack, signal, wav_bytes, write_coded, write_pcm

CODED = ["fr_queue-quantity2.flac", "en_something-terribly-wrong.mp3", "es_vm-savemessage.ogg"]


def recordings(folder: Path) -> list[Path]:
    """One of every kind: WAVs of the fast road, resampled or not, and what FFmpeg opens."""
    folder.mkdir()
    for kind in PCM:
        write_pcm(folder / f"{kind}.wav", kind, 32000, 1, 0.5)
        write_pcm(folder / f"{kind}-stereo.wav", kind, 44100, 2, 0.5)
    write_pcm(folder / "six.wav", "s16", 48000, 6, 0.5)
    for name in CODED:
        shutil.copy(DEMO / name, folder / name)
    content = write_coded(folder / "moov-at-the-end.m4a").read_bytes()
    assert content.index(b"moov") > content.index(b"mdat")
    write_coded(folder / "two.m4a", layouts=("mono", "stereo"))
    write_coded(folder / "a.aac")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    return recordings(tmp_path_factory.mktemp("opener") / "files")


@pytest.fixture(params=["memory", "a tar", "without a descriptor"])
def opener(request, files, tmp_path):
    contents = {path.name: path.read_bytes() for path in files}
    if request.param == "a tar":
        return pack_tar(tmp_path / "all.tar", files)
    return (Memory if request.param == "memory" else BareMemory)(contents)


def test_the_samples_are_those_of_the_file_bit_for_bit(files, opener):
    assert len(files) > 15
    for path in files:
        samples = decode(path.name, opener=opener)
        assert np.array_equal(samples, decode(path)), path.name
        samples *= 2  # writable
        assert probe_duration_s(path.name, opener=opener) == probe_duration_s(path)
        prepared = prepare(path.name, AudioSettings(), opener=opener)
        expected = prepare(path, AudioSettings())
        assert np.array_equal(prepared.waveform, expected.waveform)
        assert np.array_equal(prepared.wav32k, expected.wav32k)


def test_what_is_not_there_is_missing(opener):
    for ask in (decode, probe_duration_s):
        with pytest.raises(AudioError) as caught:
            ask("none.wav", opener=opener)
        assert caught.value.reason == "missing"
        assert str(caught.value) == "none.wav: no such file; a recording is needed"
    assert opener.stamp("none.wav") == MISSING


def test_channels_that_cancel_are_found_through_the_same_object(tmp_path):
    left = np.round(signal(9000) * 100) / 128
    content = wav_bytes(pack(np.stack([left, -left], 1).ravel(), "s16"), num_channels=2)
    with pytest.raises(AudioError, match="sound in its 2 channels") as caught:
        prepare("a.wav", AudioSettings(), opener=BareMemory({"a.wav": content}))
    assert caught.value.reason == "silent"


@pytest.mark.parametrize("name", ["s16.wav", "s16-stereo.wav", *CODED, "a.aac"])
def test_a_member_that_is_cut_short_is_judged_as_such_a_file(files, tmp_path, name):
    """Before its header ends, in the middle, and with nothing left, as where a tar was cut."""
    [path] = [path for path in files if path.name == name]
    tar = pack_tar(tmp_path / "whole.tar", files)
    offset, size = tar.members[name]
    for kept in (0, 10, size // 2, size - 1):
        content = path.read_bytes()[:kept]
        (tmp_path / name).write_bytes(content)
        (tmp_path / "cut.tar").write_bytes((tmp_path / "whole.tar").read_bytes()[: offset + kept])
        cut = TarMembers(str(tmp_path / "cut.tar"), {name: (offset, kept)})
        expected = verdict(tmp_path / name, LocalFiles())
        assert verdict(name, cut) == expected
        assert verdict(name, Memory({name: content})) == expected
        assert kept > 10 or expected in ("empty", "undecodable")


def verdict(path: str | Path, opener: object) -> bytes | str:
    try:
        return decode(path, opener=opener).tobytes()
    except AudioError as error:
        return error.reason


def test_a_tar_that_ends_before_its_member_gives_what_is_there(files, tmp_path):
    """The member's size is still what the tar's index says."""
    whole = pack_tar(tmp_path / "whole.tar", files)
    offset, _size = whole.members["s16.wav"]
    content = (tmp_path / "whole.tar").read_bytes()[: offset + 5044]
    (tmp_path / "cut.tar").write_bytes(content)
    cut = TarMembers(str(tmp_path / "cut.tar"), whole.members)
    samples = decode("s16.wav", opener=cut)
    assert len(samples) == 2500
    assert np.array_equal(samples, decode("s16.wav", opener=whole)[: len(samples)])
    for name, (start, _size) in whole.members.items():
        if start > offset:
            with pytest.raises(AudioError) as caught:
                decode(name, opener=cut)
            assert caught.value.reason in ("empty", "undecodable")


class Refusing:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def open(self, path: str) -> io.BytesIO:
        raise self.error


@pytest.mark.parametrize(
    ("error", "raised", "said"),
    [
        (FileNotFoundError(2, "No such key"), AudioError, "a: no such file; a recording is needed"),
        (
            PermissionError(13, "Forbidden"),
            AudioError,
            "a: Forbidden; a file FFmpeg can decode is needed",
        ),
        (
            TimeoutError("the server is silent"),
            AudioError,
            "a: the server is silent; a file FFmpeg can decode is needed",
        ),
        (
            NotAFileError(errno.EINVAL, "a folder"),
            AudioError,
            "a: a folder; a regular file is needed",
        ),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), MemoryError, "a: "),
        (KeyError("a mistake of the opener's"), KeyError, ""),
    ],
)
def test_what_an_opener_raises_is_the_recordings_fault_if_it_is_an_os_error(error, raised, said):
    with pytest.raises(raised) as caught, opened(Refusing(error), "a", "a"):
        pass
    assert str(caught.value).startswith(said)


# --- files of this machine -----------------------------------------------------------------------


def words_for_nul() -> str:
    """Python's own, which differ from version to version."""
    with pytest.raises(ValueError, match="null") as caught:
        os.stat("nul\0byte")  # noqa: PTH116
    return str(caught.value)


def test_what_is_no_file_is_said_in_these_words(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "nothing").touch()
    said = {
        "none": "no such file; a recording is needed",
        "nothing/below": "no such file; a recording is needed",
        ".": "a directory; a regular file is needed",
        "fifo": "a pipe, socket or device; a regular file is needed",
        "nothing": "zero bytes; a recording is needed",
        "nul\0byte": f"{words_for_nul()}; a file FFmpeg can decode is needed",
        "n" * 300: "File name too long; a file FFmpeg can decode is needed",
    }
    for name, expected in said.items():
        for ask in (decode, probe_duration_s):
            with pytest.raises(AudioError) as caught:
                ask(f"{tmp_path}/{name}")
            assert str(caught.value).endswith(f": {expected}")


def test_a_stamp_is_the_files_bytes_and_nanoseconds(tmp_path):
    path = write_pcm(tmp_path / "a.wav", "s16", 32000, 1)
    os.utime(path, ns=(5, 1_700_000_000_123_456_789))
    assert LocalFiles().stamp(str(path)) == (path.stat().st_size, 1_700_000_000_123_456_789)
    assert LocalFiles().stamp(str(tmp_path / "none")) == MISSING == (-1, -1)
    assert LocalFiles().stamp("nul\0byte") == MISSING


def test_the_default_travels_to_workers():
    assert pickle.loads(pickle.dumps(LocalFiles())) == LocalFiles()
