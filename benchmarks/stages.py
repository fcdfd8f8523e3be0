"""The rows of `benchmarks/audio.py` and `benchmarks/encoder.py`: `python -m benchmarks.stages`.

The same contenders and the same material, fewer of them: those that have a goal.
"""

import math
from functools import partial
from pathlib import Path

import torch
from transformers import HubertConfig, HubertModel

from benchmarks import audio, encoder
from benchmarks.common import Row, run_alone, seconds, work_dir
from extract.audio import AudioSettings, decode, prepare
from extract.encoder import Encoder

PREPARE_GOALS = {"WAV 32 kHz mono, 5 s": 2500, "WAV 44.1 kHz stereo, 60 s": 900}
DECODE_GOALS = {"MP3 44.1 kHz stereo, 60 s": 2, "M4A 44.1 kHz stereo, 60 s": 2}
REPEATS = 7
CLIPS, ROUNDS = 16, 2


def audio_rows() -> list[Row]:
    """One core's processor time for an item of the dataset, and for decoding alone."""
    rows = []
    with work_dir() as folder:
        for title in (*PREPARE_GOALS, *DECODE_GOALS):
            name, codec, rate_hz, layout, duration_s = audio.FORMATS[title]
            path = Path(folder) / name
            audio.write_recording(path, codec, rate_hz, layout, duration_s)
            works = [
                partial(prepare, path, AudioSettings()),
                partial(decode, path),
                partial(audio.frame_by_frame, path, as_samples=False),
                partial(audio.frame_by_frame, path, as_samples=True),
            ]
            prepared, decoded, arrays, samples = audio.best_times_s(works, REPEATS)
            if title in PREPARE_GOALS:
                what, speed = f"CPU stage, {title}, one core", duration_s / prepared
                rows.append(Row.at_least(what, speed, PREPARE_GOALS[title], "x real time"))
            else:
                what, goal = f"decode, {title}, against frame by frame", DECODE_GOALS[title]
                note = f"{samples / decoded:.1f}x against a list of samples"
                rows.append(Row.at_least(what, arrays / decoded, goal, "x", note))
    return rows


def encoder_rows() -> list[Row]:
    """Against the matrix products alone, and against one utterance at a time."""
    torch.manual_seed(0)
    model = HubertModel(HubertConfig()).eval().requires_grad_(False)
    groups = encoder.batches(encoder.clip_lengths(CLIPS))
    data = [(encoder.waveforms(group), group) for group in groups]
    counts = encoder.products(model.config, groups)
    exact, half = Encoder(model), Encoder(model, precision="bf16")
    kept: dict[str, list[torch.Tensor]] = {}

    def ours(name: str, which: Encoder) -> None:
        kept[name] = [f.values for batch, lengths in data for f in which.encode(batch, lengths)]

    @torch.inference_mode()
    def one_at_a_time() -> None:
        for batch, lengths in data:
            for waveform, length in zip(batch, lengths, strict=True):
                model(waveform[None, :length])

    contenders = {
        "products": lambda: encoder.product_seconds(counts),
        "fp32": lambda: seconds(partial(ours, "fp32", exact)),
        "alone": lambda: seconds(one_at_a_time),
        "bf16": lambda: seconds(partial(ours, "bf16", half)),
    }
    taken = dict.fromkeys(contenders, math.inf)
    for _ in range(ROUNDS):
        for name, contender in contenders.items():
            taken[name] = min(taken[name], contender())
    worst, mean = encoder.relative_error(kept["bf16"], kept["fp32"])
    audio_s = sum(map(sum, groups)) / encoder.RATE_HZ
    share = 100 * taken["products"] / taken["fp32"]
    speed = f"{audio_s / taken['fp32']:.1f}x real time"
    error = f"{audio_s / taken['bf16']:.1f}x real time; error worst {worst:.1e}, mean {mean:.1e}"
    title = "encoder, HuBERT-base"
    against_alone = taken["alone"] / taken["fp32"]
    return [
        Row.at_least(f"{title} fp32, of the products' rate", share, 90, " %", speed),
        Row.at_least(f"{title} fp32, against one at a time", against_alone, 1, "x"),
        Row.at_least(f"{title} bf16, against fp32", taken["fp32"] / taken["bf16"], 1.8, "x", error),
    ]


if __name__ == "__main__":
    run_alone(__doc__, lambda: audio_rows() + encoder_rows())
