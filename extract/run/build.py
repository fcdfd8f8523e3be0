"""A config made into objects: the manifest, the settings, the encoder."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch

from extract import choices
from extract.config import Config, InputNorm, Page, StartMethod
from extract.data.batch import Batch, collate
from extract.data.dataset import AudioDataset, identify
from extract.data.durations import UNKNOWN_S, Headers, Scanned
from extract.data.loader import ResilientLoader
from extract.data.plan import Indices
from extract.data.probes import Probe, Probes
from extract.data.workers import Options
from extract.encoder.encoder import Encoder
from extract.encoder.quantizer import Quantizer
from extract.encoder.unit_format import unit_files
from extract.launchers import local_place
from extract.machine import best_start_method, cores
from extract.manifest.clashes import Clash
from extract.manifest.manifest import Manifest
from extract.manifest.source import Output, read_source
from extract.models.load import load_model
from extract.models.wanted import Layer, is_several, plain_layer
from extract.remote.objects import require_folder
from extract.run.auto import LoaderPlan
from extract.shard import Shard
from extract.store.at_url import working_folder
from extract.store.layout import Layout, TrainingAudio, endings_beside
from extract.store.ledger import dtype_name
from extract.store.store import Store, no_url
from extract.systems import folds_case
from extract.text import printable
from extract.urls import is_url
from extract.values import Failure, Gain

AUTO = re.compile(r"auto(:\d+)?")

_kept: dict[Any, Encoder] = {}  # the last encoder, under what was asked for


def read_manifest(config: Config, layout: Layout, clashes: list[Clash] | None = None) -> Manifest:
    """The dataset group's recordings, with ids that `layout` can make files of.

    Args:
        config: names the source.
        layout: of the store.
        clashes: takes the pairs that would write the same file, of which the manifest then has the
            first alone; None refuses them.

    Raises:
        ValueError: no such folder or list, nothing in it, or two recordings with one name where
            the layout does not let the later one fail alone.
    """
    return read_source(config.dataset, output_of(config, layout), clashes)


def output_of(config: Config, layout: Layout) -> Output:
    """The store that a run of the config will write, as far as sources know it."""
    folder = store_folder(config)
    folds = folds_case(folder)
    beside = endings_beside(layout) if layout.lies_beside else None
    return Output(folder, layout.folders, layout.suffixes, folds, beside, layout.adds)


def store_folder(config: Config) -> str:
    """The store's folder, or the one in which a store at a URL is worked on."""
    options = config.store
    if not is_url(options.dir):
        return options.dir
    return working_folder(options.dir, getattr(options, "scratch", None))


def open_store(config: Config, shard: Shard) -> Store:
    """The config's store for a shard, without training audio where `audio`'s settings make none.

    Raises:
        ValueError: there is no such layout, or its files cannot hold what the options ask for, or
            they ask for audio that is not made.
    """
    options, url = config.store, config.store.dir if is_url(config.store.dir) else ""
    if url:
        require_url(config)
    if not config.audio.has_training_audio and options.audio is TrainingAudio.wav32k:
        if type(options)().audio is not TrainingAudio.wav32k:  # it was asked for
            raise ValueError(
                f"store.audio=wav32k: audio.rate_path={config.audio.rate_path.name} makes no audio "
                "at 32 kHz; needed audio.rate_path=via_32k, or store.audio=none"
            )
        options = replace(options, audio=TrainingAudio.none)
    return Store(
        store_folder(config),
        fsync=options.fsync,
        options=options,
        part=str(shard),
        features=config.features,
        url=url,
    )


def require_url(config: Config) -> None:
    """Refuses what a store at a URL cannot do.

    Raises:
        ValueError: names it, and what else can be done.
    """
    url = config.store.dir
    require_folder(url)
    for is_asked, what in (
        (config.quantizer.kind != "none", f"quantizer={config.quantizer.kind}"),
        (bool(config.preflight), f"preflight={config.preflight}"),
        (config.report.page is Page.live, "report.page=live"),
    ):
        if is_asked:
            raise ValueError(no_url(url, what))


def require_layers(config: Config, layout: Layout) -> None:
    """Refuses several layers where the layout keeps one.

    Raises:
        ValueError: names the layers and what else can be done.
    """
    layer = config.model.layer
    if is_several(layer) and not layout.takes_layers:
        raise ValueError(
            f"model.layer={layer}: a file of the layout {config.store.layout} holds one layer, and "
            "its readers would take the first of several. Ways out: one layer; a store for each "
            "layer, by a sweep (-m model.layer=6,9); or a layout that takes several (store=NAME)"
        )


def _encoder(*asked: Any) -> Encoder:
    """What `_load_encoder` returns; kept for the next job, if that asks for the same.

    If it asks for another one, this one is freed before that is loaded, unlike with
    functools.lru_cache: the memory of two models is never needed at once.
    """
    if asked not in _kept:
        _kept.clear()
        _kept[asked] = _load_encoder(*asked)
    return _kept[asked]


def _load_encoder(
    path: str,
    revision: str | None,
    seed: int,
    device: str,
    precision: str,
    wanted: tuple[Layer, bool | str, str],
    ask_input_norm: bool = False,
) -> Encoder:
    model = load_model(path, revision=revision, seed=seed, ask_input_norm=ask_input_norm)
    layer, projection, final_norm = wanted
    return Encoder(
        model,
        device=device,
        precision=precision,
        layer=layer,
        projection=projection,
        final_norm=final_norm,
    )


def load_encoder(config: Config) -> Encoder:
    """The config's encoder; kept for the next job of a sweep."""
    device, model = _device(config.device), config.model
    wanted = plain_layer(model.layer), model.projection, model.final_norm.name
    return _encoder(
        model.path,
        model.revision,
        config.seed,
        device,
        config.precision.name,
        wanted,
        _follows_the_model(config),
    )


def _device(name: str) -> str:
    """The device that `auto` means, or `auto:1`, which is card 1; others as they are."""
    if not AUTO.fullmatch(name):
        return name
    if not torch.cuda.is_available():
        return "cpu"
    index, num_local = local_place(os.environ)
    if name == "auto" and num_local > 1:  # a launcher's process takes a card of its own
        return f"cuda:{index % torch.cuda.device_count()}"
    return name.replace("auto", "cuda")


def saved_dtype(encoder: Encoder, store: Store) -> torch.dtype:
    """The dtype in which the store keeps the encoder's features."""
    dtype: torch.dtype = getattr(torch, store.dtype_of(dtype_name(encoder.dtype)))
    return dtype


def load_quantizer(config: Config, encoder: Encoder) -> Quantizer | None:
    """What makes units of the encoder's features; None if nothing is to.

    Raises:
        ValueError: there is no such quantizer or format of units, or its file is not one.
    """
    unit_files(config.quantizer)
    module = choices.find("quantizers", config.quantizer.kind)
    found: Quantizer | None = module.load(config.quantizer, encoder.hidden_size)
    return found


def input_norm(config: Config, encoder: Encoder) -> InputNorm:
    """What becomes of waveforms before the encoder: `auto` settled, to `none` or another."""
    if config.model.input_norm is not InputNorm.auto:
        return config.model.input_norm
    normalised = _follows_the_model(config) and encoder.wants_unit_variance
    return InputNorm.unit_variance if normalised else InputNorm.none


def _follows_the_model(config: Config) -> bool:
    """Whether the model says what its input is: GPT-SoVITS's gain feeds all models alike."""
    return config.model.input_norm is InputNorm.auto and config.audio.gain is Gain.none


def load_batches(
    dataset: AudioDataset,
    batches: list[Indices],
    config: Config,
    plan: LoaderPlan,
    device: torch.device,
    stop: Callable[[], bool],
) -> ResilientLoader[Batch]:
    """The dataset's batches; a worker that dies costs only the recording that it was reading."""
    method = start_method(config, device)
    if method != "fork":  # a forked worker shares the parent's pages anyway
        dataset = dataset.shared()

    def crashed(index: int, cause: str) -> Batch:
        recording = identify(dataset.manifest, index)
        detail = f"{recording.path}: its worker died twice: {cause}"
        return collate([Failure(recording, "worker_crashed", detail)])

    options = Options(plan.num_workers, plan.prefetch, config.loader.timeout_s, method)
    return ResilientLoader(dataset, batches, collate, crashed, options, stop)


def scan_headers(
    config: Config, stop: Callable[[], bool], items: Headers, chunks: list[Indices]
) -> Iterator[Scanned]:
    """Reads headers on all cores; one that kills its worker has the duration `UNKNOWN_S`."""

    def crashed(index: int, _cause: str) -> Scanned:
        return [(index, UNKNOWN_S)]

    return iter(ResilientLoader(items, chunks, list, crashed, _scanning(config, chunks), stop))


def scan_probes(
    config: Config, stop: Callable[[], bool], items: Probes, chunks: list[Indices]
) -> Iterator[list[Probe]]:
    """Reads all that headers say, on all cores."""

    def crashed(index: int, cause: str) -> list[Probe]:
        recording = identify(items.manifest, index)
        detail = f"{printable(recording.path)}: its worker died twice: {cause}"
        return [(index, Failure(recording, "worker_crashed", detail))]

    return iter(ResilientLoader(items, chunks, list, crashed, _scanning(config, chunks), stop))


def _scanning(config: Config, chunks: list[Indices]) -> Options:
    """The workers that read headers: one for each core, unless the config wants none."""
    method = start_method(config, torch.device("cpu"))
    num_workers = min(cores(), len(chunks)) if config.loader.num_workers != 0 else 0
    return Options(num_workers, timeout_s=config.loader.timeout_s, start_method=method)


def start_method(config: Config, device: torch.device) -> str:
    """How workers start: as the config says, else by `best_start_method`."""
    method = config.loader.start_method
    if method is not StartMethod.auto:
        return method.name
    return best_start_method(uses_cuda=device.type == "cuda")
