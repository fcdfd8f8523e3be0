"""Our forward against transformers' made exact in batches: `python -m benchmarks.rival`.

With an attention mask transformers' HubertModel is still wrong for a padded batch, for one reason:
its first GroupNorm includes the padding in its statistics. The rival takes them over each
utterance's own frames, which makes it exact. A user of transformers would write this first, so the
ratio of its time to ours on the same batches is the gain of our own forward. The errors of both are
against transformers one utterance at a time. Times are processor time, which other processes do not
add to; set OMP_NUM_THREADS=1 to time one thread.
"""

import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from statistics import median

import torch
from torch import Tensor
from transformers import HubertConfig, HubertModel

from benchmarks.common import Row, ratio, run_alone
from benchmarks.encoder import CLIPS, RATE_HZ, batches, clip_lengths, noise, relative_error
from benchmarks.padding import clip_durations_s
from extract.data.plan import SMALL_BATCH_SECONDS, plan_batches
from extract.encoder.encoder import Encoder
from extract.frames import HUBERT_STACK, num_frames
from extract.machine import keep_freed_memory

NUM_CLIPS, ROUNDS = 1000, 3  # clips of the planned corpus; rounds of timing
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
Encode = Callable[[Tensor, Sequence[int]], Sequence[Tensor]]


class ValidGroupNorm(torch.nn.Module):
    """GroupNorm of (batch, channels, frames) over the first `frames` of each utterance."""

    def __init__(self, norm: torch.nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm
        self.frames: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        """Norms valid frames in place (the fastest way tried); padding is not changed."""
        for row, frames in zip(x, self.frames, strict=True):
            row[:, :frames] = self.norm(row[None, :, :frames])[0]
        return x


class Rival:
    """transformers' forward, exact on padded batches, on the CPU."""

    def __init__(self, model: HubertModel, dtype: torch.dtype) -> None:
        self.model, self.dtype = deepcopy(model).to(dtype), dtype
        first = self.model.feature_extractor.conv_layers[0]
        self.norm = first.layer_norm = ValidGroupNorm(first.layer_norm)

    @torch.inference_mode()
    def encode(self, waveforms: Tensor, lengths: Sequence[int]) -> list[Tensor]:
        """(frames, width) of each utterance; `waveforms` (batch, time) are zero-padded."""
        kernel, stride = HUBERT_STACK.layers[0]
        self.norm.frames = [(length - kernel) // stride + 1 for length in lengths]
        mask = (torch.arange(waveforms.shape[1]) < torch.tensor(lengths)[:, None]).long()
        found = self.model(waveforms.to(self.dtype), attention_mask=mask).last_hidden_state
        return [row[: num_frames(length)] for row, length in zip(found, lengths, strict=True)]


def planned() -> list[list[int]]:
    """Samples of each clip in two planned batches: one of long clips, one of short ones."""
    durations_s = clip_durations_s(NUM_CLIPS)
    plan = plan_batches(durations_s, SMALL_BATCH_SECONDS)
    chosen = [plan[len(plan) * quarter // 4] for quarter in (1, 3)]
    return [[int(value * RATE_HZ) for value in durations_s[indices]] for indices in chosen]


def measure() -> list[Row]:
    """Rows for batches of 16 clips with 24 % padding, and for batches of a large corpus."""
    keep_freed_memory()  # as a run does; it speeds up the rival too
    torch.manual_seed(0)
    model = HubertModel(HubertConfig()).eval().requires_grad_(False)
    few = f"{CLIPS} clips of 2 to 6 s"
    many = f"2 batches of {NUM_CLIPS:,} clips of 1 to 20 s"
    return [
        *compared(model, few, batches(clip_lengths(CLIPS))),
        *compared(model, many, planned()),
    ]


def compared(model: HubertModel, material: str, groups: list[list[int]]) -> list[Row]:
    """A row for each precision, with times and errors over all batches; timed in turns."""
    data = [(noise(group), group) for group in groups]
    encode: dict[str, Encode] = {}
    for name, dtype in PRECISIONS.items():
        encode[f"ours {name}"] = partial(_ours, Encoder(model, precision=name))
        encode[f"rival {name}"] = Rival(model, dtype).encode
    exact = [_alone(model, waveforms, lengths) for waveforms, lengths in data]
    errors = {
        name: max(
            relative_error(list(way(*batch)), alone)[0]
            for batch, alone in zip(data, exact, strict=True)
        )
        for name, way in encode.items()
    }
    assert errors["rival fp32"] < 1e-5, "the rival is not exact, and its time means nothing"
    taken = {name: [0.0] * ROUNDS for name in encode}
    for batch in data:
        for turn in range(ROUNDS):
            for name, way in encode.items():
                taken[name][turn] += _processor_seconds(partial(way, *batch))
    audio_s = sum(map(sum, groups)) / RATE_HZ
    padding = 1 - audio_s * RATE_HZ / sum(len(group) * max(group) for group in groups)

    def row(name: str) -> Row:
        ways = {"ours": f"ours {name}", "its": f"rival {name}"}
        said = "; ".join(
            f"{who} {1000 * median(taken[way]) / audio_s:.0f} ms, error {errors[way]:.1e}"
            for who, way in ways.items()
        )
        what = f"encoder, HuBERT-base {name}, against transformers made exact, {material}"
        value = ratio(taken[ways["its"]], taken[ways["ours"]])
        return Row.plain(
            what, value, "x", f"a second of audio: {said}; {100 * padding:.2g} % padding"
        )

    return [row(name) for name in PRECISIONS]


def _processor_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _ours(encoder: Encoder, waveforms: Tensor, lengths: Sequence[int]) -> list[Tensor]:
    return [features.values for features in encoder.encode(waveforms, lengths)]


@torch.inference_mode()
def _alone(model: HubertModel, waveforms: Tensor, lengths: Sequence[int]) -> list[Tensor]:
    pairs = zip(waveforms, lengths, strict=True)
    return [model(row[None, :length]).last_hidden_state[0] for row, length in pairs]


if __name__ == "__main__":
    run_alone(__doc__, measure)
