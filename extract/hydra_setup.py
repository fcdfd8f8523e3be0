"""What Hydra composes configs of: the folder `conf/`, schemas, modules' options, resolvers."""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.core.config_store import ConfigNode, ConfigStore
from omegaconf import DictConfig, OmegaConf

from extract.choices import names
from extract.config import MODULE_GROUPS, SCHEMAS
from extract.launchers import local_place, place
from extract.options import schema_of
from extract.run_name import run_name
from extract.urls import folder_name, is_url

_ENVIRONMENT = re.compile(r"\$\{oc\.env:(\w+)\}")  # without a default
PACKAGE = Path(__file__).resolve().parent
# Hydra 1.4 and its OmegaConf 2.4 warn of arguments and names that 1.3 and 2.3 need.
HYDRA_1_3 = hydra.__version__.startswith("1.3.")
VERSION_BASE = {"version_base": "1.3"} if HYDRA_1_3 else {}


def conf_dir() -> str:
    """The folder `conf/`: inside the installed package, or beside the package in a checkout."""
    installed = PACKAGE / "conf"
    return str(installed if installed.is_dir() else PACKAGE.parent / "conf")


def not_set(config: DictConfig) -> list[str]:
    """Environment variables that a config asks for, `${oc.env:NAME}`, and that are not there."""
    asked = _ENVIRONMENT.findall(OmegaConf.to_yaml(config))
    return [name for name in dict.fromkeys(asked) if name not in os.environ]


def choices_of(group: str) -> str:
    """A group's choices, as `--help` lists them: files of `conf/`, then modules of any package."""
    files = sorted(path.stem for path in Path(conf_dir(), group).glob("*.yaml"))
    modules = names(MODULE_GROUPS[group].modules) if group in MODULE_GROUPS else ()
    return ", ".join(dict.fromkeys([*files, *modules]))


def stem(path: str) -> str:
    """The name of a folder, whole (`v1.0`), or of a file without its extension."""
    if is_url(str(path)):
        return folder_name(str(path))
    found = Path(os.path.expanduser(str(path))).resolve()  # noqa: PTH111 - pathlib's may raise
    return found.name if found.is_dir() else found.stem


def half_if(is_half: str) -> str:
    """The precision that GPT-SoVITS's `is_half` means: "True" is fp16 on a GPU and fp32 on a CPU.

    Raises:
        ValueError: it is neither "True" nor "False".
    """
    found = str(is_half).strip().lower()
    if found not in ("true", "false"):
        raise ValueError(f"is_half: {is_half!r}; needed True or False")
    return "auto" if found == "true" else "fp32"


def part_index(count: int) -> int:
    """Which of `count` parts of the job a launcher gives this process; 0 without a launcher.

    Raises:
        ValueError: the launcher divides the job into another number of parts.
    """
    found = place(os.environ)
    if found is None:
        return 0
    if found.count not in (None, count):
        raise ValueError(
            f"shard.count={count}, and {found.said}; needed shard.index too, or neither of them"
        )
    return found.index


def part_count() -> int:
    """Into how many parts a launcher divides the job; 1 without a launcher.

    Raises:
        ValueError: the launcher does not say how many.
    """
    found = place(os.environ)
    if found is None:
        return 1
    if found.count is None:
        raise ValueError(f"{found.said}: part of how many is not known; needed shard.count=N")
    return found.count


class _Choice(ConfigNode):
    """A choice that is a module; reading `node` imports it and makes a config of its `Options`."""

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
    """Registers schemas, choices that are modules, and resolvers with Hydra, once a process.

    A choice that is a module needs no YAML. If `conf/GROUP/` has a YAML of the same name, the
    module's options are registered as `schema/GROUP` instead, on which the YAML is built.
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
        "half_if": half_if,
        "part_index": part_index,
        "part_count": part_count,
        "side_by_side": lambda: local_place(os.environ)[1],
    }
    add: Any = OmegaConf.register_new_resolver if HYDRA_1_3 else OmegaConf.register_resolver
    for name, resolver in resolvers.items():
        add(name, resolver, replace=True)
