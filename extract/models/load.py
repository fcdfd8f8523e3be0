"""Loads models. Only this module imports transformers, and only for the hub and its cache."""

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from extract.frames import HUBERT_STACK
from extract.models.architecture import Architecture, Positions
from extract.models.family import Family, find_family, model_types
from extract.models.formats import fairseq, transformers
from extract.models.formats.files import file_in
from extract.models.formats.found import Found
from extract.models.formats.transformers import (
    CONFIG_FILE,
    PREPROCESSOR_FILES,
    WEIGHT_FILES,
    ShardMissing,
)
from extract.models.settings import shown
from extract.models.weights import Checkpoint, checkpoint, random_checkpoint
from extract.text import shortened

log = logging.getLogger(__name__)

TINY = Architecture(  # of `tiny_random`
    conv=tuple((16, kernel, stride) for kernel, stride in HUBERT_STACK.layers),
    conv_bias=False,
    conv_norm="group",
    projection_norm=True,
    positions=Positions(kernel=32, groups=4),
    width=32,
    wide=64,
    heads=2,
    layers=2,
    pre_norm=False,
    eps=1e-5,
)

_FILES = f"{CONFIG_FILE} with {' or '.join(WEIGHT_FILES)}"
_SHIPPED = (
    "take the folder chinese-hubert-base that GPT-SoVITS ships under GPT_SoVITS/pretrained_models,"
    " and name it: model=local model.path=DIR"
)


def load_model(
    source: str,
    *,
    revision: str | None = None,
    seed: int = 0,
    cache_dir: str | Path | None = None,
    ask_input_norm: bool = False,
) -> Checkpoint:
    """A model's architecture and float32 weights, from a hub id, a local folder or a file.

    `tiny_random` is a small model with random weights drawn from `seed`: its features mean nothing.
    Files are read by safetensors or a weights-only unpickler; no code in a file is run.
    transformers' model classes are not used: importing them takes longer than the rest of start-up.

    `ask_input_norm` asks the hub for the preprocessor's settings too, where its cache was filled
    without: once, since the cache then knows, and without them where there is no network.

    Raises:
        ValueError: there is no such model, a weight is missing, or this encoder cannot compute the
            model. The message says what helps.
    """
    if source == "tiny_random":
        return random_checkpoint(TINY, seed)
    return _pretrained(source, revision, cache_dir, ask_input_norm)


def _pretrained(
    source: str, revision: str | None, cache_dir: str | Path | None, ask_input_norm: bool
) -> Checkpoint:
    """Loads from a folder, a file, the hub's cache (which needs no network), or the hub."""
    if os.path.isdir(folder := os.path.expanduser(source)):  # noqa: PTH111, PTH112
        return _from_folder(source, folder)
    if os.path.isfile(folder):  # noqa: PTH113
        return _from_file(source, folder)
    if source.startswith("."):  # as no id of a hub does
        raise ValueError(
            f"{shortened(source)}: no such folder or file; looked for "
            f"{shortened(str(Path(folder).absolute()))}. Run this in the folder where that path "
            "starts, or name the model: model.path=PATH"
        )
    where: dict[str, Any] = {"revision": revision or "main", "cache_dir": cache_dir}
    try:
        model = _read(source, partial(_cached, source, {**where, "local_files_only": True}))
        asks = ask_input_norm and model.input_norm is None
        return _asked(model, source, where) if asks else model
    except OSError:
        pass
    try:
        _probe_hub(source, where["revision"])
        return _read(source, partial(_cached, source, where))
    except OSError as error:
        problem = shortened(str(error).strip().partition("\n")[0])
    shown = shortened(source)
    raise ValueError(
        f"{shown}: no model found; looked for {_FILES} in a folder of that name, in the model hub's"
        f" cache and on the hub ({problem}). Get it where there is a network with `hf download"
        f" {shown}`, or {_SHIPPED}"
    ) from None


def _from_folder(source: str, folder: str) -> Checkpoint:
    try:
        return _read(source, partial(file_in, folder))
    except ShardMissing as error:
        raise ValueError(f"{shortened(source)}: {error}") from None
    except FileNotFoundError as error:
        message = f"{shortened(source)}: no model in this folder, {error}; needed {_FILES}"
        raise ValueError(f"{message}. Name the folder that holds them, or {_SHIPPED}") from None


def _cached(source: str, where: dict[str, Any], name: str) -> Path | None:
    """Path of a model's file in the hub's cache, or None; OSError if it cannot be fetched."""
    from transformers.utils.hub import cached_file

    found = cached_file(source, name, **where, _raise_exceptions_for_missing_entries=False)
    return None if found is None else Path(found)


def _asked(model: Checkpoint, source: str, where: dict[str, Any]) -> Checkpoint:
    """A model of the hub's cache with what the hub says of its input, if the cache never asked."""
    from huggingface_hub import try_to_load_from_cache

    known = [
        try_to_load_from_cache(source, name, where["cache_dir"], where["revision"])
        for name in PREPROCESSOR_FILES
    ]
    if None not in known:  # the hub said earlier that it has neither
        return model
    try:
        _probe_hub(source, where["revision"])
        return replace(model, input_norm=transformers.input_norm(partial(_cached, source, where)))
    except OSError as error:
        log.warning(
            "%s: the cache has no %s and the hub cannot be asked for one (%s); whether the input "
            "is of unit variance is taken from the model's norms; model.input_norm=none or "
            "unit_variance settles it",
            shortened(source),
            PREPROCESSOR_FILES[-1],
            shortened(str(error).strip().partition("\n")[0]),
        )
        return model
    except ValueError as error:
        raise ValueError(f"{shortened(source)}: {error}") from None


def _probe_hub(source: str, revision: str) -> None:
    """Raise OSError if the hub cannot be reached: after one request, where a load retries."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    try:
        get_hf_file_metadata(hf_hub_url(source, CONFIG_FILE, revision=revision), timeout=5)
    except Exception as error:  # huggingface_hub's HTTP library, and its errors, change by release
        raise OSError(f"{type(error).__name__}: {error}") from error


def _read(source: str, find: Callable[[str], Path | None]) -> Checkpoint:
    """The model whose files `find` returns; OSError if one is missing."""
    try:
        settings = transformers.read_settings(find)
        family = _family(settings.get("model_type"), CONFIG_FILE)
        architecture = family.architecture(settings)  # before its weights are downloaded
        return _made(architecture, transformers.read(find, settings), family)
    except ValueError as error:
        raise ValueError(f"{shortened(source)}: {error}") from None


def _from_file(source: str, path: str) -> Checkpoint:
    try:
        found = fairseq.read(Path(path))
        family = _family(found.settings.get("model_type"), found.said_by)
        return _made(family.architecture(found.settings), found, family)
    except ValueError as error:
        raise ValueError(f"{shortened(source)}: {error}") from None


def _made(architecture: Architecture, found: Found, family: Family) -> Checkpoint:
    made = checkpoint(architecture, found.weights, family.PREFIX, found.said_by)
    return replace(made, input_norm=found.input_norm)


def _family(model_type: object, said_by: str) -> Family:
    if (family := find_family(model_type)) is not None:
        return family
    needed = " or ".join(map(repr, model_types()))
    raise ValueError(f"{said_by} says model_type {shown(model_type)}; {needed} is needed")
