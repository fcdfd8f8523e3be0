"""Tells Hydra what there is to compose: the folder `conf/`, the schemas, the choices, resolvers."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.core.config_store import ConfigNode, ConfigStore
from omegaconf import DictConfig, OmegaConf

from extract.choices import names
from extract.config import MODULE_GROUPS, SCHEMAS
from extract.options import run_name, schema_of

PACKAGE = Path(__file__).resolve().parent
# Hydra 1.4 and its OmegaConf 2.4 warn of arguments and names that 1.3 and 2.3 need.
HYDRA_1_3 = hydra.__version__.startswith("1.3.")
VERSION_BASE = {"version_base": "1.3"} if HYDRA_1_3 else {}


def conf_dir() -> str:
    """Where the options are: inside the installed package, or beside it in a checkout."""
    installed = PACKAGE / "conf"
    return str(installed if installed.is_dir() else PACKAGE.parent / "conf")


def choices_of(group: str) -> str:
    """What a group offers: files of `conf/`, then modules, of other packages too."""
    files = sorted(path.stem for path in Path(conf_dir(), group).glob("*.yaml"))
    return ", ".join(dict.fromkeys([*files, *names(MODULE_GROUPS[group].modules)]))


def stem(path: str) -> str:
    """What a folder or a file is called; a file without its ending, a `v1.0` with all of it."""
    found = Path(os.path.expanduser(str(path))).resolve()  # noqa: PTH111 - pathlib's may raise
    return found.name if found.is_dir() else found.stem


class _Choice(ConfigNode):
    """A choice whose module is imported when Hydra reads it; its options are the module's."""

    def __init__(self, group: str, choice: str) -> None:
        self.name, self.group = choice, group
        self.package, self.provider = None, "extract"

    @functools.cached_property
    def node(self) -> DictConfig:  # type: ignore[override]
        assert self.group is not None
        schema = OmegaConf.structured(schema_of(self.group, self.name))
        key = MODULE_GROUPS[self.group].key
        if key in schema.keys():  # noqa: SIM118 - `in` means a value
            schema[key] = self.name
        return cast(DictConfig, schema)


@functools.cache  # Hydra 1.4 warns of a name that is stored twice
def register() -> None:
    """Tells Hydra the schemas and the names that `conf/` makes use of; once is enough.

    A module's choice needs no file. A file of its name in `conf/` is built on `/schema/GROUP`.
    """
    store = ConfigStore.instance()
    for name, schema in SCHEMAS.items():
        store.store(name, schema, group="schema")
    for group, (modules, _key) in MODULE_GROUPS.items():
        for choice in names(modules):
            has_file = Path(conf_dir(), group, f"{choice}.yaml").is_file()
            configs = (store.repo["schema"] if has_file else store.repo).setdefault(group, {})
            configs[f"{choice}.yaml"] = _Choice(group, choice)
    resolvers: dict[str, Any] = {
        "stem": stem,
        "demo_dir": lambda: str(PACKAGE / "demo"),
        "run_name": lambda *, _root_: run_name(_root_, OmegaConf.get_type),
        "choices_of": choices_of,
    }
    add: Any = OmegaConf.register_new_resolver if HYDRA_1_3 else OmegaConf.register_resolver
    for name, resolver in resolvers.items():
        add(name, resolver, replace=True)
