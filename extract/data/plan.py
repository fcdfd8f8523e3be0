"""Which recordings share a batch: a function of their durations alone.

Batches hold recordings of like length, longest first: the largest allocation comes in the first
minute and the tail of a run is short. The plan is made from the whole manifest, so that a run that
was interrupted computes the same batches again and arrives at the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
Durations = Sequence[float] | NDArray[np.float64]  # of every recording, by index

# At this duration attention costs as much as the linear layers do: of HuBERT-base, which spends 170
# MFLOP a frame on those and 37 kFLOP a frame and frame attended to, at 50 frames a second. Other
# models: `extract.models.architecture.Architecture.quadratic_s`.
QUADRATIC_S = 92.0
MIN_BATCHES, SMALL_BATCH_SECONDS = 32, 30.0  # fewer, or smaller ones, only where told to
MAX_BATCH = 256  # utterances; bounds what one worker gathers before anything is delivered


def cost_s(
    duration_s: NDArray[np.float64], quadratic_s: float = QUADRATIC_S
) -> NDArray[np.float64]:
    """Durations as the seconds of short audio that cost the same."""
    return duration_s * (1 + duration_s / quadratic_s)


def plan_batches(
    duration_s: Durations, batch_seconds: float, quadratic_s: float = QUADRATIC_S
) -> list[Indices]:
    """Every index once, in batches that cost at most `batch_seconds` (`cost_s`).

    A recording longer than the budget is alone. Ties keep the manifest's order, so the plan is the
    same wherever it is made. A small corpus gets smaller batches than it may: a few large ones
    would each span many lengths, and be mostly padding.
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


def padding_share(duration_s: Durations, batches: Sequence[Indices]) -> float:
    """Share of the batches' padded seconds that is padding, 0 to 1."""
    durations = np.asarray(duration_s, dtype=np.float64)
    valid = sum(float(durations[batch].sum()) for batch in batches)
    padded = sum(len(batch) * float(durations[batch].max()) for batch in batches)
    return 1 - valid / padded if padded else 0.0


def plan_fingerprint(batches: Sequence[Indices], ids: Sequence[str]) -> str:
    """Hash of a plan: equal where the same ids share the same batches."""
    digest = hashlib.sha256()
    for batch in batches:
        digest.update("\n".join(ids[index] for index in batch).encode("utf8", "surrogateescape"))
        digest.update(b"\0")
    return digest.hexdigest()


def unfinished(
    batches: Sequence[Indices], todo: NDArray[np.bool_], companions: NDArray[np.bool_]
) -> list[Indices]:
    """The part of a plan that is left.

    Args:
        batches: the plan.
        todo: for every index, whether it is to be saved.
        companions: for every index, whether an interruption caught it before its first record.
            Its whole batch is computed again, which repeats the interrupted arithmetic bit for bit;
            what is already saved is computed beside it and not saved again.
    """
    left = []
    for batch in batches:
        if companions[batch].any():
            left.append(batch)
        elif todo[batch].any():
            left.append(batch[todo[batch]])
    return left
