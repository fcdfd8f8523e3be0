"""Reads a model's folder as transformers' `save_pretrained` writes it or the hub's cache holds it.

config.json
model.safetensors                 or pytorch_model.bin, or either in shards:
model.safetensors.index.json      or pytorch_model.bin.index.json, beside the shards it names
preprocessor_config.json          may be missing, or be a part of processor_config.json
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from extract.models.formats.files import read_json, read_tensors
from extract.models.formats.found import Found
from extract.models.formats.names import named, state_of
from extract.models.settings import shown
from extract.text import shortened

CONFIG_FILE = "config.json"
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
INDEX_FILES = tuple(f"{name}.index.json" for name in WEIGHT_FILES)
PREPROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")

Find = Callable[[str], Path | None]  # file name -> path of the model's file, None if it has none


class ShardMissing(FileNotFoundError):
    """An index names a shard that is not beside it."""


def read_settings(find: Find) -> dict[str, Any]:
    """The settings in a model's `config.json`.

    Raises:
        FileNotFoundError: it has none.
        ValueError: it cannot be read, or holds no settings.
    """
    return read_json(_first(find, CONFIG_FILE))


def read(find: Find, settings: Mapping[str, Any]) -> Found:
    """A model's tensors, its preprocessor's normalisation, and the given settings.

    Settings are read before this call, so that weights of a model that this encoder cannot compute
    are not downloaded.

    Raises:
        FileNotFoundError: it has no weights, or not all of its shards.
        ValueError: a file cannot be read, is damaged, or holds more than it should.
    """
    norm = input_norm(find)
    path = _first(find, *WEIGHT_FILES, *INDEX_FILES)
    held = _sharded(find, path) if path.name in INDEX_FILES else state_of(read_tensors(path))
    return Found(settings, named(held), norm)


def _first(find: Find, *names: str) -> Path:
    for name in names:
        if (found := find(name)) is not None:
            return found
    raise FileNotFoundError(f"which holds no {' and no '.join(names[: len(WEIGHT_FILES)])}")


def _sharded(find: Find, index: Path) -> dict[str, Any]:
    """The tensors that an index names, each from its shard."""
    weight_map = _weight_map(index)
    shards: dict[str, list[str]] = {}
    for name, shard in weight_map.items():
        shards.setdefault(shard, []).append(name)
    tensors: dict[str, Any] = {}
    for shard, names in shards.items():
        if (path := find(shard)) is None:
            raise ShardMissing(
                f"{index.name} names {shortened(shard)}, which is missing; download it into the"
                " same folder"
            )
        held = read_tensors(path)
        for name in names:
            if name not in held:
                raise ValueError(
                    f"{shortened(shard)} holds no {shortened(name)}, which {index.name} places in"
                    " it; download both again"
                )
            tensors[name] = held[name]
    return tensors


def _weight_map(index: Path) -> dict[str, str]:
    """Tensor name -> shard's file name, from the index. Shards are files beside the index."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index.name} holds no weight_map; download it again")
    for shard in weight_map.values():
        if not isinstance(shard, str) or not shard or set("/\\:\0") & set(shard) or shard == "..":
            raise ValueError(
                f"{index.name} names {shown(shard)} as a shard; a file's name is needed"
            )
    return weight_map


def input_norm(find: Find) -> bool | None:
    """Whether transformers' preprocessor brings a waveform to zero mean and unit variance.

    None where the model has none. Raises ValueError where it says neither.
    """
    processor, preprocessor = PREPROCESSOR_FILES
    settings = None
    if (path := find(processor)) is not None:
        settings = read_json(path).get("feature_extractor")
    if settings is None and (path := find(preprocessor)) is not None:
        settings = read_json(path)
    if path is None or settings is None:
        return None
    # Where a file does not say, transformers' Wav2Vec2FeatureExtractor normalises.
    found = settings.get("do_normalize", True) if isinstance(settings, dict) else settings
    if not isinstance(found, bool):
        raise ValueError(f"{path.name}: do_normalize is {shown(found)}; true or false is needed")
    return found
