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

import io
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from extract.encoder.centres import SUFFIX, write_centres
from extract.extras import missing
from extract.files import replace_whole
from extract.text import printable
from extract.values import Failure

log = logging.getLogger(__name__)

Frames = NDArray[np.float32]  # (frames, dimensions)

BLOCK = 8  # batches whose frames are shuffled together
_NOTHING: Mapping[str, Any] = {}


class Stream(Protocol):
    """Utterances, anew in each epoch."""

    def epoch(self, number: int, start: int) -> Iterator[Frames]:
        """The utterances (frames, dimensions) of an epoch, from the `start`-th on."""
        ...


@dataclass(frozen=True)
class Settings:
    """What, beside the features, decides the centres.

    Raises:
        ValueError: one of them is out of its range.
    """

    clusters: int = 500
    epochs: int = 5
    batch_size: int = 10_000  # frames of a step; at least `clusters`
    seed: int = 0  # 0 to 2^32 - 1

    def __post_init__(self) -> None:
        if self.clusters < 1 or self.epochs < 1:
            found = f"{self.clusters} clusters, {self.epochs} epochs"
            raise ValueError(f"{found}; needed at least one of each")
        if self.batch_size < self.clusters:
            found = f"a batch size of {self.batch_size:,} for {self.clusters:,} clusters"
            raise ValueError(f"{found}; needed at least one frame a cluster")
        if not 0 <= self.seed < 1 << 32:
            raise ValueError(f"a seed of {self.seed}; needed 0 to {(1 << 32) - 1}")


@dataclass(frozen=True)
class Fitted:
    """Centres, and how well they fit."""

    centres: NDArray[np.float32]  # (clusters, dimensions)
    settings: Settings
    num_frames: int  # of one epoch
    # Mean squared distance of a frame to its centre, over one batch in eight of the last epoch
    inertia: float
    finished: bool  # False: it was asked to stop; the same call goes on from its checkpoint

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
        about = {"made_for": dict(made_for), "fit": fit, **more, "made_with": _versions()}
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
    fit = _Fit(settings, f"{settings} {made_of} {_versions()}")
    if path is not None:
        fit.resume(path)
    while fit.epoch < epochs:
        for block, num_items in _blocks(stream.epoch(fit.epoch, fit.item), BLOCK * batch_size):
            fit.learn(block, num_items)
            if path is not None:
                replace_whole(path, fit.checkpoint(), fsync=False)
            progress(fit.epoch, fit.num_frames, fit.inertia)
            if stop():
                return fit.result(finished=False)
        fit.end_epoch()
    return fit.result(finished=True)


class _Fit:
    """A model of scikit-learn's on its way, and where in the stream it is."""

    def __init__(self, settings: Settings, key: str) -> None:
        self._settings, self._key = settings, key
        self._model = _new_model(settings)
        self.epoch = self.item = self.num_frames = self._frames_before = 0
        self._distances = self._scored = 0.0  # sum over frames, and their number

    @property
    def inertia(self) -> float:
        """Mean squared distance to the nearest centre, of the frames scored in this epoch."""
        return self._distances / max(1.0, self._scored)

    def learn(self, block: Frames, num_items: int) -> None:
        """Takes the frames of a block, in batches.

        Raises:
            ValueError: it is the first one, and has fewer frames than there are to be clusters.
        """
        if len(block):
            self._fit(block)
        self.item += num_items
        self.num_frames += len(block)

    def _fit(self, block: Frames) -> None:
        settings = self._settings
        if not hasattr(self._model, "cluster_centers_") and len(block) < settings.clusters:
            found = f"{len(block):,} frames for {settings.clusters:,} clusters"
            raise ValueError(f"{found}; needed at least one frame a cluster")
        draw = np.random.default_rng([settings.seed, self.epoch, self.item])
        order = draw.permutation(len(block))
        for rows in np.array_split(order, max(1, len(block) // settings.batch_size)):
            batch = block[rows]
            self._model.partial_fit(batch)
        self._score(batch)

    def _score(self, batch: Frames) -> None:
        """Adds up squared distances; `score` of scikit-learn adds in the order of its threads."""
        away = batch - self._model.cluster_centers_[self._model.predict(batch)]
        self._distances += float(np.square(away).sum(dtype=np.float64))
        self._scored += len(batch)

    def end_epoch(self) -> None:
        """Goes to the next epoch; the last one's numbers stay for the result.

        Raises:
            ValueError: this one gave no frames.
        """
        if not self.num_frames:
            found = f"no frames in epoch {self.epoch + 1}"
            raise ValueError(f"{found}; needed features that can be iterated once an epoch")
        self.epoch += 1
        if self.epoch < self._settings.epochs:
            self.item = self.num_frames = 0
            self._distances = self._scored = 0.0

    def result(self, *, finished: bool) -> Fitted:
        """What is known now."""
        centres = np.asarray(self._model.cluster_centers_, np.float32)
        return Fitted(centres, self._settings, self.num_frames, self.inertia, finished)

    def checkpoint(self) -> bytes:
        """All of it as arrays of an `.npz`, among them each that scikit-learn's model holds."""
        state: dict[str, Any] = {
            "key": np.array(self._key),
            "position": np.array([self.epoch, self.item, self.num_frames]),
            "inertia": np.array([self._distances, self._scored]),
        }
        for name, value in vars(self._model).items():
            if isinstance(value, np.random.RandomState):
                _kind, keys, *rest = value.get_state(legacy=True)
                state |= {f"random.{name}": keys, f"place.{name}": np.array(rest)}
            elif isinstance(value, np.ndarray | np.number | int | float):
                state[f"model.{name}"] = np.asarray(value)
        buffer = io.BytesIO()
        np.savez(buffer, **state)
        return buffer.getvalue()

    def resume(self, path: Path) -> None:
        """Goes on from a checkpoint, if there is one of the same fit."""
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
                state = dict(file)
            same = str(state["key"]) == self._key
        except FileNotFoundError:
            return
        except Exception as error:  # NumPy raises many kinds
            log.warning("%s: %s; begun anew", printable(str(path)), error)
            return
        if not same:
            log.warning("%s: of other features or settings; begun anew", printable(str(path)))
            return
        self.epoch, self.item, self.num_frames = map(int, state["position"])
        self._distances, self._scored = map(float, state["inertia"])
        for name, value in state.items():
            kind, _, attribute = name.partition(".")
            if kind == "model":
                setattr(self._model, attribute, value if value.ndim else value.item())
            elif kind == "random":
                place, has_gauss, gauss = state[f"place.{attribute}"].tolist()
                random = np.random.RandomState()
                random.set_state(("MT19937", value, int(place), int(has_gauss), gauss))
                setattr(self._model, attribute, random)


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


def _new_model(settings: Settings) -> Any:
    try:
        from sklearn.cluster import MiniBatchKMeans
    except ModuleNotFoundError as error:
        raise ValueError(f"k-means {missing(error.name)}") from error
    return MiniBatchKMeans(
        settings.clusters,
        init="k-means++",
        n_init=1,
        batch_size=settings.batch_size,
        compute_labels=False,
        reassignment_ratio=0.0,
        random_state=settings.seed,
    )


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("scikit-learn", "numpy")}
