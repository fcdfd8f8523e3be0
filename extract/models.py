"""Loading HuBERT models: the only module that imports transformers, and only where it loads one."""

import contextlib
import hashlib
import json
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from extract.frames import CONV_LAYERS
from extract.hubert import require_supported
from extract.machine import cores

if TYPE_CHECKING:
    from transformers import HubertModel as HubertModel

UNUSED_WEIGHTS = {"masked_spec_embed"}  # masks spans in training; never part of a feature
# What changes features beside the weights; the rest of a config is training or shows in a shape.
FEATURE_SETTINGS = (
    "conv_kernel",
    "conv_stride",
    "do_stable_layer_norm",
    "feat_extract_activation",
    "feat_extract_norm",
    "feat_proj_layer_norm",
    "hidden_act",
    "layer_norm_eps",
    "num_attention_heads",
    "num_conv_pos_embedding_groups",
)


def load_model(
    source: str,
    *,
    revision: str | None = None,
    seed: int = 0,
    cache_dir: str | Path | None = None,
) -> "HubertModel":
    """A HubertModel in float32, in evaluation mode, from a model hub id or a local folder.

    `tiny_random` is built on the spot from `seed`: its features mean nothing. Weights come from
    safetensors or a weights-only unpickler; no code of a file is ever run.
    Raises ValueError, with the remedy, where nothing can be loaded, a weight is missing, or the
    model is not one that `ExactHubert` computes.
    """
    with _quiet_transformers():
        if source == "tiny_random":
            model = _tiny_random(seed)
        else:
            model = _pretrained(source, revision, cache_dir)
    try:
        require_supported(model.config)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    model.requires_grad_(False)
    return model


def _tiny_random(seed: int) -> "HubertModel":
    from transformers import HubertConfig, HubertModel

    config = HubertConfig(
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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = HubertModel(config)
    tiny: HubertModel = model.eval()
    return tiny


def _pretrained(source: str, revision: str | None, cache_dir: str | Path | None) -> "HubertModel":
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


def _read(source: str, where: dict[str, Any]) -> "HubertModel":
    from safetensors import SafetensorError
    from transformers import HubertConfig, HubertModel

    settings, _ = HubertConfig.get_config_dict(source, **where)
    if settings.get("model_type") != "hubert":
        found = settings.get("model_type")
        raise ValueError(f"{source}: config.json says model_type {found}; 'hubert' is needed")
    loader: Any = HubertModel
    try:
        model, info = loader.from_pretrained(
            source, **where, dtype=torch.float32, weights_only=True, output_loading_info=True
        )
    except pickle.UnpicklingError:
        raise ValueError(
            f"{source}: its weights are a pickle with more in it than tensors, and running a "
            f"file's code is refused; convert it to safetensors where it can be trusted"
        ) from None
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{source}: its weights do not load, get them again: {error}") from error
    missing = sorted(set(info["missing_keys"]) - UNUSED_WEIGHTS)
    if missing:
        names = ", ".join(missing[:3])
        raise ValueError(f"{source}: {len(missing)} weights are missing, first {names}")
    loaded: HubertModel = model.eval()
    return loaded


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No progress bars, and no false alarms such as weight norm's "newly initialized"."""
    from logging import CRITICAL

    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def fingerprint(model: "HubertModel") -> str:
    """64 hex digits of all that decides features: float32 weights and the settings that matter.

    The same for the same weights whatever file format they came from.
    """
    settings = {name: getattr(model.config, name) for name in FEATURE_SETTINGS}
    whole = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=32)
    weights = sorted(model.state_dict().items())
    with ThreadPoolExecutor(cores()) as pool:  # hashing lets other threads run
        for digest in pool.map(
            _digest, (item for item in weights if item[0] not in UNUSED_WEIGHTS)
        ):
            whole.update(digest)
    return whole.hexdigest()


def _digest(item: tuple[str, Tensor]) -> bytes:
    name, weight = item
    digest = hashlib.blake2b(f"{name} {tuple(weight.shape)}".encode(), digest_size=32)
    digest.update(weight.detach().cpu().float().contiguous().numpy().data)
    return digest.digest()
