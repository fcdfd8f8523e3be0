"""The kind of features that a quantizer is for, and how a store's identity is compared with it.

Centres fit the features of one model, layer and input. Of a store's identity these settings decide
the kind: they move a frame by more than its centre is wide, or may. Left out are

    alpha, maxx, gain    a level: one factor for an utterance, as augmentation varies it, and units
                         of all levels are to be of one vocabulary
    gates, the list      which recordings there are
    precision, dtype     rounding
    resampler, mix, padding, norm_eps, layout    less than a setting above, or nothing, a frame
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from extract.store.differences import WIDTH, shown_apart
from extract.store.metadata import LATER_SETTINGS
from extract.text import printable

WAYS_OUT = "Ways out: features of the same kind, or centres learned of these (extract kmeans)."

# Settings of the kind, and what an identity says by leaving one out.
KIND: Mapping[str, Any] = {
    "model.weights": None,
    "model.layer": None,
    "model.projection": False,
    "model.final_norm": "transformers",
    "model.input_norm": LATER_SETTINGS["model.input_norm"],
    "audio.scale": LATER_SETTINGS["audio.scale"],
    "audio.rate_path": LATER_SETTINGS["audio.rate_path"],
}


def kind_of(identity: Mapping[str, Any], layer: int | None = None) -> dict[str, Any]:
    """The kind of the features of a store, as `metadata.json` has its identity.

    Args:
        identity: of the store.
        layer: one of the layers that it has; None takes what the identity says.
    """
    kind = {key: identity.get(key, default) for key, default in KIND.items()}
    if layer is not None:
        kind["model.layer"] = layer
    if kind["model.input_norm"] != LATER_SETTINGS["model.input_norm"]:
        del kind["audio.scale"]  # unit variance takes it away again
    return kind


def layer_of(identity: Mapping[str, Any], asked: int | None, where: str) -> tuple[Any, int]:
    """A layer of a store's features, and its place among the store's layers.

    Args:
        identity: of the store.
        asked: the layer; None: the only one.
        where: names the store in the message.

    Raises:
        ValueError: the store has not that layer, or several and none is asked for.
    """
    there = identity.get("model.layer")
    layers = there if isinstance(there, list) else [there]
    layer = layers[0] if asked is None and len(layers) == 1 else asked
    if layer not in layers:
        found = f"{printable(where)}: has the layers {', '.join(map(str, layers))}"
        raise ValueError(f"{found}; needed --layer with one of them")
    return layer, layers.index(layer)


def require_kind(
    made_for: Mapping[str, Any],
    identity: Mapping[str, Any],
    where: str,
    layer: int | None = None,
    *,
    made: str = "the quantizer",
) -> None:
    """Refuses features of another kind than a quantizer was made for, or other features are of.

    Args:
        made_for: `Quantizer.made_for`; empty where the kind is not known.
        identity: of the features.
        where: names them in the message.
        layer: one of the layers that they have; None takes what the identity says.
        made: what is of the kind `made_for`.

    Raises:
        ValueError: a table of the settings that differ.
    """
    kind = kind_of(identity, layer)
    keys = [key for key in made_for if kind.get(key) != made_for[key]]
    if not keys:
        return
    rows = [("", *shown_apart(made, "these features"))]
    rows += [(printable(key), *shown_apart(made_for[key], kind.get(key))) for key in keys]
    width = max(len(key) for key, _one, _other in rows)
    table = [f"  {key:<{width}}  {one:>{WIDTH}}  {two:>{WIDTH}}" for key, one, two in rows]
    head = f"{printable(where)}: features of another kind than {printable(made)} is for"
    raise ValueError("\n".join([head, *table, WAYS_OUT]))
