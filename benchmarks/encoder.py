"""The encoder on the CPU: one table of ratios, all measured in one run.

    python benchmarks/encoder.py [--clips 60] [--rounds 2]

HuBERT-base with random weights; clips of 2 to 6 s (log-normal), sorted, about 60 padded seconds
a batch. Contenders take turns and each keeps its best round, so that a busy machine hurts all.
"""

import argparse
import math
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from torch import Tensor
from transformers import HubertConfig, HubertModel

from extract.convolutions import CPU_CHUNK_FRAMES
from extract.encoder import Encoder
from extract.frames import CONV_LAYERS, num_frames
from extract.hubert import CPU_SPAN_ROWS
from extract.packing import Packing

RATE_HZ = 16_000
BATCH_SECONDS = 60


def clip_lengths(count: int) -> list[int]:
    """Samples of each clip, ascending."""
    generator = torch.Generator().manual_seed(0)
    seconds = torch.randn(count, generator=generator).mul(0.35).add(1.25).exp().clamp(2, 6)
    return sorted(int(value * RATE_HZ) for value in seconds)


def batches(lengths: list[int]) -> list[list[int]]:
    """Lengths in groups of about BATCH_SECONDS padded seconds."""
    groups: list[list[int]] = [[]]
    for length in lengths:
        if (len(groups[-1]) + 1) * length > BATCH_SECONDS * RATE_HZ:
            groups.append([])
        groups[-1].append(length)
    return groups


def waveforms(lengths: list[int]) -> Tensor:
    """Noise at about speech's level, (batch, time), zero-padded."""
    padded = torch.zeros(len(lengths), max(lengths))
    for row, length in zip(padded, lengths, strict=True):
        row[:length] = torch.randn(length) * 100
    return padded


Product = tuple[int, int, int]  # rows, inner, columns


def products(config: HubertConfig, groups: list[list[int]]) -> dict[Product, int]:
    """Every matrix product that the model's convolutions and linear layers come to, counted.

    Valid frames only. The positional convolution and attention are given as plain products of
    their arithmetic: what a perfect implementation would take.
    """
    found: dict[Product, int] = {}

    def add(rows: int, inner: int, columns: int, times: int = 1) -> None:
        found[rows, inner, columns] = found.get((rows, inner, columns), 0) + times

    width, wide, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    per_group = width // config.num_conv_pos_embedding_groups
    for group in groups:
        for length in group:
            samples = length
            inputs = 1
            for (kernel, stride), channels in zip(CONV_LAYERS, config.conv_dim, strict=True):
                samples = (samples - kernel) // stride + 1
                add(samples, kernel * inputs, channels)
                inputs = channels
            frames = num_frames(length)
            add(frames, per_group * config.num_conv_pos_embeddings, width)
            add(frames, width, 2 * frames, layers)  # attention: scores and context
        packing = Packing([num_frames(length) for length in group], torch.device("cpu"))
        add(packing.offsets[-1], config.conv_dim[-1], width)
        for span in packing.spans(CPU_SPAN_ROWS):
            rows = span.offsets[-1]
            add(rows, width, 3 * width, layers)
            add(rows, width, width, layers)
            add(rows, width, wide, layers)
            add(rows, wide, width, layers)
    return found


def product_seconds(counts: dict[Product, int]) -> float:
    """Seconds for all products, each shape timed on buffers that are already there."""
    total = 0.0
    for (rows, inner, columns), times in counts.items():
        left, right = torch.randn(rows, inner), torch.randn(inner, columns)
        out = torch.empty(rows, columns)
        torch.mm(left, right, out=out)
        tries = max(2, min(5, math.ceil(2e9 / (rows * inner * columns))))
        multiply = partial(torch.mm, left, right, out=out)
        total += times * median(seconds(multiply) for _ in range(tries))
    return total


def seconds(run: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def relative_error(found: list[Tensor], exact: list[Tensor]) -> tuple[float, float]:
    """Worst and mean over utterances of |found - exact| / |exact|."""
    errors = [float((a.float() - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True)]
    return max(errors), sum(errors) / len(errors)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()

    torch.manual_seed(0)
    model = HubertModel(HubertConfig()).eval().requires_grad_(False)
    groups = batches(clip_lengths(options.clips))
    data = [(waveforms(group), group) for group in groups]
    audio_s = sum(map(sum, groups)) / RATE_HZ
    counts = products(model.config, groups)
    flops = sum(2 * math.prod(shape) * times for shape, times in counts.items())

    exact, half = Encoder(model), Encoder(model, precision="bf16")

    @torch.inference_mode()
    def one_at_a_time() -> list[Tensor]:
        return [
            model(x[None, :length]).last_hidden_state[0]
            for batch, lengths in data
            for x, length in zip(batch, lengths, strict=True)
        ]

    def encode(encoder: Encoder) -> list[Tensor]:
        return [f.values for batch, lengths in data for f in encoder.encode(batch, lengths)]

    contenders: dict[str, Callable[[], float]] = {
        "matrix products alone": lambda: product_seconds(counts),
        "this encoder, fp32": lambda: seconds(lambda: encode(exact)),
        "transformers, one at a time": lambda: seconds(one_at_a_time),
        "this encoder, bf16": lambda: seconds(lambda: encode(half)),
    }
    for warm in (exact, half):
        warm.encode(data[0][0][:1], data[0][1][:1])
    times = dict.fromkeys(contenders, math.inf)
    for _ in range(options.rounds):
        for name, contender in contenders.items():
            times[name] = min(times[name], contender())

    ours = times["this encoder, fp32"]
    print(f"HuBERT-base, {options.clips} clips, {audio_s:.0f} s, {len(groups)} batches, "
          f"{flops / audio_s / 1e9:.1f} GFLOP/s of audio, {torch.get_num_threads()} threads, "
          f"chunks of {CPU_CHUNK_FRAMES} frames")  # fmt: skip
    print(f"{'':30} {'x real time':>12} {'GFLOP/s':>9} {'fp32 is':>9}")
    for name, taken in times.items():
        print(f"{name:30} {audio_s / taken:12.2f} {flops / taken / 1e9:9.1f} {taken / ours:8.2f}x")
    single = one_at_a_time()
    fp32 = encode(exact)
    largest = max(float((a - b).abs().max()) for a, b in zip(fp32, single, strict=True))
    worst, mean = relative_error(encode(half), fp32)
    print(f"fp32 runs at {times['matrix products alone'] / ours:.0%} of the products' rate; "
          f"largest difference to one at a time {largest:.1e}")  # fmt: skip
    print(f"bf16 relative error per utterance: worst {worst:.1e}, mean {mean:.1e}")


if __name__ == "__main__":
    main()
