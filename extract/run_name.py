"""Names a run's output folder by the settings of its features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from operator import attrgetter
from typing import Any

from extract.options import has_effect, options_of
from extract.store.layout import LayoutOptions

# Options that change no saved number, or that the name holds already. All others are part of a
# run's name, and so is a new option.
NOT_IN_NAME = (
    *("dataset.", "model.name", "model.path", "loader.", "shard.", "engine.", "report.", "device"),
    "quantizer.",
    *("store.dir", "store.subfolders", "store.lock"),
    *("store.num_writers", "store.fsync", "store.verify"),
    "store.embedder_model",
    *("store.ark_mb", "store.shard_mb", "store.scratch"),
    *("cpu_fallback", "share_features", "retry_failed", "overwrite", "preflight"),
)
ALWAYS_NAMED = ("audio.maxx", "audio.alpha")
LAYOUT = "store.layout"  # named unless it is the first layout: each layout's own default is itself


def run_name(config: Any, type_of: Callable[[Any], Any] = type) -> str:
    """Name of a run's folder: the model, and each setting of its features that is not a default.

    `maxx` and `alpha` are always in it, since most sweeps vary them:
    `hubert_base-layer9-maxx0.95-alpha0.3`. Settings of different features have different names.
    """
    parts = [config.model.name]
    known = options_of(config, type_of)
    named = [name for name in known if not name.startswith(NOT_IN_NAME)]
    for name in sorted(named, key=lambda name: name.startswith("audio.")):
        value = attrgetter(name)(config)
        default = LayoutOptions.layout if name == LAYOUT else known[name].default
        if value != default or (name in ALWAYS_NAMED and has_effect(name, config)):
            parts.append(value if name == LAYOUT else _part(name.rpartition(".")[2], value))
    return "-".join(parts)


def _part(key: str, value: Any) -> str:
    """A setting in a folder's name: `alpha0.3`, `layer6_9`; for a choice only what is chosen."""
    if value is None or (isinstance(value, Enum) and value.name == "none"):
        return f"{key}_none"
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, bool):
        return key if value else f"no_{key}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = "_".join(map(str, value))
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{key}{value:g}"
    return f"{key}{value}".replace("/", "_")
