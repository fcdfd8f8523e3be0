"""Any recording becomes the samples that the ffmpeg program gives, and nothing else happens."""

import errno
import gc
import os
import pickle
import random
import re
import resource
import shutil
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from golden.make import CASES, DEMO_STEP

from extract.audio import decode as decode_module
from extract.audio import ffmpeg, resampling
from extract.audio.faults import AudioError
from extract.audio.wav import read_header
from support.decoding import decode, probe_duration_s
from support.recordings import (
    DEMO,
    FFMPEG,
    PCM,
    RATES_HZ,
    ffmpeg_convert,
    ffmpeg_decode,
    pack,
    signal,
    wav_bytes,
    write_coded,
    write_floats,
    write_pcm,
)

GOLDEN = Path(__file__).parent / "golden"
CLIPS = sorted(path.name for path in DEMO.glob("*_*"))
CODED = ["a.mp3", "a.m4a", "a.aac"]
SPEECH = DEMO / "en_tt-weasels.wav"

# swresample sums its filter's taps in the order of the processor's vector width: other machines
# may differ in the last bits. Where nothing is resampled or mixed, all agree exactly.
FILTER_TOLERANCE = 5e-7
# The decoders of FFmpeg 5.1 and 8 differ in the last bits: up to 3e-7 measured, MP3 by nothing.
LOSSY_TOLERANCE = 2e-6

needs_ffmpeg = pytest.mark.skipif(FFMPEG is None, reason="no ffmpeg program here")


def reason_of(path: object, **options: float) -> str:
    with pytest.raises(AudioError) as caught:
        decode(path, **options)  # type: ignore[arg-type]
    head, _, tail = str(caught.value).rpartition(": ")
    assert head, "the detail names where"
    assert "; " in tail, "the detail says what was found; what was needed"
    return caught.value.reason


def decode_frame_by_frame(path: Path, audio: int = 0) -> np.ndarray:
    """The plain way with PyAV, which the fast ways must equal."""
    resampler = av.AudioResampler("flt", "mono", 32000)
    with av.open(str(path)) as container:
        pieces = [
            piece.to_ndarray()[0]
            for frame in (*container.decode(audio=audio), None)
            for piece in resampler.resample(frame)
        ]
    return np.concatenate(pieces)


# --- golden samples, without the ffmpeg program --------------------------------------------------


@pytest.mark.parametrize(("kind", "rate_hz", "num_channels"), CASES)
def test_every_sample_format_gives_the_samples_stored_from_ffmpeg(
    tmp_path, kind, rate_hz, num_channels
):
    samples = decode(write_pcm(tmp_path / "a.wav", kind, rate_hz, num_channels, 0.02))
    golden = np.load(GOLDEN / "pcm.npz")[f"{kind}-{rate_hz}-{num_channels}"]
    assert samples.dtype == np.float32
    assert len(samples) == len(golden) > 0
    exact = (rate_hz, num_channels) == (32000, 1)
    np.testing.assert_allclose(samples, golden, rtol=0, atol=0 if exact else FILTER_TOLERANCE)


@pytest.mark.parametrize("name", CLIPS)
def test_demo_clips_give_the_samples_stored_from_ffmpeg(name):
    golden = np.load(GOLDEN / "demo.npz")
    samples = decode(DEMO / name)
    assert len(samples) == golden[f"{name}:length"]
    np.testing.assert_allclose(
        samples[::DEMO_STEP], golden[name], rtol=0, atol=LOSSY_TOLERANCE, strict=True
    )


# --- the same bits by every way ------------------------------------------------------------------


@pytest.mark.parametrize("num_channels", [1, 2])
@pytest.mark.parametrize("rate_hz", RATES_HZ)
@pytest.mark.parametrize("kind", PCM)
def test_the_fast_way_equals_frame_by_frame_bit_for_bit(tmp_path, kind, rate_hz, num_channels):
    path = write_pcm(tmp_path / "a.wav", kind, rate_hz, num_channels, duration_s=1.1)
    with path.open("rb") as file:
        assert read_header(file), "this is about the fast way"
    assert np.array_equal(decode(path), decode_frame_by_frame(path))


@pytest.mark.parametrize("kind", PCM)
def test_both_ends_of_the_number_range_are_those_of_ffmpeg(tmp_path, kind):
    extremes = np.array([-1.0, 1 - 2**-53, 0.0, 2**-31, -(2**-31), 0.5] * 50)
    data = pack(extremes, kind)
    (tmp_path / "a.wav").write_bytes(wav_bytes(data, kind))
    samples = decode(tmp_path / "a.wav")
    assert samples[0] == -1.0
    assert np.array_equal(samples, decode_frame_by_frame(tmp_path / "a.wav"))


@pytest.mark.parametrize("name", [name for name in CLIPS if not name.endswith(".wav")])
def test_coded_clips_equal_frame_by_frame_bit_for_bit(name):
    assert np.array_equal(decode(DEMO / name), decode_frame_by_frame(DEMO / name))


@pytest.mark.parametrize("name", CODED)
@pytest.mark.parametrize("rate_hz", [16000, 32000, 44100, 48000])
@pytest.mark.parametrize("layout", ["mono", "stereo"])
def test_mp3_and_aac_equal_frame_by_frame_bit_for_bit(tmp_path, name, rate_hz, layout):
    path = write_coded(tmp_path / name, rate_hz=rate_hz, layouts=(layout,))
    samples = decode(path)
    assert len(samples) == pytest.approx(3.1 * 32000, abs=4096)
    assert np.array_equal(samples, decode_frame_by_frame(path))


def test_the_stream_chosen_is_the_one_decoded_behind_a_video_and_another(tmp_path, monkeypatch):
    path = write_coded(tmp_path / "a.m4a", layouts=("mono", "stereo"), video=True)
    monkeypatch.setattr(decode_module, "best_stream", lambda found, *_: found.streams.audio[1])
    samples = decode(path)
    assert np.array_equal(samples, decode_frame_by_frame(path, audio=1))
    assert np.abs(samples).max() > 0.5, "each stream is louder than the last"


@needs_ffmpeg
@pytest.mark.parametrize("num_channels", [1, 2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("kind", PCM)
def test_pcm_equals_the_ffmpeg_program_bit_for_bit(tmp_path, kind, num_channels):
    for rate_hz in (8000, 32000, 44100):
        path = write_pcm(tmp_path / "a.wav", kind, rate_hz, num_channels, duration_s=0.3)
        assert np.array_equal(decode(path), ffmpeg_decode(path)), rate_hz


LOSSLESS = [
    ("a.flac", ["-sample_fmt", "s16"]),
    ("a.flac", ["-sample_fmt", "s32"]),
    ("a.flac", ["-ar", "32000", "-ac", "1"]),
    ("a.aiff", ["-c:a", "pcm_s24be"]),
    ("a.aiff", ["-c:a", "pcm_s8", "-ar", "32000", "-ac", "1"]),
    ("a.au", ["-c:a", "pcm_f32be"]),
    ("a.caf", ["-c:a", "pcm_s16le"]),
    ("a.w64", ["-c:a", "pcm_s16le"]),
    ("a.wav", ["-c:a", "pcm_s16le", "-rf64", "always"]),
    ("a.wav", ["-c:a", "pcm_mulaw"]),
    ("a.wav", ["-c:a", "adpcm_ms", "-ac", "1"]),
    ("a.m4a", ["-c:a", "alac"]),
    ("a.wv", ["-c:a", "wavpack"]),
    ("a.mov", ["-c:a", "pcm_s16be"]),
]
LOSSY = [
    ("a.mp3", ["-b:a", "64k"]),
    ("a.mp3", ["-q:a", "4", "-write_xing", "0", "-id3v2_version", "0"]),
    ("a.m4a", ["-c:a", "aac"]),
    ("a.aac", ["-c:a", "aac"]),
    ("a.mp4", ["-c:a", "aac", "-movflags", "frag_keyframe+empty_moov"]),
    ("a.ogg", ["-c:a", "libvorbis"]),
    ("a.opus", ["-c:a", "libopus"]),
    ("a.webm", ["-c:a", "libopus"]),
    ("a.wma", ["-c:a", "wmav2"]),
    ("a.ac3", ["-c:a", "ac3", "-ac", "6"]),
    ("a.ts", ["-c:a", "aac"]),
    ("a.m4a", ["-c:a", "aac", "-ss", "0.3"]),
]


def convert_or_skip(source: Path, target: Path, *options: str) -> Path:
    try:
        return ffmpeg_convert(source, target, *options)
    except Exception as error:  # another build of ffmpeg, without that encoder
        pytest.skip(str(error))


@needs_ffmpeg
@pytest.mark.parametrize(("name", "options"), LOSSLESS)
def test_lossless_formats_equal_the_ffmpeg_program_bit_for_bit(tmp_path, name, options):
    stereo = write_pcm(tmp_path / "source.wav", "s32", 44100, 2, duration_s=1.0)
    path = convert_or_skip(stereo, tmp_path / name, *options)
    assert np.array_equal(decode(path), ffmpeg_decode(path))
    assert probe_duration_s(path) == pytest.approx(1.0, abs=0.03)


@needs_ffmpeg
@pytest.mark.parametrize(("name", "options"), LOSSY)
def test_lossy_formats_equal_the_ffmpeg_program_to_the_last_bits(tmp_path, name, options):
    speech = ffmpeg_convert(SPEECH, tmp_path / "source.wav", "-ar", "48000", "-ac", "2")
    path = convert_or_skip(speech, tmp_path / name, *options)
    samples, expected = decode(path), ffmpeg_decode(path)
    if b"elst" in path.read_bytes():
        samples, expected = up_to_the_edit_lists_end(path, samples, expected)
    assert len(samples) == len(expected)
    np.testing.assert_allclose(samples, expected, rtol=0, atol=LOSSY_TOLERANCE)
    assert probe_duration_s(path) == pytest.approx(len(samples) / 32000, rel=0.1)


def up_to_the_edit_lists_end(path: Path, *decoded: np.ndarray) -> list[np.ndarray]:
    """Each of `decoded` to shortly before where an MP4's edit list ends it; checks each length.

    AAC comes in packets of 1,024 samples, so the last one is padded. The edit list says how much of
    it is sound: as much as the encoder was given. FFmpeg 9 (PyAV 19) cuts the padding off, which is
    right; earlier ones, 5.1 and 8.1 among them, only cut the priming at the start. The last
    millisecond is left out, since a resampler ends otherwise where more follows.
    """
    promised, padded = mp4_lengths(path)
    assert promised < padded
    ours_is_cut = int(av.library_versions["libavformat"][0]) >= 63
    assert len(decoded[0]) == (promised if ours_is_cut else padded)
    assert all(len(samples) in (promised, padded) for samples in decoded)
    return [samples[: promised - 32] for samples in decoded]


def mp4_lengths(path: Path) -> tuple[int, int]:
    """Samples at 32 kHz by an MP4's edit list, and by the number of its packets: 48 kHz AAC.

    Source: ISO/IEC 14496-12, 8.2.2 (mvhd), 8.6.6 (elst), 8.7.3 (stsz), each in its version 0.
    """
    content = path.read_bytes()

    def numbers(box: bytes, offset: int, count: int) -> tuple[int, ...]:
        return struct.unpack_from(f">{count}I", content, content.index(box) + 4 + offset)

    (timescale,) = numbers(b"mvhd", 12, 1)
    num_edits, edit_length, first_sample = numbers(b"elst", 4, 3)
    assert num_edits == 1
    (num_packets,) = numbers(b"stsz", 8, 1)
    padded = num_packets * 1024 - first_sample
    return round(edit_length / timescale * 32000), -(-padded * 2 // 3)


@needs_ffmpeg
def test_the_edit_list_of_an_m4a_ends_with_the_sound_that_was_encoded(tmp_path):
    speech = ffmpeg_convert(SPEECH, tmp_path / "source.wav", "-ar", "48000", "-ac", "2")
    path = convert_or_skip(speech, tmp_path / "a.m4a", "-c:a", "aac")
    promised, _ = mp4_lengths(path)
    assert promised == pytest.approx(len(decode(speech)), abs=32), "to the list's millisecond"


@needs_ffmpeg
@pytest.mark.parametrize(
    ("defaults", "chosen"), [((0, 0), "stereo"), ((1, 0), "mono"), ((0, 1), "stereo")]
)
def test_of_several_streams_the_one_ffmpeg_would_take_is_decoded(tmp_path, defaults, chosen):
    mono = write_pcm(tmp_path / "mono.wav", "s16", 16000, 1, duration_s=0.5)
    stereo = write_pcm(tmp_path / "stereo.wav", "s16", 44100, 2, duration_s=0.7)
    options = ["-i", str(stereo), "-map", "0", "-map", "1", "-c:a", "pcm_s16le"]
    for index, default in enumerate(defaults):
        options += [f"-disposition:a:{index}", "default" if default else "0"]
    path = ffmpeg_convert(mono, tmp_path / "a.mka", *options)
    assert np.array_equal(decode(path), decode(tmp_path / f"{chosen}.wav"))
    assert np.array_equal(decode(path), ffmpeg_decode(path))


@needs_ffmpeg
def test_a_change_of_rate_on_the_way_loses_nothing(tmp_path):
    first = ffmpeg_convert(SPEECH, tmp_path / "1.aac", "-ar", "48000", "-ac", "2")
    second = ffmpeg_convert(SPEECH, tmp_path / "2.aac", "-ar", "24000", "-ac", "1")
    (tmp_path / "joined").write_bytes(first.read_bytes() + second.read_bytes())
    joined, alone = decode(tmp_path / "joined"), decode(first)
    assert np.array_equal(joined[: len(alone)], alone)
    assert len(joined) == pytest.approx(len(alone) + len(decode(second)), abs=2048)


def test_a_change_on_the_way_through_an_mp3_loses_nothing(tmp_path):
    first = write_coded(tmp_path / "a.mp3")
    second = write_coded(tmp_path / "b.mp3", rate_hz=48000, layouts=("mono",))
    (tmp_path / "joined.mp3").write_bytes(first.read_bytes() + second.read_bytes())
    samples = decode(tmp_path / "joined.mp3")
    assert len(samples) == pytest.approx(2 * 3.1 * 32000, abs=9000)
    assert np.array_equal(samples[: 3 * 32000], decode(first)[: 3 * 32000])


# --- WAV headers that lie ------------------------------------------------------------------------


LIARS = {
    "length zero, as a pipe leaves it": {"data_length": 0},
    "length unknown, as a pipe leaves it": {"data_length": 0xFFFFFFFF},
    "shorter than the file": {"data_length": 1001},
    "longer than the file": {"data_length": 10_000_000},
    "a second data chunk": {"after": b"data" + struct.pack("<I", 400) + bytes(range(200)) * 2},
    "a comment after the samples": {"after": b"LIST" + struct.pack("<I", 4) + b"abcd"},
    "rubbish after the samples": {"after": b"rubbish"},
    "unusual speakers": {"speakers": 0x60000000},
    "usual speakers": {"speakers": 0x3},
    "no speakers": {"speakers": 0},
}


@pytest.mark.parametrize("liar", LIARS)
def test_a_header_that_lies_is_read_as_ffmpeg_reads_it(tmp_path, liar):
    path = tmp_path / "a.wav"
    data = pack(signal(16000), "s16")
    path.write_bytes(wav_bytes(data, "s16", 44100, 2, **LIARS[liar]))
    assert np.array_equal(decode(path), decode_frame_by_frame(path))
    if FFMPEG:
        assert np.array_equal(decode(path), ffmpeg_decode(path))


@pytest.mark.parametrize(
    ("num_channels", "speakers", "named"),
    [(2, 0x600, r"2 channels \(SL\+SR\)"), (9, None, "9 channels"), (17, None, "17 channels")],
)
def test_channels_that_ffmpeg_cannot_mix_are_named_with_the_remedy(
    tmp_path, num_channels, speakers, named
):
    data = pack(signal(2000 * num_channels), "s16")
    path = tmp_path / "a.wav"
    path.write_bytes(wav_bytes(data, "s16", 44100, num_channels, speakers=speakers))
    assert reason_of(path) == "undecodable"
    with pytest.raises(AudioError, match=f"{named}, for which FFmpeg has no mix to mono") as caught:
        decode(path)
    assert "a file FFmpeg can decode" not in str(caught.value)
    if FFMPEG:
        assert len(ffmpeg_decode(path)) == 0
        remedy = re.search(r"'(pan=.*)'", str(caught.value))
        assert remedy
        mono = ffmpeg_convert(path, tmp_path / "mono.wav", "-af", remedy[1])
        assert len(decode(mono)) == pytest.approx(2000 * 32000 / 44100, abs=2)


@pytest.mark.parametrize("num_bytes", [5001, 8000, 30001])
def test_a_file_cut_short_gives_what_is_there(tmp_path, num_bytes):
    whole = write_pcm(tmp_path / "whole.wav", "s16", 32000, 1, duration_s=1.0)
    (tmp_path / "cut.wav").write_bytes(whole.read_bytes()[:num_bytes])
    samples = decode(tmp_path / "cut.wav")
    assert len(samples) == (num_bytes - 44) // 2
    assert np.array_equal(samples, decode(whole)[: len(samples)])


@pytest.mark.parametrize("num_bytes", [1, 4, 12, 20, 30, 44])
def test_a_file_cut_within_its_header_is_refused(tmp_path, num_bytes):
    whole = write_pcm(tmp_path / "whole.wav", "s16", 32000, 1)
    (tmp_path / "cut.wav").write_bytes(whole.read_bytes()[:num_bytes])
    assert reason_of(tmp_path / "cut.wav") in ("undecodable", "empty")


def test_a_file_of_nothing_but_damage_is_undecodable_not_empty(tmp_path):
    (tmp_path / "a.wav").write_bytes(wav_bytes(b"\x01", num_channels=2, data_length=4000))
    assert reason_of(tmp_path / "a.wav") == "undecodable"


def test_damage_inside_a_file_costs_only_what_it_hit(tmp_path):
    name = "en_something-terribly-wrong.mp3"
    damaged = bytearray((DEMO / name).read_bytes())
    third = len(damaged) // 3
    damaged[third : third + 300] = bytes(b ^ 0x5A for b in damaged[third : third + 300])
    (tmp_path / "a.mp3").write_bytes(damaged)
    samples, whole = decode(tmp_path / "a.mp3"), decode(DEMO / name)
    assert 0.8 * len(whole) < len(samples) <= len(whole)
    assert np.array_equal(samples[:10000], whole[:10000])


@pytest.mark.parametrize("name", ["a.mp3", "a.aac"])
@pytest.mark.parametrize("seed", range(15))
def test_damage_costs_no_sound_before_it(tmp_path, name, seed):
    """Whatever is wrong: bytes that are gone, zero, foreign or too many. Seconds are rough."""
    path = write_coded(tmp_path / name)
    content, whole, chance = path.read_bytes(), decode(path), random.Random(seed)
    at, some = chance.randrange(len(content) // 5, len(content)), chance.randrange(1, 2000)
    wrong = chance.choice([b"", bytes(some), chance.randbytes(some)])
    resumed = chance.choice([at, at + some, len(content)])
    path.write_bytes(content[:at] + wrong + content[resumed:])
    samples = decode(path)
    sound = slice(0, int(0.9 * len(whole) * at / len(content)) - 3200)
    assert np.array_equal(samples[sound], whole[sound])
    assert len(samples) < len(whole) + 3200


# --- what is no recording ------------------------------------------------------------------------


def test_a_missing_file_is_missing(tmp_path):
    assert reason_of(tmp_path / "none.wav") == "missing"
    (tmp_path / "file").write_bytes(b"x")
    assert reason_of(tmp_path / "file" / "below.wav") == "missing"
    (tmp_path / "link").symlink_to(tmp_path / "none.wav")
    assert reason_of(tmp_path / "link") == "missing"


def test_zero_bytes_and_zero_samples_are_empty(tmp_path):
    (tmp_path / "nothing.wav").touch()
    assert reason_of(tmp_path / "nothing.wav") == "empty"
    (tmp_path / "header.wav").write_bytes(wav_bytes(b""))
    assert reason_of(tmp_path / "header.wav") in ("empty", "undecodable")


@pytest.mark.parametrize(
    "content",
    [b"Dear diary, today nothing was recorded.\n" * 50, signal(3000).tobytes(), b"\0" * 5000],
    ids=["text", "noise", "zeros"],
)
def test_what_is_no_audio_is_undecodable(tmp_path, content):
    (tmp_path / "a.wav").write_bytes(content)
    assert reason_of(tmp_path / "a.wav") == "undecodable"
    with pytest.raises(AudioError, match="is needed"):
        probe_duration_s(tmp_path / "a.wav")


def test_directories_pipes_sockets_and_devices_are_never_opened(tmp_path):
    assert reason_of(tmp_path) == "undecodable"
    os.mkfifo(tmp_path / "fifo.wav")  # opening it would wait for a writer that never comes
    assert reason_of(tmp_path / "fifo.wav") == "undecodable"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        assert reason_of(tmp_path / "s") == "undecodable"
    assert reason_of("/dev/zero") == "undecodable"
    with pytest.raises(AudioError, match="a pipe, socket or device"):
        probe_duration_s(tmp_path / "fifo.wav")


def test_a_path_that_cannot_be_a_file_is_undecodable(tmp_path):
    assert reason_of("nul\0byte.wav") == "undecodable"
    assert reason_of(tmp_path / ("n" * 300)) == "undecodable"
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert reason_of(tmp_path / "loop") == "undecodable"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_a_file_we_may_not_read_is_undecodable(tmp_path):
    path = write_pcm(tmp_path / "a.wav", "s16", 32000, 1)
    path.chmod(0)
    assert reason_of(path) == "undecodable"


def test_a_failing_disk_is_undecodable(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    path = write_pcm(tmp_path / "a.wav", "s16", 32000, 1)
    monkeypatch.setattr(decode_module, "read_blocks", fail)
    with pytest.raises(AudioError, match="Input/output error") as caught:
        decode(path)
    assert caught.value.reason == "undecodable"


def raising(error: BaseException):
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


OURS = [
    TypeError("open() got an unexpected keyword argument"),
    AttributeError("no such attribute"),
    ValueError("a value of ours"),
    KeyError("key"),
    AssertionError("ours"),
]


PLACES = [
    *((decode, where) for where in ("read_header", "open_container", "best_stream", "resample")),
    *((probe_duration_s, where) for where in ("read_header", "open_container", "best_stream")),
]


@pytest.mark.parametrize("error", OURS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(("ask", "where"), PLACES)
def test_a_fault_of_ours_is_not_called_the_files(monkeypatch, ask, where, error):
    monkeypatch.setattr(decode_module, where, raising(error))
    with pytest.raises(type(error)) as caught:
        ask(DEMO / "fr_queue-quantity2.flac")
    assert caught.value is error


NO_MEMORY = [
    MemoryError("ours"),
    av.error.MemoryError(errno.ENOMEM, "Cannot allocate memory"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
]


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda error: type(error).__module__)
@pytest.mark.parametrize("where", ["read_header", "open_container", "best_stream", "resample"])
def test_out_of_memory_is_no_damage(monkeypatch, where, error):
    monkeypatch.setattr(decode_module, where, raising(error))
    with pytest.raises(MemoryError):
        decode(DEMO / "fr_queue-quantity2.flac")


@pytest.mark.parametrize("error", NO_MEMORY[:2], ids=lambda error: type(error).__module__)
@pytest.mark.parametrize("where", ["open", "demux", "decode"])
def test_out_of_memory_within_a_stream_keeps_no_half_of_it(where, error):
    """FFmpeg's other errors are skipped as damage."""
    codec = SimpleNamespace(open=lambda strict: None, decode=lambda packet: ["frame"], is_open=True)
    container = SimpleNamespace(demux=lambda stream: ["packet"])
    setattr(container if where == "demux" else codec, where, raising(error))
    frames = ffmpeg.Frames(container, SimpleNamespace(codec_context=codec))
    with pytest.raises(MemoryError) as caught:
        list(frames)
    assert caught.value is error


def test_a_file_that_holds_no_audio_stream_says_so(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10, width=32, height=32)
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        container.mux([*stream.encode(frame), *stream.encode(None)])
    with pytest.raises(AudioError, match="no audio stream") as caught:
        decode(tmp_path / "a.mp4")
    assert caught.value.reason == "undecodable"


def test_a_stream_that_ffmpeg_cannot_decode_is_no_audio_stream(tmp_path):
    path = write_coded(tmp_path / "a.m4a")
    content = bytearray(path.read_bytes())
    kind = content.index(b"esds") + 21  # MPEG-4's word for AAC
    assert content[kind] == 0x40
    content[kind] = 0xFF
    path.write_bytes(content.replace(b"mp4a", b"zzzz"))
    with pytest.raises(AudioError, match="no audio stream") as caught:
        decode(path)
    assert caught.value.reason == "undecodable"


def test_a_playlist_cannot_make_another_file_open(tmp_path, capfd):
    target = write_pcm(tmp_path / "secret.wav", "s16", 32000, 1, duration_s=1)
    playlists = {
        "a.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n",
        "a.ffconcat": "ffconcat version 1.0\nfile {}\n",
        "a.pls": "[playlist]\nFile1={}\n",
        "a.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=audio 9999 RTP/AVP 0\n",
    }
    for name, text in playlists.items():
        for url in ("secret.wav", target, f"file:{target}", "http://127.0.0.1:9/a.wav"):
            (tmp_path / name).write_text(text.format(url))
            assert reason_of(tmp_path / name) == "undecodable", (name, url)
    assert capfd.readouterr() == ("", "")


# --- too long, too big ---------------------------------------------------------------------------


def peak_memory_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write_silence(path: Path, codec: str, hours: float, rate_hz: int = 48000) -> Path:
    """Hours of digital silence in a few hundred kilobytes."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate_hz, layout="mono")
        form = stream.codec_context.format.name
        frame_s = 4.0 if codec == "flac" else 0.5
        frame = av.AudioFrame(format=form, layout="mono", samples=int(rate_hz * frame_s))
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        frame.sample_rate = rate_hz
        for _ in range(int(hours * 3600 / frame_s)):
            frame.pts = None
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture
def seconds_decoded(monkeypatch) -> list[float]:
    """Grows by the length of each frame that FFmpeg's decoders give."""
    seconds: list[float] = []
    really = ffmpeg.Frames._decoded

    def counted(self: ffmpeg.Frames, packet: object) -> list[av.AudioFrame]:
        frames = really(self, packet)
        seconds.extend(frame.samples / frame.sample_rate for frame in frames)
        return frames

    monkeypatch.setattr(ffmpeg.Frames, "_decoded", counted)
    return seconds


def test_hours_of_silence_are_stopped_by_the_header(tmp_path, seconds_decoded):
    bomb = write_silence(tmp_path / "bomb.flac", "flac", hours=1)
    assert bomb.stat().st_size < 600_000
    before_mib = peak_memory_mib()
    assert reason_of(bomb, max_duration_s=600) == "too_long"
    assert not seconds_decoded
    assert peak_memory_mib() - before_mib < 16
    assert probe_duration_s(bomb) == pytest.approx(3600)


def test_a_bomb_whose_header_is_silent_is_stopped_on_the_way(tmp_path, seconds_decoded):
    bomb = write_silence(tmp_path / "bomb.flac", "flac", hours=0.2)
    data = bytearray(bomb.read_bytes())
    data[21] &= 0xF0  # STREAMINFO's total of samples: 36 bits, zero for unknown
    data[22:26] = bytes(4)
    bomb.write_bytes(data)
    assert len(decode(bomb)) == 720 * 32000
    assert sum(seconds_decoded) == pytest.approx(720)
    seconds_decoded.clear()
    before_mib = peak_memory_mib()
    with pytest.raises(AudioError, match="decoded") as caught:
        decode(bomb, max_duration_s=30)
    assert caught.value.reason == "too_long"
    assert 30 < sum(seconds_decoded) < 30.2, "to the frame past the limit, of 0.1 s each"
    assert peak_memory_mib() - before_mib < 64


@pytest.mark.parametrize("clip", ["en_something-terribly-wrong.mp3", "es_vm-savemessage.ogg"])
def test_a_guessed_duration_rejects_nothing(tmp_path, clip):
    """Where no header counts the samples, FFmpeg divides the file's size by a bit rate."""
    content = (DEMO / clip).read_bytes()
    if clip.endswith(".mp3"):
        content = content[content.index(b"\xff", 500) :]  # without the frame that counts the others
    (tmp_path / "a").write_bytes(content + bytes(400_000))
    assert probe_duration_s(tmp_path / "a") > 60
    assert len(decode(tmp_path / "a", max_duration_s=5)) > 2 * 32000


@pytest.mark.parametrize(("limit_s", "passes"), [(1.0, True), (0.999, False)])
@pytest.mark.parametrize("rate_hz", [32000, 44100])
def test_the_longest_allowed_recording_passes(tmp_path, rate_hz, limit_s, passes):
    path = write_pcm(tmp_path / "a.wav", "s16", rate_hz, 1, duration_s=1.0)
    if passes:
        assert len(decode(path, limit_s)) == 32000
    else:
        assert reason_of(path, max_duration_s=limit_s) == "too_long"


@pytest.mark.parametrize("limit_s", [1.0, 3.0, 3.05, 3.1, 3.15, 3.2, 9.0])
@pytest.mark.parametrize("name", CODED)
def test_a_limit_judges_a_coded_recording_by_its_sound(tmp_path, name, limit_s):
    path = write_coded(tmp_path / name)
    samples = decode(path)
    if len(samples) / 32000 > limit_s:
        assert reason_of(path, max_duration_s=limit_s) == "too_long"
    else:
        assert np.array_equal(decode(path, limit_s), samples)


@pytest.mark.parametrize("rate_hz", [3_072_001, 2_000_000_000])
def test_a_rate_that_no_recorder_has_is_refused_without_allocating_for_it(tmp_path, rate_hz):
    before_mib = peak_memory_mib()
    (tmp_path / "a.wav").write_bytes(wav_bytes(pack(signal(9999), "s16"), "s16", rate_hz))
    assert reason_of(tmp_path / "a.wav") == "undecodable"
    assert peak_memory_mib() - before_mib < 64


def test_a_rate_of_one_hertz_cannot_fill_the_memory(tmp_path):
    (tmp_path / "a.wav").write_bytes(wav_bytes(pack(signal(9999), "s16"), "s16", 1))
    assert reason_of(tmp_path / "a.wav", max_duration_s=600) == "too_long"
    (tmp_path / "b.wav").write_bytes(wav_bytes(pack(signal(9999), "s16"), "s16", 1, data_length=0))
    assert reason_of(tmp_path / "b.wav", max_duration_s=600) == "too_long"


# --- names ---------------------------------------------------------------------------------------


ODD_NAMES = [
    "音声 ä.wav",
    "-i.wav",
    "a:b.wav",
    "http:x.wav",
    "file:x.wav",
    "pipe:0",
    "concat:a|b",
    "img%03d.png",
    "no extension",
    "new\nline.wav",
    os.fsdecode(b"bytes-\xff\xfe.wav"),
]


@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
@pytest.mark.parametrize("clip", ["en_tt-weasels.wav", "fr_queue-quantity2.flac"])
def test_odd_names_are_plain_files(tmp_path, monkeypatch, name, clip):
    monkeypatch.chdir(tmp_path)
    shutil.copy(DEMO / clip, tmp_path / name)
    assert np.array_equal(decode(name), decode(DEMO / clip))
    assert probe_duration_s(name) == probe_duration_s(DEMO / clip)


@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
def test_errors_can_be_printed_whatever_the_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AudioError) as caught:
        decode(name)
    text = str(caught.value)
    assert text.encode("utf-8")
    assert "\n" not in text


@pytest.mark.parametrize("extension", [".wav", ".mp3", ".flac", ".m4a", ".txt", ".png", ""])
@pytest.mark.parametrize("clip", CLIPS[2::3])
def test_an_extension_that_lies_changes_nothing(tmp_path, clip, extension):
    shutil.copy(DEMO / clip, tmp_path / f"a{extension}")
    assert np.array_equal(decode(tmp_path / f"a{extension}"), decode(DEMO / clip))


def test_comments_in_any_encoding_do_not_matter(tmp_path):
    comment = b"INFOINAM" + struct.pack("<I", 4) + b"\xff\xfe\xe9\x80"
    after = b"LIST" + struct.pack("<I", len(comment)) + comment
    data = pack(signal(3000), "s16")
    (tmp_path / "a.wav").write_bytes(wav_bytes(data, num_channels=3, after=after))
    assert len(decode(tmp_path / "a.wav")) == 1000


# --- manners -------------------------------------------------------------------------------------


def open_files() -> int:
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


def test_nothing_is_printed_and_no_file_stays_open(tmp_path, capfd):
    (tmp_path / "text.wav").write_text("nothing " * 999)
    broken = bytearray((DEMO / "en_something-terribly-wrong.mp3").read_bytes())
    broken[3000:5000] = bytes(2000)
    (tmp_path / "broken.mp3").write_bytes(broken)
    decode(tmp_path / "broken.mp3")
    open_before = open_files()
    for _ in range(3):
        reason_of(tmp_path / "text.wav")
        decode(tmp_path / "broken.mp3")
        decode(SPEECH)
    assert open_files() == open_before
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="files are counted in /proc")
@pytest.mark.parametrize("name", ["en_something-terribly-wrong.mp3", "fr_queue-quantity2.flac"])
@pytest.mark.parametrize("most_s", [600, 1])
def test_what_ffmpeg_holds_is_freed_without_the_garbage_collector(name, most_s):
    """It runs by the number of Python's objects: a few graphs, of megabytes each, are none."""

    def once() -> None:
        with suppress(AudioError):  # `pytest.raises` would keep the frames of its traceback
            decode(DEMO / name, most_s)

    def held() -> tuple[int, int]:
        kinds = (av.filter.Graph, av.container.InputContainer)
        return open_files(), sum(type(each) in kinds for each in gc.get_objects())

    once()
    gc.collect()
    before = held()
    gc.disable()
    try:
        for _ in range(3):
            once()
        assert held() == before
    finally:
        gc.enable()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in /proc")
@pytest.mark.parametrize("name", ["en_something-terribly-wrong.mp3", "en_tt-weasels.wav"])
def test_decoding_starts_no_thread(monkeypatch, name):
    """Workers share the cores already, and a thread for each of them would be a recording's."""
    threads = Path("/proc/self/task")
    before, seen, really = set(threads.iterdir()), [], resampling._pulled

    def counted(sink: object) -> Iterator[np.ndarray]:
        seen.append(set(threads.iterdir()) - before)
        yield from really(sink)

    monkeypatch.setattr(resampling, "_pulled", counted)
    decode(DEMO / name)
    with resampling.resampler("fltp", "stereo", 44100) as resampler:
        assert resampler.source.graph.threads == 1
        assert resampler(None) == []
    assert len(seen) > 1
    assert not set().union(*seen)


def test_audio_error_survives_pickling():
    error = pickle.loads(pickle.dumps(AudioError("silent", "a.wav: zeros; a recording is needed")))
    assert (error.reason, str(error)) == ("silent", "a.wav: zeros; a recording is needed")


def test_samples_may_be_written_to(tmp_path):
    for kind in PCM:
        samples = decode(write_pcm(tmp_path / "a.wav", kind, 32000, 1))
        samples *= 2
    decode(DEMO / "fr_queue-quantity2.flac")[:] = 0
    assert decode(write_floats(tmp_path / "a.wav", [0.5] * 9)).tolist() == [0.5] * 9
