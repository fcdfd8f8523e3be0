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
    kind, job = kind_of(identity), reuse.job
    affected = reuse.effect[reuse.mask]
    if not affected.any():
        return True  # the same gain
    if kind not in sweep.proofs or affected.max() > _reach(sweep.proofs[kind]):
        chosen = _chosen(reuse)
        worst, id_ = _largest_difference(reuse, chosen)
        if not worst <= MOST_DIFFERENCE:
            sweep.proofs[kind] = None
            job.watch.said(
                f"no features are shared: those of {printable(id_)} move by {worst:.1e} from one "
                f"gain to another, and at most {MOST_DIFFERENCE:g} is allowed"
            )
            return False
        proven = max(float(reuse.effect[chosen].max()), sweep.proofs.get(kind) or 0.0)
        sweep.proofs[kind] = proven
        job.watch.said(
            f"at two gains features of {count(len(chosen), 'recording')} differ by {worst:.1e} at "
            f"most, in fp32; {MOST_DIFFERENCE:g} is allowed"
        )
    reuse.keep(reuse.effect <= _reach(sweep.proofs[kind]))
    return bool(reuse.mask.any())


def _reach(proven: float | None) -> float:
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


def _largest_difference(reuse: Reuse, chosen: Sequence[int]) -> tuple[float, str]:
    """The largest difference of two numbers of features at two gains, and its utterance's id.

    Recordings that cannot be read any more are left out. It is NaN where memory runs out.
    """
    ours, theirs = reuse.job.config.audio, [reuse.donor_of(index).audio for index in chosen]
    pairs = [
        (index, _waveform(reuse, ours, index), _waveform(reuse, audio, index))
        for index, audio in zip(chosen, theirs, strict=True)
    ]
    read = [pair for pair in pairs if pair[1] is not None and pair[2] is not None]
    waveforms = [waveform for pair in read for waveform in pair[1:] if waveform is not None]
    try:
        features = reuse.job.encoder.redo(waveforms) if waveforms else []
    except (torch.OutOfMemoryError, MemoryError):
        return math.nan, reuse.job.manifest.ids[chosen[0]]
    differences = [
        (float((one - other).abs().max()), reuse.job.manifest.ids[index])
        for (index, _ours, _theirs), one, other in zip(
            read, features[::2], features[1::2], strict=True
        )
    ]
    return max(differences, key=_order, default=(0.0, ""))


def _order(found: tuple[float, str]) -> float:
    return math.inf if math.isnan(found[0]) else found[0]


def _waveform(reuse: Reuse, audio: AudioSettings, index: int) -> torch.Tensor | None:
    """The encoder's input, (num_samples,); None where there is none."""
    job = reuse.job
    stack = job.encoder.architecture.stack
    item = AudioDataset(job.manifest, audio, stack, training_audio=False)[index]
    return item.waveform if isinstance(item, Utterance) else None
