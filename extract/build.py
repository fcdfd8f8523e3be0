"""A config made into objects: the manifest, the settings, the encoder."""

from __future__ import annotations

import functools
from dataclasses import asdict

import torch

from extract.audio import AudioSettings
from extract.config import Config, Kind, StartMethod
from extract.encoder import Encoder
from extract.manifest import Manifest, read_folder, read_gpt_sovits_list
from extract.models import fingerprint, load_model


def audio_settings(config: Config) -> AudioSettings:
    """The audio group as the plain values that workers get."""
    return AudioSettings(**{**asdict(config.audio), "resampler": config.audio.resampler.name})


def read_manifest(config: Config) -> Manifest:
    """The dataset group's recordings.

    Raises:
        ValueError: no such folder or list, nothing in it, or two recordings with one name.
    """
    dataset = config.dataset
    if dataset.kind == Kind.gpt_sovits:
        return read_gpt_sovits_list(dataset.path, dataset.audio_dir)
    if dataset.extensions is None:
        return read_folder(dataset.path)
    return read_folder(dataset.path, tuple(dataset.extensions))


@functools.lru_cache(maxsize=1)
def _encoder(
    path: str, revision: str | None, seed: int, device: str, precision: str, layer: int | None
) -> tuple[Encoder, str]:
    model = load_model(path, revision=revision, seed=seed)
    return Encoder(model, device=device, precision=precision, layer=layer), fingerprint(model)


def load_encoder(config: Config) -> tuple[Encoder, str]:
    """The config's encoder and its weights' fingerprint; kept for the next job of a sweep."""
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = config.model
    return _encoder(
        model.path, model.revision, config.seed, device, config.precision.name, model.layer
    )


def start_method(config: Config, device: torch.device) -> str:
    """How workers start: a process that has used CUDA is not forked."""
    method = config.loader.start_method
    if method is not StartMethod.auto:
        return method.name
    return "forkserver" if device.type == "cuda" else "fork"


def check(config: Config) -> None:
    """Refuses numbers that no run can have.

    Raises:
        ValueError: which one, and what was needed.
    """
    shard = config.shard
    if not 0 <= shard.index < shard.count:
        raise ValueError(
            f"shard.index={shard.index} shard.count={shard.count}; needed 0 <= index < count"
        )
    if config.store.num_writers < 1:
        raise ValueError(f"store.num_writers={config.store.num_writers}; needed at least 1")
    if not config.loader.timeout_s > 0:
        raise ValueError(f"loader.timeout_s={config.loader.timeout_s}; needed more than 0")
