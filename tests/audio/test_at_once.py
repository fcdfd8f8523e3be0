"""Recordings that go through one filter graph: the same samples, and the same said of faults."""

import os
import random
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from extract.audio import decode as decode_module
from extract.audio import resampling
from extract.audio.decode import AudioError, decode
from extract.audio.ffmpeg import best_stream, open_container
from support.recordings import write_coded

pytestmark = pytest.mark.skipif(
    not hasattr(os, "memfd_create"), reason="no copies in memory: all goes frame by frame"
)

KINDS = ["a.mp3", "a.m4a", "a.aac"]
DURATION_S = 3.1


@pytest.fixture
def frame_by_frame(monkeypatch):
    """`decode`, but never at once."""

    def slowly(path: Path, *limit: float) -> np.ndarray:
        with monkeypatch.context() as patch:
            patch.setattr(decode_module, "goes_at_once", lambda *_: False)
            return decode(path, *limit)

    return slowly


@pytest.fixture
def only_at_once(monkeypatch):
    """`decode`, but never frame by frame."""

    def fast(path: Path) -> np.ndarray:
        with monkeypatch.context() as patch:
            patch.delattr(decode_module, "resample")
            return decode(path)

    return fast


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("rate_hz", [16000, 32000, 44100, 48000])
@pytest.mark.parametrize("layout", ["mono", "stereo"])
def test_the_samples_are_those_frame_by_frame(
    tmp_path, name, rate_hz, layout, frame_by_frame, only_at_once
):
    path = write_coded(tmp_path / name, rate_hz=rate_hz, layouts=(layout,))
    samples = only_at_once(path)
    assert len(samples) == pytest.approx(DURATION_S * 32000, abs=4096)
    assert np.array_equal(samples, frame_by_frame(path))


def test_the_stream_chosen_is_the_one_decoded(tmp_path, monkeypatch, only_at_once, frame_by_frame):
    """Behind a video, and behind the one that FFmpeg's movie source would take."""
    path = write_coded(tmp_path / "a.m4a", layouts=("mono", "stereo"), video=True)
    monkeypatch.setattr(decode_module, "best_stream", lambda found, *_: found.streams.audio[1])
    samples = only_at_once(path)
    assert np.array_equal(samples, frame_by_frame(path))
    assert np.abs(samples).max() > 0.5


def verdict(work, *arguments) -> bytes | str:
    try:
        return work(*arguments).tobytes()
    except AudioError as error:
        return str(error)


def damaged(content: bytes, chance: random.Random) -> bytes:
    """The content with something wrong in its last four fifths."""
    at = chance.randrange(len(content) // 5, len(content))
    some = chance.randrange(1, 2000)
    return chance.choice(
        [
            content[:at],
            content[:at] + content[at + some :],
            content[:at] + bytes(some) + content[at + some :],
            content[:at] + chance.randbytes(some) + content[at:],
            content[:at] + chance.randbytes(3) + content[at + 3 :],
        ]
    )


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("seed", range(25))
def test_damage_costs_the_same_and_is_told_the_same(tmp_path, name, seed, frame_by_frame):
    content = write_coded(tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(damaged(content, random.Random(seed)))
    assert verdict(decode, tmp_path / name) == verdict(frame_by_frame, tmp_path / name)


def test_a_change_on_the_way_loses_nothing(tmp_path, frame_by_frame):
    first = write_coded(tmp_path / "a.mp3").read_bytes()
    second = write_coded(tmp_path / "b.mp3", rate_hz=48000, layouts=("mono",)).read_bytes()
    (tmp_path / "joined.mp3").write_bytes(first + second)
    samples = decode(tmp_path / "joined.mp3")
    assert len(samples) == pytest.approx(2 * DURATION_S * 32000, abs=9000)
    assert np.array_equal(samples, frame_by_frame(tmp_path / "joined.mp3"))


@pytest.mark.parametrize("limit_s", [1.0, 3.0, 3.05, 3.1, 3.15, 3.2, 9.0])
@pytest.mark.parametrize("name", KINDS)
def test_a_limit_rejects_the_same(tmp_path, name, limit_s, frame_by_frame):
    path = write_coded(tmp_path / name)
    assert verdict(decode, path, limit_s) == verdict(frame_by_frame, path, limit_s)


@pytest.mark.parametrize("fault", ["no memory", "cut short", "too large"])
def test_without_a_copy_it_goes_frame_by_frame(tmp_path, monkeypatch, fault, frame_by_frame):
    path = write_coded(tmp_path / "a.mp3")

    def fail(*_: object) -> int:
        raise OSError(28, "No space left on device")

    if fault == "no memory":
        monkeypatch.setattr(os, "memfd_create", fail)
    elif fault == "cut short":
        monkeypatch.setattr(os, "sendfile", lambda *_: 0)
    else:
        monkeypatch.setattr(resampling, "AT_ONCE_BYTES", 10_000)
        monkeypatch.delattr(os, "sendfile")
    assert np.array_equal(decode(path), frame_by_frame(path))


def test_less_than_the_header_counts_is_not_taken_for_the_whole(
    tmp_path, monkeypatch, frame_by_frame
):
    path = write_coded(tmp_path / "a.m4a")

    def half(*arguments):
        pieces = list(resampling.at_once(*arguments))
        yield from pieces[: len(pieces) // 2]

    monkeypatch.setattr(decode_module, "at_once", half)
    assert np.array_equal(decode(path), frame_by_frame(path))


def test_a_packet_of_several_frames_is_an_error_and_not_an_end(tmp_path):
    """FFmpeg's movie source says 'again' where a decoder has more to give than it asks for."""

    class Sink:
        def pull(self) -> None:
            raise av.error.BlockingIOError(11, "Resource temporarily unavailable")

    with pytest.raises(av.error.FFmpegError):
        list(resampling._pulled(Sink()))


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
@pytest.mark.parametrize("name", KINDS)
def test_a_graph_starts_no_thread(tmp_path, name):
    """Workers share the cores already, and a thread for each of them would be a recording's."""
    threads = Path("/proc/self/task")
    path = write_coded(tmp_path / name)
    before = set(threads.iterdir())
    with resampling.resampler("fltp", "stereo", 44100) as resampler:
        assert resampler.source.graph.threads == 1
    with path.open("rb") as file, open_container(file) as container:
        stream = best_stream(container, file)
        assert stream is not None
        seen = [set(threads.iterdir()) - before for _ in resampling.at_once(file, stream)]
    assert not set().union(*seen)


def test_a_short_one_goes_frame_by_frame(tmp_path, monkeypatch):
    """It would lose by it: a file is opened twice."""
    monkeypatch.delattr(decode_module, "at_once")
    assert len(decode(write_coded(tmp_path / "a.mp3", duration_s=1.5))) == pytest.approx(
        48000, abs=4096
    )
