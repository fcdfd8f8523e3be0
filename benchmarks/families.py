"""Other models than HuBERT, and several layers, on the CPU: `python -m benchmarks.families`.

Random weights; a clip of 4 s and one of 2.5 s in a batch. Contenders take turns in one process.
Times are the processor's, of all threads: on a busy machine, with OMP_NUM_THREADS=1.
"""

import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from torch import Tensor
from transformers import (
    HubertConfig,
    HubertModel,
    PreTrainedModel,
    Wav2Vec2Config,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
)

from benchmarks.common import Row, run_alone
from benchmarks.encoder import noise
from extract.encoder.encoder import Encoder
from extract.machine import keep_freed_memory
from extract.models.wanted import Layer

LENGTHS, ROUNDS = [64_000, 40_000], 5
Batches = list[tuple[Tensor, list[int]]]
LISTED: dict[str, Layer] = {"[6,9,12]": [6, 9, 12], "all": "all"}


def measure() -> list[Row]:
    """Against transformers one utterance at a time, and several layers against the last."""
    keep_freed_memory()  # as a run does
    torch.manual_seed(0)
    data = [(noise(LENGTHS), LENGTHS)]
    models = {
        "WavLM-base": (WavLMModel(WavLMConfig()), 1.2),
        "wav2vec 2.0 base": (Wav2Vec2Model(Wav2Vec2Config()), 1.0),
    }
    rows = [against_alone(name, *model, data) for name, model in models.items()]
    return [*rows, *layers_against_last(HubertModel(HubertConfig()), data)]


def against_alone(name: str, model: PreTrainedModel, goal: float, data: Batches) -> Row:
    """Batches of ours in fp32 against transformers' forward of each utterance."""
    model = model.eval().requires_grad_(False)
    encoder = Encoder(model)
    ways = {"ours": partial(encode, encoder, data), "alone": partial(one_at_a_time, model, data)}
    taken = in_turns(ways)
    ratios = [alone / ours for ours, alone in zip(taken["ours"], taken["alone"], strict=True)]
    what = f"encoder, {name} fp32, against transformers one at a time"
    return Row.at_least(what, median(ratios), goal, "x", said(ratios))


def layers_against_last(model: HubertModel, data: Batches) -> list[Row]:
    """What several layers cost above the last one alone."""
    model = model.eval().requires_grad_(False)
    encoders = {"last": Encoder(model)}
    encoders |= {name: Encoder(model, layer=layer) for name, layer in LISTED.items()}
    taken = in_turns({name: partial(encode, one, data) for name, one in encoders.items()})
    rows = []
    for name in LISTED:
        ratios = [one / last for one, last in zip(taken[name], taken["last"], strict=True)]
        what = f"encoder, HuBERT-base fp32, layer={name}, against the last"
        rows.append(Row.at_most(what, median(ratios), 1.1, "x", said(ratios)))
    return rows


def encode(encoder: Encoder, data: Batches) -> None:
    """All batches."""
    for batch, lengths in data:
        encoder.encode(batch, lengths)


@torch.inference_mode()
def one_at_a_time(model: PreTrainedModel, data: Batches) -> None:
    """Transformers' own forward, without padding."""
    for batch, lengths in data:
        for waveform, length in zip(batch, lengths, strict=True):
            model(waveform[None, :length])


def in_turns(ways: dict[str, Callable[[], None]]) -> dict[str, list[float]]:
    """Processor seconds of each way in each round, after one that does not count."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(ROUNDS + 1):
        for name, way in ways.items():
            begun = time.process_time()
            way()
            if number:
                taken[name].append(time.process_time() - begun)
    return taken


def said(ratios: list[float]) -> str:
    """The rounds' own ratios."""
    return f"rounds {', '.join(f'{ratio:.2f}' for ratio in sorted(ratios))}"


if __name__ == "__main__":
    run_alone(__doc__, measure)
