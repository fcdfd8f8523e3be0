"""What Hydra composes configs of: the folder `conf/`, schemas, modules' options, resolvers."""

from __future__ import annotations

import argparse
import functools
import os
import pkgutil
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import hydra
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigNode, ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from extract.choices import names
from extract.config import MODULE_GROUPS, SCHEMAS
from extract.launchers import local_place, place
from extract.options import options, schema_of
from extract.run_name import run_name
from extract.text import typed
from extract.urls import folder_name, is_url
from extract.words import apart, quoted

_ENVIRONMENT = re.compile(r"\$\{oc\.env:(\w+)\}")  # without a default
PACKAGE = Path(__file__).resolve().parent
# Hydra 1.4 and its OmegaConf 2.4 warn of arguments and names that 1.3 and 2.3 need.
HYDRA_1_3 = hydra.__version__.startswith("1.3.")
VERSION_BASE = {"version_base": "1.3"} if HYDRA_1_3 else {}
INTERNAL = ("hydra", "schema")  # groups that no command line chooses from
COMMAND_LINE = "the command line"
WIDTH = 80  # columns of `--help`
_BLANK = "\N{NO-BREAK SPACE}"  # where no line of `--help` may end


def conf_dir() -> str:
    """The folder `conf/`: inside the installed package, or beside the package in a checkout."""
    installed = PACKAGE / "conf"
    return str(installed if installed.is_dir() else PACKAGE.parent / "conf")


def not_set(config: DictConfig) -> list[str]:
    """Environment variables that a config asks for, `${oc.env:NAME}`, and that are not there."""
    # No YAML: that of OmegaConf 2.4 holds no name that is no Unicode.
    asked = _ENVIRONMENT.findall(repr(OmegaConf.to_container(config)))
    return [name for name in dict.fromkeys(asked) if name not in os.environ]


def choices_help() -> str:
    """Every group with its choices, as `--help` lists them; the default choice is marked.

    Hydra finds them: in `conf/`, among the modules of any package, and in `--config-dir`.
    """
    loader, defaults = GlobalHydra.instance().config_loader(), default_choices()
    others = [group for group in loader.list_groups("") if group not in (*defaults, *INTERNAL)]
    listed = []
    for group in (*defaults, *others):
        marked = (
            f"{choice}{_BLANK}(default)" if choice == defaults.get(group) else choice
            for choice in loader.get_group_options(group)
        )
        listed.append(_wrapped(", ".join(marked), f"  {group}".ljust(13)))
    return "\n".join(listed)


def default_choices() -> dict[str, str | None]:
    """Each group in the defaults list of `conf/config.yaml` with its default choice, in order."""
    config = OmegaConf.load(Path(conf_dir(), "config.yaml"))
    defaults = OmegaConf.to_container(config.defaults, resolve=True)
    assert isinstance(defaults, list)
    pairs = [pair for one in defaults if isinstance(one, dict) for pair in one.items()]
    return {group: choice for group, choice in pairs if group.isidentifier()}  # no `override ...`


def options_help() -> str:
    """The options of no group that has choices, each with its default, as `--help` lists them."""
    groups = tuple(f"{group}." for group in default_choices())
    words = (
        f"{name}={typed(option.default)}"
        for name, option in options().items()
        if not name.startswith(groups)
    )
    return _wrapped(" ".join(words), "  ")


def chosen_by(words: Sequence[str]) -> str:
    """Each group's choice and what chose it, then the options typed: what `--info` begins with.

    Args:
        words: of the command line, as Hydra takes them (`extract.words.prepared`).

    Raises:
        HydraException: they cannot be composed.
    """
    overrides, flags = apart(words)
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--config-name", "-cn", default="config")
    parser.add_argument("--config-dir", "-cd")
    known, _others = parser.parse_known_args(flags)
    if known.config_dir:
        folder = quoted(f"file://{Path(known.config_dir).absolute()}")
        overrides.append(f"hydra.searchpath=[{folder}]")
    with initialize_config_dir(conf_dir(), **VERSION_BASE):
        loader = GlobalHydra.instance().config_loader()
        found = loader.compute_defaults_list(known.config_name, overrides, RunMode.RUN)
    choices, overridden = found.overrides.known_choices, found.overrides.override_metadata
    lines = [f"{'group':12} {'choice':24} chosen by", ""]
    for group in default_choices():
        if choice := choices.get(group):
            by = overridden.get(group)
            where = by.containing_config_path if by else f"{known.config_name}, by default"
            lines.append(f"{group:12} {choice:24} {where or COMMAND_LINE}")
    typed_in = (one.input_line for one in found.config_overrides)
    options = [line for line in typed_in if line and not line.startswith("hydra.searchpath=")]
    return "\n".join([*lines, *(f"{line:37} {COMMAND_LINE}" for line in options)]) + "\n"


def commands_help() -> str:
    """The commands beside the run, as `--help` lists them."""
    modules = pkgutil.iter_modules([str(PACKAGE / "commands")])
    return _wrapped(", ".join(module.name for module in modules), "  ")


def _wrapped(text: str, head: str) -> str:
    """`text` behind `head`, in lines of at most `WIDTH` columns."""
    lines = textwrap.wrap(
        text,
        WIDTH,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines).replace(_BLANK, " ")


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
        "choices_help": choices_help,
        "options_help": options_help,
        "commands_help": commands_help,
        "half_if": half_if,
        "part_index": part_index,
        "part_count": part_count,
        "side_by_side": lambda: local_place(os.environ)[1],
    }
    add: Any = OmegaConf.register_new_resolver if HYDRA_1_3 else OmegaConf.register_resolver
    for name, resolver in resolvers.items():
        add(name, resolver, replace=True)
