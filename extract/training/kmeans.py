"""k-means centres of features, learned by scikit-learn's `MiniBatchKMeans` from a stream of them.

An epoch takes every utterance once. Utterances are gathered in blocks of eight batches; the frames
of a block are shuffled and given to `partial_fit` a batch at a time. So memory is a block's, 250 MB
for batches of 10,000 frames of 768 numbers, whatever the length of the stream. Behind each block a
checkpoint is written; a fit that is killed goes on there, with the same centres to the last bit.

The first batch, drawn from the first block, is what k-means++ begins with. `reassignment_ratio` is
0, as in fairseq's recipe: scikit-learn's 0.01 moves each centre that has less than a hundredth of
the frames of the largest one, which for speech is that of silence, up to the last batch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from extract.encoder.centres import SUFFIX, write_centres
from extract.encoder.nearest import Nearest
from extract.files import replace_whole
from extract.text import printable
from extract.training.kmeans_fit import Fit, Frames, Settings, versions
from extract.values import Failure

BLOCK = 8  # batches whose frames are shuffled together
_NOTHING: Mapping[str, Any] = {}


class Stream(Protocol):
    """Utterances, anew in each epoch."""

    def epoch(self, number: int, start: int) -> Iterator[Frames]:
        """The utterances (frames, dimensions) of an epoch, from the `start`-th on."""
        ...


@dataclass(frozen=True)
class Fitted:
    """Centres, and how well they fit."""

    centres: NDArray[np.float32]  # (clusters, dimensions)
    settings: Settings
    num_frames: int  # of one epoch
    # Mean squared distance of a frame to its centre, over one batch in eight of the last epoch
    inertia: float
    finished: bool  # False: it was asked to stop; the same call goes on from its checkpoint

    def units(self, features: Tensor) -> Tensor:
        """The nearest centre of each frame: (frames, dimensions) -> (frames,) int64, on the CPU.

        They are those of `quantizer=kmeans`, whatever the device and the dtype.
        """
        return self._nearest(features.T, [len(features)])

    @functools.cached_property
    def _nearest(self) -> Nearest:
        return Nearest(torch.from_numpy(self.centres))

    def save(self, path: Path | str, made_for: Mapping[str, Any] = _NOTHING, **more: Any) -> None:
        """Writes `FILE.npy`, and `FILE.json` beside it.

        Args:
            path: of the `.npy`.
            made_for: the kind of the features, `extract.store.kind.kind_of(identity)`: features of
                another one are refused. Empty: none is.
            more: what else the JSON is to say.

        Raises:
            ValueError: another suffix than `.npy`.
            OSError: a file cannot be written.
        """
        path = Path(path)
        if path.suffix != SUFFIX:
            raise ValueError(f"{printable(str(path))}: needed a name that ends in {SUFFIX}")
        fit = {**vars(self.settings), "frames": self.num_frames, "inertia": self.inertia}
        about = {"made_for": dict(made_for), "fit": fit, **more, "made_with": versions()}
        write_centres(path, self.centres, about)


def fit_kmeans(
    features: Iterable[Any] | Stream,
    clusters: int = 500,
    *,
    epochs: int = 5,
    batch_size: int = 10_000,
    seed: int = 0,
    checkpoint: Path | str | None = None,
    made_of: str = "",
    progress: Callable[[int, int, float], None] = lambda epoch, frames, inertia: None,
    stop: Callable[[], bool] = lambda: False,
) -> Fitted:
    """Centres of a stream of features.

    Args:
        features: utterances: tensors or arrays (frames, dimensions); or what has `features`, such
            as batches (batch, frames, dimensions) with `feature_lengths`. Failures among them are
            left out. It is iterated once an epoch; if it has `set_epoch`, that is called before.
        clusters: how many centres.
        epochs: how often every utterance is taken.
        batch_size: frames of a step.
        seed: of k-means++ and of the shuffling. The order of utterances is `features`' own.
        checkpoint: a file that is written behind each block, and removed by nobody: a later call
            with the same arguments goes on there.
        made_of: what tells these features from others, so that no checkpoint of others is used.
        progress: told the epoch, from 0, its frames so far, and the inertia, behind each block.
        stop: once it returns True, the work ends behind the block.

    Raises:
        ValueError: a setting out of its range, fewer frames than clusters, features of other
            dimensions than those before, an iterable that gives nothing the second time, or
            scikit-learn is not installed.
        OSError: the checkpoint cannot be written.
    """
    settings = Settings(clusters, epochs, batch_size, seed)
    stream: Any = features
    if not callable(getattr(features, "epoch", None)):
        stream = _Repeated(stream)
    path = None if checkpoint is None else Path(checkpoint)
    fit = Fit(settings, made_of)
    if path is not None:
        fit.resume(path)
    while fit.epoch < epochs:
        for block, num_items in _blocks(stream.epoch(fit.epoch, fit.item), BLOCK * batch_size):
            fit.learn(block, num_items)
            if path is not None:
                replace_whole(path, fit.checkpoint(), fsync=False)
            progress(fit.epoch, fit.num_frames, fit.inertia)
            if stop():
                return _result(fit, settings, finished=False)
        fit.end_epoch()
    return _result(fit, settings, finished=True)


def _result(fit: Fit, settings: Settings, *, finished: bool) -> Fitted:
    return Fitted(fit.centres(), settings, fit.num_frames, fit.inertia, finished)


class _Repeated:
    """Any iterable as a `Stream`."""

    def __init__(self, features: Iterable[Any]) -> None:
        self._features = features

    def epoch(self, number: int, start: int) -> Iterator[Frames]:
        set_epoch = getattr(self._features, "set_epoch", None)
        if set_epoch is not None:
            set_epoch(number)
        return map(_frames_of, islice(iter(self._features), start, None))


def _frames_of(item: Any) -> Frames:
    """The frames (frames, dimensions) of a tensor, an utterance's value or a batch of them."""
    if isinstance(item, Failure):
        return np.empty((0, 0), np.float32)
    values = torch.as_tensor(getattr(item, "features", item)).detach()
    lengths = getattr(item, "feature_lengths", None)
    if lengths is not None:
        sizes = torch.as_tensor(lengths).tolist()
        parts = [values[row, :size] for row, size in enumerate(sizes)]
        values = torch.cat(parts) if parts else values.reshape(0, values.shape[-1])
    if values.ndim != 2:
        raise ValueError(
            f"features of the shape {tuple(values.shape)}; needed (frames, dimensions)"
        )
    frames: Frames = values.float().cpu().numpy()
    return frames


def _blocks(items: Iterator[Frames], most: int) -> Iterator[tuple[Frames, int]]:
    """Consecutive items joined to at most `most` frames, and how many items; a view that changes.

    An item of more frames is a block of its own.
    """
    buffer = np.empty((0, 0), np.float32)
    used = num = 0
    for item in items:
        if num and used + len(item) > most:
            yield buffer[:used], num
            used = num = 0
        if len(item):
            if used + len(item) > len(buffer) and not used:
                buffer = np.empty((max(most, len(item)), item.shape[1]), np.float32)
            if item.shape[1] != buffer.shape[1]:
                found = f"features of {item.shape[1]} dimensions behind some of {buffer.shape[1]}"
                raise ValueError(f"{found}; needed the same of all")
            buffer[used : used + len(item)] = item
        used += len(item)
        num += 1
    if num:
        yield buffer[:used], num
