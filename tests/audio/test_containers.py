"""What a container says against what it holds: the sound decides, as with the ffmpeg program."""

import struct
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from extract.audio import decode as decode_module
from extract.audio import ffmpeg
from extract.audio.faults import AudioError
from extract.audio.wav import PROBED_BYTES, may_be_coded, read_header
from extract.manifest.sources.folder import AUDIO_EXTENSIONS
from support.decoding import decode, probe_duration_s
from support.recordings import (
    FFMPEG,
    ffmpeg_convert,
    ffmpeg_decode,
    pack,
    signal,
    tone,
    wav_bytes,
    write_coded,
    write_floats,
    write_pcm,
)

LOSSY_TOLERANCE = 2e-6  # see test_decode
needs_ffmpeg = pytest.mark.skipif(FFMPEG is None, reason="no ffmpeg program here")


def reason_of(path: Path, **options: float) -> str:
    with pytest.raises(AudioError) as caught:
        decode(path, **options)
    return caught.value.reason


def write_tone(path: Path, rate_hz: int = 32000, channels: int = 1, seconds: float = 2.0) -> Path:
    """A tone of few harmonics, which every codec keeps: 16-bit WAV."""
    samples = np.repeat(tone(seconds, rate_hz), channels)
    path.write_bytes(wav_bytes(pack(samples, "s16"), "s16", rate_hz, channels))
    return path


# --- a coded stream that calls itself PCM --------------------------------------------------------


def fourteen_bits(stream: bytes) -> bytes:
    """DTS as a CD holds it: 14 bits of the stream in each 16-bit sample, sign extended."""
    bits = np.unpackbits(np.frombuffer(stream, np.uint8))
    bits = bits[: len(bits) // 14 * 14].reshape(-1, 14)
    words = bits @ (1 << np.arange(13, -1, -1))
    return np.where(words >= 1 << 13, words - (1 << 14), words).astype("<i2").tobytes()


def swapped(stream: bytes) -> bytes:
    return np.frombuffer(stream[: len(stream) // 2 * 2], ">u2").astype("<u2").tobytes()


CODED = {  # rate, the program's options, and what stores its output as samples
    "AC-3 of an S/PDIF capture": (48000, "-c:a ac3 -f spdif", bytes),
    "DTS of an S/PDIF capture": (48000, "-c:a dca -strict -2 -f spdif", bytes),
    "DTS, big endian": (44100, "-c:a dca -strict -2 -b:a 1411200 -f dts", bytes),
    "DTS, little endian": (44100, "-c:a dca -strict -2 -b:a 1411200 -f dts", swapped),
    "DTS of 14 bits": (44100, "-c:a dca -strict -2 -b:a 1234800 -f dts", fourteen_bits),
    "AC-3": (48000, "-c:a ac3 -f ac3", bytes),
    "MPEG audio": (48000, "-c:a libmp3lame -f mp3 -id3v2_version 0 -write_xing 0", bytes),
    "AAC in ADTS": (48000, "-c:a aac -f adts", bytes),
}


@needs_ffmpeg
@pytest.mark.parametrize(
    ("kind", "lead"),
    [(kind, 0) for kind in CODED] + [(kind, 40_000) for kind in CODED if kind.startswith("DTS")],
)
def test_a_coded_stream_in_a_wav_that_says_pcm_is_decoded(tmp_path, kind, lead):
    rate_hz, options, stored = CODED[kind]
    source = write_tone(tmp_path / "source.wav", rate_hz, 2, 3.0)
    stream = ffmpeg_convert(source, tmp_path / "stream", *options.split()).read_bytes()
    path = tmp_path / "a.wav"
    path.write_bytes(wav_bytes(bytes(lead) + stored(stream), "s16", rate_hz, 2))
    samples, expected = decode(path), ffmpeg_decode(path)
    assert abs(len(samples) - len(expected)) <= 1
    length = min(len(samples), len(expected))
    np.testing.assert_allclose(samples[:length], expected[:length], rtol=0, atol=LOSSY_TOLERANCE)
    assert dominant_hz(samples) == pytest.approx(220, abs=2), "the tone, and no noise"


def dominant_hz(samples: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(spectrum.argmax() * 32000 / len(samples))


SYNC_WORDS = ["7ffe8001", "fe7f0180", "1fffe800", "ff1f00e8", "72f81f4e", "f8724e1f", "f8726fba"]


@pytest.mark.parametrize("word", SYNC_WORDS)
@pytest.mark.parametrize("at", [0, 1000, PROBED_BYTES - 4])
def test_a_sync_word_sends_a_wav_to_ffmpeg(tmp_path, word, at):
    head = bytes(at) + bytes.fromhex(word) + bytes(1000)
    assert may_be_coded(head[:PROBED_BYTES])
    (tmp_path / "a.wav").write_bytes(wav_bytes(head))
    with (tmp_path / "a.wav").open("rb") as file:
        assert read_header(file) is None


def test_few_recordings_lose_the_fast_way_to_a_false_alarm():
    rng = np.random.default_rng(1)
    alarms = 0
    for _ in range(200):
        loudness = 10 ** rng.uniform(0, 4)
        samples = (loudness * rng.standard_normal(5000)).clip(-32768, 32767)
        samples[: rng.integers(0, 100)] = 0
        alarms += may_be_coded(samples.astype("<i2").tobytes())
    assert alarms <= 4


# --- tracks without a sound ----------------------------------------------------------------------

EMPTY = "anullsrc=r=44100:cl=stereo"
TRACKS = {  # an empty stereo track first, then a mono one with sound
    "default.mkv": "-c:a aac -disposition:a:0 default -disposition:a:1 0",
    "default.mka": "-c:a flac -disposition:a:0 default -disposition:a:1 0",
    "wider.mka": "-c:a flac -disposition:a:0 0 -disposition:a:1 0",
    "wider.webm": "-c:a libopus -ar 48000 -disposition:a:0 0 -disposition:a:1 0",
    "default.webm": "-c:a libopus -ar 48000 -disposition:a:0 default -disposition:a:1 0",
    "fragmented.mp4": "-c:a aac -movflags empty_moov+frag_keyframe",
    "fragmented.mov": "-c:a aac -movflags empty_moov+frag_keyframe",
}


@needs_ffmpeg
@pytest.mark.parametrize("name", TRACKS)
def test_an_empty_track_does_not_hide_the_sound(tmp_path, name):
    sound = write_tone(tmp_path / "sound.wav", 44100)
    path = ffmpeg_convert(
        sound,
        tmp_path / name,
        *("-f", "lavfi", "-t", "0.1", "-i", EMPTY, "-filter_complex", "[1:a]aselect=0[e]"),
        *("-map", "[e]", "-map", "0:a", *TRACKS[name].split()),
    )
    with av.open(str(path)) as container:
        assert len(container.streams.audio) == 2
    samples, expected = decode(path), ffmpeg_decode(path)
    assert len(samples) == len(expected) > 60_000
    np.testing.assert_allclose(samples, expected, rtol=0, atol=LOSSY_TOLERANCE)
    assert probe_duration_s(path) == pytest.approx(2.0, abs=0.2)


@needs_ffmpeg
@pytest.mark.parametrize("suffix", ["mkv", "mp4", "ts"])
@pytest.mark.parametrize(("delay_s", "chosen"), [(3, "default"), (8, "other")])
def test_a_default_track_that_starts_late_is_chosen_as_ffmpeg_chooses(
    tmp_path, suffix, delay_s, chosen
):
    """It reads five seconds before it chooses; a track without a packet by then comes last."""
    wide = write_tone(tmp_path / "default.wav", 44100, 2, 4.0)
    other = write_tone(tmp_path / "other.wav", 44100, 1, 14.0)
    path = ffmpeg_convert(
        other,
        tmp_path / f"a.{suffix}",
        *("-itsoffset", str(delay_s), "-i", str(wide), "-map", "1", "-map", "0", "-c:a", "aac"),
        *("-disposition:a:0", "default", "-disposition:a:1", "0"),
    )
    seconds = {"default": 4, "other": 14}[chosen]
    assert len(ffmpeg_decode(path)) / 32000 == pytest.approx(seconds, abs=0.2)
    assert len(decode(path)) / 32000 == pytest.approx(seconds, abs=0.2)


def test_a_track_that_cannot_be_decoded_gives_way_to_one_that_can(tmp_path):
    path = write_coded(tmp_path / "a.m4a", layouts=("stereo", "mono"))
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(audio=0) if packet.size]
    for at, size in places:
        content[at : at + size] = b"\xff" * size
    (tmp_path / "b.m4a").write_bytes(content)
    alone = decode(write_coded(tmp_path / "alone.m4a", layouts=("mono",)))
    samples = decode(tmp_path / "b.m4a")
    assert len(samples) == len(alone)
    ratio = np.abs(samples).max() / np.abs(alone).max()
    assert ratio == pytest.approx((2 / 3) / (1 / 2), rel=0.1), "the second of two, not the only one"


def test_tracks_without_a_sound_are_read_once_each(tmp_path, monkeypatch):
    path = write_coded(tmp_path / "a.m4a", layouts=("mono",) * 8)
    opened, really = [], ffmpeg.open_container
    monkeypatch.setattr(
        decode_module, "open_container", lambda file: opened.append(file) or really(file)
    )
    monkeypatch.setattr(ffmpeg.Frames, "__iter__", lambda self: iter(()))
    assert reason_of(path) == "empty"
    assert len(opened) == 8 + 1  # and once to see that none is left


# --- tags before any format ----------------------------------------------------------------------


def id3(num_bytes: int, footer: bool = False) -> bytes:
    size = bytes(num_bytes >> shift & 0x7F for shift in (21, 14, 7, 0))
    head = b"ID3\x04\x00" + (b"\x10" if footer else b"\x00") + size
    return head + bytes(num_bytes) + (b"3DI" + head[3:] if footer else b"")


TAGS = {
    "one": id3(300),
    "odd": id3(301),
    "two": id3(128) + id3(77),
    "with a footer": id3(200, footer=True),
    "with a picture": id3(70_000),
}
TAGGED = [
    *("a.wav", "a.aiff", "a.au", "a.caf", "a.w64", "a.flac", "a.mka", "a.m4a", "a.wv", "a.tta"),
    *("a.wma", "a.avi", "a.ogg", "a.mp3", "a.aac"),
]


@needs_ffmpeg
@pytest.mark.parametrize("name", TAGGED)
def test_a_tag_before_any_format_changes_nothing(tmp_path, name):
    plain = ffmpeg_convert(write_tone(tmp_path / "s.wav", 44100), tmp_path / f"plain{name}")
    for tag in TAGS.values():
        (tmp_path / name).write_bytes(tag + plain.read_bytes())
        assert np.array_equal(decode(tmp_path / name), decode(plain))
    assert probe_duration_s(tmp_path / name) == pytest.approx(2.0, abs=0.1)


def test_a_tag_before_a_wav_needs_no_ffmpeg_program(tmp_path):
    plain = write_pcm(tmp_path / "plain.wav", "s16", 32000, 1)
    for tag in TAGS.values():
        (tmp_path / "a.wav").write_bytes(tag + plain.read_bytes())
        assert np.array_equal(decode(tmp_path / "a.wav"), decode(plain))


@pytest.mark.parametrize(
    "content",
    [id3(300), id3(10) * 40, id3(300)[:200], b"ID3\x04\x00\x00\xff\xff\xff\xff" + bytes(900)],
    ids=["nothing behind", "many", "cut", "a size that is none"],
)
def test_a_tag_with_nothing_behind_it_is_undecodable(tmp_path, content):
    (tmp_path / "a.wav").write_bytes(content)
    assert reason_of(tmp_path / "a.wav") == "undecodable"


# --- headers that declare more than there is -----------------------------------------------------

LENGTHS = {
    "a.flac": [],
    "a.m4a": ["-c:a", "aac", "-movflags", "+faststart"],
    "a.mp4": ["-c:a", "alac", "-movflags", "+faststart"],
    "a.aiff": [],
    "a.au": [],
    "a.caf": [],
    "a.w64": [],
    "a.wav": ["-rf64", "always"],
    "plain.wav": [],
    "a.tta": [],
    "a.wv": [],
    "a.mka": ["-c:a", "flac"],
    "a.ogg": ["-c:a", "libvorbis"],
    "a.mp3": [],
}


@needs_ffmpeg
@pytest.mark.parametrize("name", LENGTHS)
def test_of_a_file_cut_short_what_it_holds_decides(tmp_path, name):
    source = write_tone(tmp_path / "source.wav", 16000, 1, 24.0)
    whole = ffmpeg_convert(source, tmp_path / f"whole-{name}", *LENGTHS[name])
    assert reason_of(whole, max_duration_s=12) == "too_long"
    content = whole.read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 3])
    samples, expected = decode(tmp_path / name, max_duration_s=12), ffmpeg_decode(tmp_path / name)
    assert 5 < len(samples) / 32000 < 10
    assert abs(len(samples) - len(expected)) <= 4096, "some FFmpegs drop the packet that was cut"
    length = min(len(samples), len(expected)) - 64
    np.testing.assert_allclose(samples[:length], expected[:length], rtol=0, atol=LOSSY_TOLERANCE)
    assert reason_of(tmp_path / name, max_duration_s=4) == "too_long"


@needs_ffmpeg
@pytest.mark.parametrize("name", LENGTHS)
def test_far_too_long_a_recording_is_not_decoded_beyond_the_limit(tmp_path, monkeypatch, name):
    source = write_tone(tmp_path / "source.wav", 16000, 1, 60.0)
    path = ffmpeg_convert(source, tmp_path / name, *LENGTHS[name])
    decoded_s, really = [], ffmpeg.Frames._decoded

    def counted(self, packet):
        frames = really(self, packet)
        decoded_s.extend(frame.samples / frame.sample_rate for frame in frames)
        return frames

    monkeypatch.setattr(ffmpeg.Frames, "_decoded", counted)
    assert reason_of(path, max_duration_s=6) == "too_long"
    assert sum(decoded_s) < 6 + 2


# --- codecs that cannot be opened, places that are none ------------------------------------------


def test_a_decoder_that_cannot_be_opened_is_the_files_fault(tmp_path):
    """PyAV forgets the codec then, and would raise a ValueError of its own at the next packet."""
    fmt = struct.pack("<HHIIHHHH", 0x11, 40, 8000, 8000, 4 * 40 * 64, 4, 2, 505)
    body = b"WAVEfmt " + struct.pack("<I", len(fmt)) + fmt
    data = signal(40_000).tobytes()
    body += b"data" + struct.pack("<I", len(data)) + data
    (tmp_path / "a.wav").write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    assert reason_of(tmp_path / "a.wav") == "undecodable"


def test_a_place_outside_the_file_is_ffmpegs_error_and_prints_nothing(tmp_path, capfd):
    path = write_floats(tmp_path / "a.wav", signal(100))
    with path.open("rb") as file:
        window = ffmpeg._Unnamed(file, 20)
        size = path.stat().st_size
        assert window.seek(0, 2) == size - 20
        assert window.seek(-1, 0) < 0
        assert window.seek(2**63 - 1, 0) < 0
        assert window.seek(-size, 2) < 0
        assert window.tell() == size - 20, "a seek that fails moves nothing"
        assert window.seek(4) == window.tell() == 4
        assert window.read(8) == path.read_bytes()[24:32]
        assert window.seek(-2, 1) == 10
    assert capfd.readouterr() == ("", "")


# --- endings -------------------------------------------------------------------------------------

NOT_TAKEN = {  # endings that FFmpeg reads, by the reason for which they are no recording's
    "text and subtitles": "adf ans aqt art asc diz ice idf idx ism mcc mks mpl2 nfo pjs rt sami "
    "sbg scc smi stl sub sup txt vt vtt webvtt",
    "pictures": "apng avif cdg gif heic heif j2k jxl mjpeg mjpg mpo",
    "video without a sound": "264 265 266 apv avc avs avs2 avs3 bitpacked cgi cif evc flm h261 "
    "h264 h265 h266 h26l hevc ipu obu pdv qcif rcv rgb sdr2 ser v210 vc1 vvc y4m yuv yuv10",
    "samples without a header, which only a name tells": "302 722 al aptx aptxhd daud dfpwm g722 "
    "g723_1 g728 g729 msbc rco sb sbc sln sw tco ub ul uw",
    "other programs' more often": "apl bit cdata dat mods psp ss2 str ty+ v vb wa way xl xmd",
}


def endings_of_ffmpeg() -> set[str]:
    found: set[str] = set()
    for name in av.formats_available:
        try:
            found |= av.format.ContainerFormat(name, "r").extensions
        except ValueError:  # an output only
            continue
    return found


def test_every_ending_that_ffmpeg_reads_is_taken_or_has_a_reason():
    taken = {ending.removeprefix(".") for ending in AUDIO_EXTENSIONS}
    others = {ending for endings in NOT_TAKEN.values() for ending in endings.split()}
    assert len(endings_of_ffmpeg()) > 200
    assert endings_of_ffmpeg() - taken - others == set()
    assert not taken & others
    assert {"3g2", "ts", "qta", "m4r"} <= taken


def test_the_endings_are_sorted_and_each_is_there_once():
    assert all(first < second for first, second in pairwise(AUDIO_EXTENSIONS))
    assert all(ending == f".{ending[1:].lower()}" for ending in AUDIO_EXTENSIONS)
