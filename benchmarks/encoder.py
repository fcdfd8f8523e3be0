"""Measures the encoder on the CPU: `python -m benchmarks.encoder`.

HuBERT-base with random weights; clips of 2 to 6 s (log-normal), longest first, about 60 padded
seconds a batch. The forward's FLOP/s are compared with those of its largest matrix product, which
is timed before and after each round, so that load on the machine slows both.
"""

from functools import partial
from statistics import median

import torch
from torch import Tensor
from transformers import HubertConfig, HubertModel

from benchmarks.common import Row, ratio, run_alone, seconds
from extract.encoder.encoder import Encoder
from extract.encoder.linear import Linear
from extract.machine import keep_freed_memory
from extract.models.family import Model, as_checkpoint

RATE_HZ = 16_000
BATCH_SECONDS = 60
CLIPS, ROUNDS = 16, 7


def clip_lengths(count: int) -> list[int]:
    """Samples of each clip, descending."""
    generator = torch.Generator().manual_seed(0)
    durations_s = torch.randn(count, generator=generator).mul(0.35).add(1.25).exp().clamp(2, 6)
    return sorted((int(value * RATE_HZ) for value in durations_s), reverse=True)


def batches(lengths: list[int]) -> list[list[int]]:
    """Lengths in groups of about BATCH_SECONDS padded seconds."""
    groups: list[list[int]] = [[]]
    for length in lengths:
        if groups[-1] and (len(groups[-1]) + 1) * groups[-1][0] > BATCH_SECONDS * RATE_HZ:
            groups.append([])
        groups[-1].append(length)
    return groups


def noise(lengths: list[int]) -> Tensor:
    """Noise at about speech's level, (batch, time), zero-padded."""
    padded = torch.zeros(len(lengths), max(lengths))
    for row, length in zip(padded, lengths, strict=True):
        row[:length] = torch.randn(length) * 100
    return padded


def flops(model: Model, lengths: list[int]) -> int:
    """Floating-point operations of the utterances, without padding."""
    return sum(map(as_checkpoint(model).architecture.flops, lengths))


def product_rate(tries: int = 12) -> float:
    """FLOP/s of the model's largest product on 1,024 frames, by MKL or oneDNN if that is faster."""
    rows, inner, columns = 1024, 768, 3072
    x, weight = torch.randn(rows, inner), torch.randn(columns, inner)
    out = torch.empty(rows, columns)
    ways = partial(torch.mm, x, weight.t(), out=out), partial(Linear(weight), x)
    taken = []
    for multiply in ways:
        multiply()
        taken.append(median(seconds(multiply) for _ in range(tries)))
    return 2 * rows * inner * columns / min(taken)


def relative_error(found: list[Tensor], exact: list[Tensor]) -> tuple[float, float]:
    """Worst and mean over utterances of |found - exact| / |exact|."""
    pairs = [(a.float(), b.float()) for a, b in zip(found, exact, strict=True)]
    errors = [float((a - b).norm() / b.norm()) for a, b in pairs]
    return max(errors), sum(errors) / len(errors)


def measure() -> list[Row]:
    """Rows: fp32 against the products' rate and against one utterance at a time; bf16."""
    keep_freed_memory()  # as a run does
    torch.manual_seed(0)
    model = HubertModel(HubertConfig()).eval().requires_grad_(False)
    groups = batches(clip_lengths(CLIPS))
    data = [(noise(group), group) for group in groups]
    exact, half = Encoder(model), Encoder(model, precision="bf16")
    kept: dict[str, list[Tensor]] = {}

    def ours(name: str, encoder: Encoder) -> None:
        kept[name] = [f.values for batch, lengths in data for f in encoder.encode(batch, lengths)]

    @torch.inference_mode()
    def one_at_a_time() -> None:
        for batch, lengths in data:
            for waveform, length in zip(batch, lengths, strict=True):
                model(waveform[None, :length])

    contenders = {
        "fp32": partial(ours, "fp32", exact),
        "alone": one_at_a_time,
        "bf16": partial(ours, "bf16", half),
    }
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    rates = []
    for encoder in (exact, half):
        ours("warm", encoder)
    for _ in range(ROUNDS):
        before = product_rate()
        taken["fp32"].append(seconds(contenders["fp32"]))
        rates.append((before + product_rate()) / 2)
        for name in ("bf16", "alone"):
            taken[name].append(seconds(contenders[name]))

    work = sum(flops(model, group) for group in groups)
    audio_s = sum(map(sum, groups)) / RATE_HZ
    times = zip(taken["fp32"], rates, strict=True)
    share = 100 * median(work / spent / rate for spent, rate in times)
    speed = (
        f"{audio_s / median(taken['fp32']):.1f}x real time, {work / audio_s / 1e9:.1f} GFLOP a "
        f"second of audio, products at {median(rates) / 1e9:.0f} GFLOP/s"
    )
    worst, mean = relative_error(kept["bf16"], kept["fp32"])
    computed_in = str(half.exact.dtype).removeprefix("torch.")
    error = f"computed in {computed_in}; error worst {worst:.1e}, mean {mean:.1e}"
    title = "encoder, HuBERT-base"
    alone, bf16 = ratio(taken["alone"], taken["fp32"]), ratio(taken["fp32"], taken["bf16"])
    return [
        Row.at_least(f"{title} fp32, of the products' rate", share, 90, " %", speed),
        Row.at_least(f"{title} fp32, against one at a time", alone, 1, "x"),
        Row.at_least(f"{title} bf16, against fp32", bf16, 1.8, "x", error),
    ]


if __name__ == "__main__":
    run_alone(__doc__, measure)
