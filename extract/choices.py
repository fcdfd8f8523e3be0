"""Finds a choice by its name: a module of its group's folder, else one of an installed package.

A package offers a choice through an entry point of `extract.sources`, `extract.families`,
`extract.quantizers`, `extract.layouts` or `extract.engines`, which names a module.
docs/contributing.md says what each group needs in its modules.
"""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Literal

from extract.extras import missing

Group = Literal["sources", "families", "quantizers", "unit_formats", "layouts", "engines"]

FOLDERS: dict[Group, str] = {
    "sources": "extract.manifest.sources",
    "families": "extract.models.families",
    "quantizers": "extract.encoder.quantizers",
    "unit_formats": "extract.encoder.unit_formats",
    "layouts": "extract.store.layouts",
    "engines": "extract.run.engines",
}


def names(group: Group) -> tuple[str, ...]:
    """Names of a group's choices: this package's own, then those of installed packages."""
    return (*own(group), *(name for name in _offered(group) if name not in own(group)))


def find(group: Group, name: str) -> ModuleType:
    """The module of a choice.

    Raises:
        ValueError: there is no such choice, or it needs a package that is not installed, which is
            named with the command that installs it.
    """
    offered = _offered(group)
    if name not in own(group) and name not in offered:
        raise ValueError(f"{name}: none of extract's {group}; needed {' or '.join(names(group))}")
    try:
        if name in own(group):
            return import_module(f"{FOLDERS[group]}.{name}")
        found = offered[name].load()
    except ModuleNotFoundError as error:
        raise ValueError(f"{name}: {missing(error.name)}") from error
    if not isinstance(found, ModuleType):
        raise ValueError(f"{name}: {offered[name].value} is no module; needed one")
    return found


@cache
def own(group: Group) -> tuple[str, ...]:
    """Names of this package's own choices."""
    spec = find_spec(FOLDERS[group])
    places = spec.submodule_search_locations if spec else None
    return tuple(sorted(module.name for module in pkgutil.iter_modules(places or [])))


@cache
def _offered(group: Group) -> dict[str, EntryPoint]:
    return {point.name: point for point in _entry_points().select(group=f"extract.{group}")}


@cache
def _entry_points() -> Any:
    """Entry points of all installed packages; one group's take as long to read as all of them."""
    return entry_points()  # `EntryPoints`, but for mypy before Python 3.12
