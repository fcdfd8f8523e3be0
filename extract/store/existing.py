"""Opens a store that runs have left, by what its metadata say of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from extract.choices import find
from extract.store import ledger, metadata
from extract.store.layout import DType, LayoutOptions, TrainingAudio
from extract.store.store import Store, no_url
from extract.text import printable
from extract.urls import as_url, redacted, was_url

_ENUMS = {"dtype": DType, "audio": TrainingAudio}


def existing_store(directory: Path, url: str = "") -> Store:
    """The store at `directory`, with the layout and the options that it was made with.

    Args:
        directory: of the store; or that of a copy of its metadata and ledgers, whose files are at
            `url`.
        url: of the store, if it is at one.

    Raises:
        ValueError: no run wrote there, its metadata are damaged (`metadata.Unreadable`), or its
            layout cannot be had here.
    """
    if was_url(str(directory)):
        raise ValueError(no_url(as_url(str(directory)), "this"))
    known = metadata.read(directory, url)
    if known is None or not ledger.ledger_paths(directory):
        needed = "needed the folder of a run, which its last line names"
        where = printable(redacted(url) if url else str(directory))
        raise ValueError(f"{where}: no metadata.json or no ledger here; {needed}")
    return store_of(directory, known["identity"], url)


def store_of(directory: Path, identity: Mapping[str, Any], url: str = "") -> Store:
    """A store at `directory`, or whose files are at `url`, with the options of an identity.

    Raises:
        ValueError: its layout cannot be had here.
    """
    layout = str(identity.get("layout", LayoutOptions.layout))
    module: Any = find("layouts", layout)
    options = module.Options(dir=str(directory), layout=layout)
    for name, value in _options(identity).items():
        if name in {field.name for field in fields(options)}:
            setattr(options, name, value)
    features = identity.get("features") is not False
    return Store(directory, options=options, features=features, url=url)


def _options(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The store's options in an identity, as `Options` has them."""
    said = {}
    for key, value in identity.items():
        group, _, name = key.partition(".")
        if group == "store":
            said[name] = _ENUMS[name][str(value)] if name in _ENUMS else value
    return said
