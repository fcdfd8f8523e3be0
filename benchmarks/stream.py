"""Training on the fly: a step with features of `stream_features`, against one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from benchmarks.common import Row
from extract.data.batch import Batch, collate
from extract.training.stream import stream_features
from extract.values import Recording, Utterance

if TYPE_CHECKING:
    from benchmarks.gpu import Bench

MAX_BATCHES, MAX_BLOCKS = 12, 64  # of a pass; of the model that is trained
ON_A_CPU = 2, 4


def as_batch(waveforms: Tensor, lengths: list[int]) -> Batch:
    """A batch of a loader, its training audio silent."""
    items = [
        Utterance(Recording(i, f"{i}.wav", ""), row[:n].clone(), torch.zeros(2 * n).short())
        for i, (row, n) in enumerate(zip(waveforms, lengths, strict=True))
    ]
    return collate(items)


class Trainer:
    """Trains blocks of a transformer's width on features, (B, T, D)."""

    def __init__(self, width: int, num_blocks: int, device: torch.device) -> None:
        block = [nn.LayerNorm(width), nn.Linear(width, width), nn.GELU()]
        self.model = nn.Sequential(*block * num_blocks).to(device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-6)

    def step(self, features: Tensor) -> None:
        """One step, which on a GPU is only queued."""
        self.model(features.float()).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def streamed(bench: Bench) -> list[Row]:
    """A row: steps one after the other against streamed, the model as costly as the encoder."""
    max_batches, max_blocks = (MAX_BATCHES, MAX_BLOCKS) if bench.on_cuda else ON_A_CPU
    batches = [as_batch(*batch) for batch in bench.batches[:max_batches]]
    if bench.on_cuda:
        batches = [batch.pin_memory() for batch in batches]
    encoder = bench.encoder

    def encoded(batch: Batch) -> Tensor:
        found = encoder.encode(batch.waveforms, batch.lengths.tolist())
        return pad_sequence([one.values[0] for one in found], batch_first=True).to(bench.device)

    features = [encoded(batch) for batch in batches]
    encoding_s = bench.median_s(lambda: [encoded(batch) for batch in batches])
    one = Trainer(encoder.hidden_size, 1, bench.device)
    block_s = bench.median_s(lambda: [one.step(some) for some in features])
    num_blocks = min(max_blocks, max(1, round(encoding_s / block_s)))
    trainer = Trainer(encoder.hidden_size, num_blocks, bench.device)
    training_s = bench.median_s(lambda: [trainer.step(some) for some in features])

    def in_turn() -> None:
        for batch in batches:
            trainer.step(encoded(batch))

    stream = stream_features(batches, encoder)
    in_turn_s = bench.median_s(in_turn)
    streamed_s = bench.median_s(lambda: [trainer.step(batch.features) for batch in stream])
    ms = 1e3 / len(batches)
    note = (
        f"{ms * streamed_s:.1f} ms a step; encoding alone {ms * encoding_s:.1f} ms, "
        f"training alone {ms * training_s:.1f} ms"
    )
    what = "training step, encoder and model in turn against streamed"
    if not bench.on_cuda:  # nothing is encoded ahead
        return [Row.plain(what, in_turn_s / streamed_s, "x", note)]
    return [Row.at_least(what, in_turn_s / streamed_s, 1, "x", note)]
