"""The proof, once in a sweep, that another gain leaves features as they are.

`extract.run.reuse` decides for each utterance by two statistics. Before the first features are
taken, those utterances that the rule would share, and that the gain moves most, are computed at
both gains in float32, and compared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from extract.data.dataset import AudioDataset
from extract.run.donors import kind_of
from extract.run.reuse import Reuse
from extract.run.sweep import Sweep
from extract.store.metadata import Identity
from extract.text import count, printable
from extract.values import AudioSettings, Utterance

MOST_DIFFERENCE = 2e-4  # of two numbers of features in float32
MOST_UTTERANCES, MOST_S = 4, 20.0  # that are computed at both gains
# A proof holds for utterances that the gain moves at most twice as much, and for those that it
# moves as little as rounding does.
AS_ROUNDING, TIMES = 1e-6, 2.0


def proved(reuse: Reuse, sweep: Sweep, identity: Identity) -> bool:
    """Whether features may be taken; leaves in `reuse` the utterances that the proof is about.

    Says what it found. Where features differ too much, no later job of the sweep takes any.
    """
    kind, affected = kind_of(identity), reuse.effect[reuse.mask]
    if not affected.any():
        return True  # the same gain
    if affected.max() > _reach(sweep.proofs.get(kind)):
        found = _proof(reuse)
        if found is None:
            sweep.proofs[kind] = None
            return False
        sweep.proofs[kind] = max(found, sweep.proofs.get(kind) or 0.0)
    reuse.keep(reuse.effect <= _reach(sweep.proofs[kind]))
    return bool(reuse.mask.any())


def _proof(reuse: Reuse) -> float | None:
    """Compares features at two gains, and says so; None if they differ by too much.

    Returns:
        The largest effect, of 1, that the gain had on the norm's output.
    """
    said, differences = reuse.job.watch.said, _differences(reuse, _chosen(reuse))
    if not differences:
        said("no features are shared: no recording could be computed at two gains")
        return None
    index = max(differences, key=lambda index: _order(differences[index]))
    worst = differences[index]
    if not worst <= MOST_DIFFERENCE:  # also NaN
        said(
            f"no features are shared: those of {printable(reuse.job.manifest.ids[index])} move by "
            f"{worst:.1e} from one gain to another, and at most {MOST_DIFFERENCE:g} is allowed"
        )
        return None
    said(
        f"at two gains features of {count(len(differences), 'recording')} differ by {worst:.1e} at "
        f"most, in fp32; {MOST_DIFFERENCE:g} is allowed"
    )
    return float(reuse.effect[list(differences)].max())


def _reach(proven: float | None) -> float:
    """How large an effect a proof is about; nothing without one."""
    return -1.0 if proven is None else max(AS_ROUNDING, TIMES * proven)


def _chosen(reuse: Reuse) -> list[int]:
    """The utterances that the gain moves most, of few seconds together."""
    found = np.flatnonzero(reuse.mask)
    by_effect = found[np.argsort(-reuse.effect[found], kind="stable")]
    chosen, seconds = list[int](), 0.0
    for index in by_effect.tolist():
        if len(chosen) < MOST_UTTERANCES and seconds + reuse.seconds[index] <= MOST_S:
            chosen.append(index)
            seconds += float(reuse.seconds[index])
    return chosen or [int(found[np.argmin(reuse.seconds[found])])]


def _differences(reuse: Reuse, chosen: Sequence[int]) -> dict[int, float]:
    """The largest difference of each utterance's features at two gains, in float32.

    Without recordings that cannot be read any more; none where memory runs out.
    """
    read, waveforms = list[int](), list[torch.Tensor]()
    for index in chosen:
        gains = reuse.job.config.audio, reuse.donor_of(index).audio
        pair = [item for audio in gains if (item := _waveform(reuse, audio, index)) is not None]
        if len(pair) == len(gains):
            read.append(index)
            waveforms += pair
    try:
        features = reuse.job.encoder.redo(waveforms) if waveforms else []
    except (torch.OutOfMemoryError, MemoryError):
        return {}
    pairs = zip(read, features[::2], features[1::2], strict=True)
    return {index: float((one - other).abs().max()) for index, one, other in pairs}


def _order(difference: float) -> float:
    return math.inf if math.isnan(difference) else difference


def _waveform(reuse: Reuse, audio: AudioSettings, index: int) -> torch.Tensor | None:
    """The encoder's input, (num_samples,); None where there is none."""
    job = reuse.job
    stack = job.encoder.architecture.stack
    item = AudioDataset(job.manifest, audio, stack, training_audio=False, decoded=job.decoded)[
        index
    ]
    return item.waveform if isinstance(item, Utterance) else None
