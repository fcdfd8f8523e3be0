"""Recordings made on the spot: deterministic, small, of every format."""

import shutil
import struct
import subprocess
from pathlib import Path

import av
import numpy as np
import soundfile

DEMO = Path(__file__).parents[2] / "extract" / "demo"
FFMPEG = shutil.which("ffmpeg")

PCM = {  # name: (format tag, bits, numpy type of one sample before packing)
    "u8": (1, 8, "u1"),
    "s16": (1, 16, "<i2"),
    "s24": (1, 24, "<i4"),
    "s32": (1, 32, "<i4"),
    "f32": (3, 32, "<f4"),
    "f64": (3, 64, "<f8"),
}
ENCODERS = {".mp3": "libmp3lame", ".m4a": "aac", ".aac": "aac"}  # that PyAV carries
RATES_HZ = (8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000)


def signal(num_values: int) -> np.ndarray:
    """(num_values,) float64 within [-0.9, 0.9]: noise, the same with every version of NumPy."""
    state = (np.arange(1, num_values + 1, dtype=np.uint64) * np.uint64(6364136223846793005)) >> 40
    return (state.astype(np.float64) / 2**23 - 1) * 0.9


def tone(seconds: float, rate_hz: int) -> np.ndarray:
    """(samples,) float64, peak about 0.3: 220 Hz that swells and fades, which every codec keeps."""
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    return 0.3 * np.sin(2 * np.pi * 220 * t) * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * t))


def speech_like(seconds: float, seed: int = 0, rate: int = 16_000) -> np.ndarray:
    """A hum with syllables and some noise: (samples,) float32, peak about 0.5."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    hum = sum(np.sin(2 * np.pi * f * t) / n for n, f in enumerate((120, 240, 360, 900), 1))
    wave = hum * (1 + np.sin(2 * np.pi * 3 * t)) + 0.1 * rng.standard_normal(len(t))
    return (0.5 * wave / np.abs(wave).max()).astype(np.float32)


def write_wav(path: Path, seconds: float = 0.5, seed: int = 0, rate: int = 16_000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, speech_like(seconds, seed, rate), rate)
    return path


def pack(values: np.ndarray, kind: str) -> bytes:
    """Interleaved float64 in [-1, 1) as the bytes of one of `PCM`."""
    tag, bits, dtype = PCM[kind]
    if tag == 3:
        return values.astype(dtype).tobytes()
    integers = np.floor(values * 2.0 ** (bits - 1)).astype(np.int64)
    if kind == "u8":
        return (integers + 128).astype(np.uint8).tobytes()
    if kind == "s24":
        return integers.astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
    return integers.astype(dtype).tobytes()


def wav_bytes(
    data: bytes,
    kind: str = "s16",
    rate_hz: int = 32000,
    num_channels: int = 1,
    data_length: int | None = None,
    speakers: int | None = None,
    after: bytes = b"",
) -> bytes:
    """A WAV file; WAVE_FORMAT_EXTENSIBLE where `speakers` names a channel mask."""
    tag, bits, _ = PCM[kind]
    block = num_channels * bits // 8
    outer = tag if speakers is None else 0xFFFE
    fmt = struct.pack("<HHIIHH", outer, num_channels, rate_hz, rate_hz * block, block, bits)
    if speakers is not None:
        guid_tail = bytes.fromhex("000000001000800000aa00389b71")
        fmt += struct.pack("<HHIH", 22, bits, speakers, tag) + guid_tail
    length = len(data) if data_length is None else data_length
    body = b"WAVEfmt " + struct.pack("<I", len(fmt)) + fmt
    body += b"data" + struct.pack("<I", length) + data + after
    return b"RIFF" + struct.pack("<I", len(body)) + body


def write_pcm(
    path: Path, kind: str, rate_hz: int, num_channels: int, duration_s: float = 0.1
) -> Path:
    values = signal(int(rate_hz * duration_s) * num_channels)
    path.write_bytes(wav_bytes(pack(values, kind), kind, rate_hz, num_channels))
    return path


def write_floats(path: Path, samples: list[float] | np.ndarray, rate_hz: int = 32000) -> Path:
    path.write_bytes(wav_bytes(np.asarray(samples, "<f4").tobytes(), "f32", rate_hz))
    return path


def write_coded(
    path: Path,
    *,
    rate_hz: int = 44100,
    layouts: tuple[str, ...] = ("stereo",),
    duration_s: float = 3.1,
    video: bool = False,
) -> Path:
    """A recording in the format of its ending; each of several streams is louder than the last."""
    samples = signal(round(rate_hz * duration_s)).astype(np.float32)
    with av.open(str(path), "w", format="mp4" if video else None) as container:
        picture = container.add_stream("mpeg4", rate=10, width=32, height=32) if video else None
        streams = [
            container.add_stream(ENCODERS[path.suffix], rate=rate_hz, layout=layout)
            for layout in layouts
        ]
        if picture is not None:
            black = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            container.mux([*picture.encode(black), *picture.encode(None)])
        for number, stream in enumerate(streams, 1):
            loudness = number / (1 + len(streams))
            frame = av.AudioFrame.from_ndarray(loudness * samples[None], "fltp", "mono")
            frame.sample_rate = rate_hz
            codec = stream.codec_context
            fit = av.AudioResampler(codec.format, stream.layout, rate_hz, codec.frame_size)
            for piece in (*fit.resample(frame), *fit.resample(None), None):
                container.mux(stream.encode(piece))
    return path


def ffmpeg_decode(path: Path) -> np.ndarray:
    """The reference's decoding: (num_samples,) float32 by the ffmpeg program."""
    command = f"{FFMPEG} -nostdin -v quiet -i -PATH- -f f32le -ac 1 -ar 32000 -".split()
    command[command.index("-PATH-")] = f"file:{path}"
    return np.frombuffer(subprocess.run(command, capture_output=True, check=False).stdout, "<f4")


def ffmpeg_convert(source: Path, target: Path, *options: str) -> Path:
    command = [str(FFMPEG), "-nostdin", "-v", "error", "-y", "-i", str(source), *options]
    subprocess.run([*command, str(target)], check=True)
    return target
