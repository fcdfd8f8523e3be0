"""Plans which recordings share a batch, from their durations alone.

Batches hold recordings of similar length, longest first: memory peaks in the first minute, and no
long batch is left for the end. The plan covers the whole manifest, so that a run that goes on after
an interruption computes the same batches and writes the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from extract.frames import ENCODER_RATE_HZ
from extract.manifest.strings import PackedStrings
from extract.values import AudioSettings

Indices = NDArray[np.int64]
Durations = Sequence[float] | NDArray[np.float64]  # of every recording, by index

# Seconds at which attention costs as much as the linear layers, for HuBERT-base at 50 frames a
# second: 170 MFLOP a frame in linear layers, 37 kFLOP in attention for each pair of frames. Other
# models: `extract.models.architecture.Architecture.quadratic_s`.
QUADRATIC_S = 92.0
MIN_BATCHES, SMALL_BATCH_SECONDS = 32, 30.0  # a small corpus: 32 batches, or of 30 s at least
MAX_BATCH = 256  # utterances; a worker delivers nothing before its batch is whole


def cost_s(
    duration_s: NDArray[np.float64], quadratic_s: float = QUADRATIC_S
) -> NDArray[np.float64]:
    """Seconds of short audio that cost the encoder as much: d (1 + d / `quadratic_s`)."""
    return duration_s * (1 + duration_s / quadratic_s)


def plan_batches(
    duration_s: Durations, batch_seconds: float, quadratic_s: float = QUADRATIC_S
) -> list[Indices]:
    """Indices of each batch: every index once, each batch of cost at most `batch_seconds`.

    `cost_s` is summed over a batch's recordings, each as long as the longest. A recording above the
    budget is alone in its batch. Equal durations keep the manifest's order, so that the plan is the
    same on every machine. A small corpus gets smaller batches than the budget allows: each of a few
    large ones would mix many lengths, and be mostly padding.
    """
    durations = np.fmax(np.asarray(duration_s, dtype=np.float64), 1e-3)  # NaN too
    order = np.argsort(-durations, kind="stable")
    costs = cost_s(durations, quadratic_s)
    share_s = float(costs.sum()) / MIN_BATCHES
    batch_seconds = min(batch_seconds, max(share_s, SMALL_BATCH_SECONDS))
    fits = np.clip(batch_seconds / costs[order], 1, MAX_BATCH).astype(np.int64)
    batches, start = [], 0
    while start < len(order):
        batches.append(order[start : start + fits[start]])
        start += fits[start]
    return batches


def padded_seconds(duration_s: NDArray[np.float64], settings: AudioSettings) -> NDArray[np.float64]:
    """Seconds with the zeros that the settings put around each waveform."""
    around_s = sum(settings.pad_samples) / ENCODER_RATE_HZ
    padded: NDArray[np.float64] = np.maximum(
        duration_s + around_s, settings.min_samples / ENCODER_RATE_HZ
    )
    return padded


def padding_share(duration_s: Durations, batches: Sequence[Indices]) -> float:
    """Padding's share of the batches' padded seconds, 0 to 1."""
    durations = np.asarray(duration_s, dtype=np.float64)
    valid = sum(float(durations[batch].sum()) for batch in batches)
    padded = sum(len(batch) * float(durations[batch].max()) for batch in batches)
    return 1 - valid / padded if padded else 0.0


def plan_fingerprint(batches: Sequence[Indices], ids: PackedStrings) -> str:
    """SHA-256 of a plan, in hex: equal if the same ids share the same batches in the same order."""
    digest = hashlib.sha256()
    for batch in batches:
        digest.update(ids.joined(batch, b"\n"))
        digest.update(b"\0")
    return digest.hexdigest()


def unfinished(
    batches: Sequence[Indices], todo: NDArray[np.bool_], companions: NDArray[np.bool_]
) -> list[Indices]:
    """The batches of a plan that are still to be computed.

    Args:
        batches: the plan.
        todo: for every index, whether it is to be saved.
        companions: for every index, whether the ledger has no line of it yet. Such a batch is
            computed whole, also its saved utterances (which are not saved again), so that the
            features equal an uninterrupted run's bit for bit.
    """
    left = []
    for batch in batches:
        if companions[batch].any():
            left.append(batch)
        elif todo[batch].any():
            left.append(batch[todo[batch]])
    return left
