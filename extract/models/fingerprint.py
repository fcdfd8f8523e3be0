"""Fingerprints a model: a hash of what decides its features, whatever file it came from."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

from torch import Tensor

from extract.machine import cores
from extract.models.architecture import Architecture
from extract.models.weights import FINAL_PROJECTION, Checkpoint, weight_shapes


def feature_settings(of: Architecture) -> dict[str, object]:
    """Settings that change features but no weight's shape, by the names of HuBERT's config.

    The fingerprint hashes this dict, and stores record the fingerprint. So no name or value may
    change, and a new setting must be left out while it has its default.
    """
    settings: dict[str, object] = {
        "conv_kernel": [kernel for kernel, _stride in of.stack.layers],
        "conv_stride": [stride for _kernel, stride in of.stack.layers],
        "do_stable_layer_norm": of.pre_norm,
        "feat_extract_activation": "gelu",
        "feat_extract_norm": of.conv_norm,
        "feat_proj_layer_norm": of.projection_norm,
        "hidden_act": "gelu",
        "layer_norm_eps": of.eps,
        "num_attention_heads": of.heads,
        "num_conv_pos_embedding_groups": of.positions.groups,
    }
    if of.relative_bias is not None:
        settings["max_bucket_distance"] = of.relative_bias.distance
    return settings


def fingerprint(model: Checkpoint, *, projected: bool = False) -> str:
    """Hash, 64 hex digits, of a model's float32 weights and of `feature_settings`.

    The same weights from another file format give the same fingerprint. The projection is in it
    where features are `projected`.
    """
    settings = json.dumps(feature_settings(model.architecture), sort_keys=True)
    whole = hashlib.blake2b(settings.encode(), digest_size=32)
    with ThreadPoolExecutor(cores()) as pool:  # hashlib releases the GIL
        named = [(name, model.weights[name]) for name in sorted(weight_shapes(model.architecture))]
        if projected and model.projection is not None:
            parts = zip(("weight", "bias"), model.projection, strict=True)
            named += [(f"{FINAL_PROJECTION}.{part}", weight) for part, weight in parts]
        for digest in pool.map(_digest, named):
            whole.update(digest)
    return whole.hexdigest()


def _digest(item: tuple[str, Tensor]) -> bytes:
    name, weight = item
    digest = hashlib.blake2b(f"{name} {tuple(weight.shape)}".encode(), digest_size=32)
    digest.update(weight.detach().cpu().float().contiguous().numpy().data)
    return digest.digest()
