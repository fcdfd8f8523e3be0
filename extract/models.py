"""Loading HuBERT models: the only module that imports transformers, and only where it loads one."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from extract.frames import CONV_LAYERS
from extract.hubert import require_supported
from extract.weights import Checkpoint, checkpoint, random_checkpoint

if TYPE_CHECKING:
    from transformers import HubertConfig

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


def load_model(
    source: str,
    *,
    revision: str | None = None,
    seed: int = 0,
    cache_dir: str | Path | None = None,
) -> Checkpoint:
    """A HuBERT's config and float32 weights, from a model hub id or a local folder.

    `tiny_random` is drawn on the spot from `seed`: its features mean nothing. Weights come from
    safetensors or a weights-only unpickler; no code of a file is ever run. No HubertModel is made
    of them: importing transformers' models takes longer than all the rest of starting.
    Raises ValueError, with the remedy, where nothing can be loaded, a weight is missing, or the
    model is not one that `ExactHubert` computes.
    """
    if source == "tiny_random":
        return random_checkpoint(tiny_config(), seed)
    return _pretrained(source, revision, cache_dir)


def tiny_config() -> "HubertConfig":
    """Of a model that takes no time."""
    from transformers import HubertConfig

    return HubertConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        conv_dim=(16,) * len(CONV_LAYERS),
        conv_kernel=tuple(kernel for kernel, _ in CONV_LAYERS),
        conv_stride=tuple(stride for _, stride in CONV_LAYERS),
        num_conv_pos_embeddings=32,
        num_conv_pos_embedding_groups=4,
    )


def _pretrained(source: str, revision: str | None, cache_dir: str | Path | None) -> Checkpoint:
    """From a folder, else the hub's cache, else the hub; the cache first needs no network."""
    where: dict[str, Any] = {"revision": revision or "main", "cache_dir": cache_dir}
    try:
        return _read(source, {**where, "local_files_only": True})
    except OSError as error:
        failure: Exception = error
    if not Path(source).is_dir():
        try:
            _probe_hub(source, where["revision"])
            return _read(source, where)
        except OSError as error:
            failure = error
    first_line = str(failure).strip().partition("\n")[0]
    raise ValueError(
        f"{source}: no model found; looked for config.json with model.safetensors or "
        f"pytorch_model.bin in a folder of that name, in the model hub's cache and on the hub "
        f"({first_line}). Get it where there is a network with `hf download {source}`, or take "
        f"the folder chinese-hubert-base that GPT-SoVITS ships under "
        f"GPT_SoVITS/pretrained_models, and name it: model=local model.path=DIR"
    ) from None


def _probe_hub(source: str, revision: str) -> None:
    """Raise OSError where hub or model is out of reach: one request, where a load tries many."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    try:
        get_hf_file_metadata(hf_hub_url(source, "config.json", revision=revision), timeout=5)
    except Exception as error:  # its HTTP library's own kinds, which change with its releases
        raise OSError(f"{type(error).__name__}: {error}") from error


def _read(source: str, where: dict[str, Any]) -> Checkpoint:
    from transformers import HubertConfig

    settings, _ = HubertConfig.get_config_dict(source, **where)
    if settings.get("model_type") != "hubert":
        found = settings.get("model_type")
        raise ValueError(f"{source}: config.json says model_type {found}; 'hubert' is needed")
    config = HubertConfig.from_dict(settings)
    try:
        require_supported(config)
        return checkpoint(config, _read_weights(_weight_file(source, where)))
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def _weight_file(source: str, where: dict[str, Any]) -> Path:
    """Where the first of WEIGHT_FILES is; raises OSError if there is none."""
    from transformers.utils.hub import cached_file

    for name in WEIGHT_FILES:
        found = cached_file(source, name, **where, _raise_exceptions_for_missing_entries=False)
        if found is not None:
            return Path(found)
    raise FileNotFoundError(f"neither {' nor '.join(WEIGHT_FILES)}")


def _read_weights(path: Path) -> Mapping[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(
            "its weights are a pickle with more in it than tensors, and running a file's code is "
            "refused; convert it to safetensors where it can be trusted"
        ) from None
    except (SafetensorError, RuntimeError, EOFError) as error:
        raise ValueError(f"its weights do not load, get them again: {error}") from error
    if not isinstance(found, Mapping):
        raise ValueError(f"its weights are a {type(found).__name__}; a mapping of names is needed")
    return found
