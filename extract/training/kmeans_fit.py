"""A fit of `MiniBatchKMeans` on its way: a block of frames at a time, and its checkpoints."""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.extras import missing
from extract.text import printable

log = logging.getLogger(__name__)

Frames = NDArray[np.float32]  # (frames, dimensions)


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


class Fit:
    """A model of scikit-learn's on its way, and where in the stream it is."""

    def __init__(self, settings: Settings, made_of: str) -> None:
        self._settings = settings
        self._model = _new_model(settings)
        self._key = f"{settings} {made_of} {versions()}"
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

    def centres(self) -> NDArray[np.float32]:
        """The centres now, (clusters, dimensions); (0, 0) before the first frames."""
        nothing = np.empty((0, 0))
        return np.asarray(getattr(self._model, "cluster_centers_", nothing), np.float32)

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


def versions() -> dict[str, str]:
    """What the bits of centres depend on, beside their frames."""
    return {name: version(name) for name in ("scikit-learn", "numpy")}
