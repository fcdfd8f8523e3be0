"""What the schema says of each option by its name on the command line, `audio.alpha`."""

from __future__ import annotations

import functools
import os
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from operator import attrgetter
from typing import Any, Union, get_args, get_origin, get_type_hints

from extract import choices
from extract.config import DOCKS, ONLY_WITH, ORDERED, Config
from extract.fields import MISSING, Range


@dataclass(frozen=True)
class Option:
    """A field of a schema; its type is never a string."""

    name: str
    type: Any
    default: Any
    metadata: Mapping[str, Any]


class ChoiceError(ValueError):
    """There is no such choice, or its module cannot be used."""


@functools.cache
def schema_of(group: str, choice: str) -> type:
    """The schema of a group whose choices are modules: the class `Options` of one of them.

    Raises:
        ChoiceError: there is no such choice, or it has no such class.
    """
    try:
        module = choices.find(DOCKS[group].modules, choice)
    except ValueError as error:
        raise ChoiceError(str(error)) from error
    schema = getattr(module, "Options", None)
    if not (isinstance(schema, type) and is_dataclass(schema)):
        raise ChoiceError(f"{choice}: {module.__name__} has no dataclass `Options`; needed one")
    return schema


@functools.cache
def options() -> dict[str, Option]:
    """Every option of this package, by its name: `{"dataset.path": Option, ..., "seed": Option}`.

    Those of its own choices are among them: of two with one name the first.
    """
    found: dict[str, Option] = {}
    for option in fields_of(Config):
        found |= _options(option.type, f"{option.name}.") or {option.name: option}
        for choice in choices.own(DOCKS[option.name].modules) if option.name in DOCKS else ():
            found = _options(schema_of(option.name, choice), f"{option.name}.") | found
    return found


def options_of(config: Any, type_of: Callable[[Any], Any] = type) -> dict[str, Option]:
    """The options of a config, those of the choices that were made among them.

    Args:
        config: a `Config`, or what becomes one.
        type_of: returns the schema that a group of `config` is made of.
    """
    found: dict[str, Option] = {}
    for option in fields_of(Config):
        schema = type_of(getattr(config, option.name)) if is_dataclass(option.type) else None
        found |= _options(schema, f"{option.name}.") or {option.name: option}
    return found


def option_named(name: str, chosen: Iterable[tuple[str, str]] = ()) -> Option | None:
    """The option of that name, and of the choices made: `chosen` holds `("dataset", "folder")`.

    Where no module was chosen, but a file of `conf/`, any that has such an option stands for it:
    this package's own before others, which are only loaded if need be.

    Raises:
        ChoiceError: a module that was chosen cannot be used.
    """
    group = name.partition(".")[0]
    if group not in DOCKS:
        return options().get(name)
    modules = DOCKS[group].modules
    there = choices.names(modules)
    asked = [choice for of, choice in chosen if of == group and choice in there]
    for choice in asked or (*choices.own(modules), *there):
        try:
            schema = schema_of(group, choice)
        except Exception:  # another package's fault, which costs only those that choose it
            if asked:
                raise
            continue
        if option := _options(schema, f"{group}.").get(name):
            return option
    return _options(Config, "").get(name)


def is_of_a_choice(name: str) -> bool:
    """Whether the choices of the option's group need not all have that option."""
    return name.partition(".")[0] in DOCKS and name not in _options(Config, "")


@functools.cache
def _options(schema: Any, prefix: str) -> dict[str, Option]:
    """The options of a schema by their names; none where it is no dataclass."""
    found: dict[str, Option] = {}
    for option in fields_of(schema) if isinstance(schema, type) and is_dataclass(schema) else ():
        name = prefix + option.name
        found |= _options(option.type, f"{name}.") or {name: option}
    return found


def fields_of(schema: type) -> list[Option]:
    """The schema's fields, groups among them."""
    types = get_type_hints(schema)
    return [
        Option(field.name, types[field.name], field.default, field.metadata)
        for field in fields(schema)
    ]


def kinds(option: Option) -> set[Any]:
    """The types that an option's value may have: `{str, NoneType}` for `str | None`."""
    is_union = get_origin(option.type) in (Union, types.UnionType)
    return set(get_args(option.type)) if is_union else {option.type}


def is_text(option: Option) -> bool:
    """Whether an option takes text and nothing else: a path, a name, an id."""
    return kinds(option) - {type(None)} == {str}


def is_number(option: Option) -> bool:
    """Whether an option takes numbers, perhaps beside a word such as `auto`."""
    return bool(kinds(option) & {int, float})


def check(config: Config) -> None:
    """Refuses numbers that no run can mean, and the name of a choice whose options are not there.

    Raises:
        ValueError: names the option, its value, and the range.
    """
    for group, dock in DOCKS.items():
        _check_choice(group, dock.key, getattr(config, group, None))
    for name, option in options_of(config).items():
        value = attrgetter(name)(config)
        for one in value if isinstance(value, tuple) else [value] * is_number(option):
            _check_number(name, option, one)
    for smaller, in_order, larger, needed in ORDERED:
        values = attrgetter(smaller, larger)(config)
        if not in_order(*values):
            found = " ".join(map("{}={}".format, (smaller, larger), values))
            raise ValueError(f"{found}; needed {needed}")
    for name, owner, value in ONLY_WITH:
        if not has_effect(name, config) and attrgetter(name)(config) != options()[name].default:
            raise ValueError(
                f"{name}={attrgetter(name)(config)}: it has no effect with "
                f"{owner}={attrgetter(owner)(config).name}; needed {owner}={value.name}, or "
                f"{name} left out"
            )


def has_effect(name: str, config: Any) -> bool:
    """Whether an option can change anything, by the options that it depends on."""
    return all(
        attrgetter(owner)(config) is value for option, owner, value in ONLY_WITH if option == name
    )


def _check_choice(group: str, key: str, values: Any) -> None:
    choice = getattr(values, key, MISSING)
    if choice == MISSING:
        return
    try:
        needed = {option.name for option in fields_of(schema_of(group, choice))}
    except ChoiceError as error:
        raise ChoiceError(f"{group}.{key}: {error}") from error
    if not needed <= vars(values).keys():
        found = f"{group}.{key}: {choice!r} with the options of another choice"
        raise ValueError(f"{found}; needed {group}={choice}")


def _check_number(name: str, option: Option, value: Any) -> None:
    allowed: Range | None = option.metadata.get("range")
    if allowed is None or value == option.default or _is_null(value, option):  # also `auto`
        return
    needed = f"{allowed} or {option.default}" if isinstance(option.default, str) else str(allowed)
    try:
        number = value if isinstance(value, int | float) else _parsed(value, option)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: {value!r}; needed {needed}") from None
    if number not in allowed:
        raise ValueError(f"{name}: {value!r}; needed {needed}")


def _is_null(value: Any, option: Option) -> bool:
    return value is None and type(None) in kinds(option)


def _parsed(text: str, option: Option) -> float:
    """A number that came as text, as `${oc.env:SLURM_CPUS_PER_TASK}` does."""
    return float(text) if float in kinds(option) else int(text)


def expand_home(config: Config) -> None:
    """Puts the home folder for `~` in every option that names a file or folder."""
    for name, option in options_of(config).items():
        if option.metadata.get("path"):
            group, _, key = name.rpartition(".")
            owner = attrgetter(group)(config)
            value = getattr(owner, key)
            if value is not None:
                setattr(owner, key, os.path.expanduser(value))  # noqa: PTH111 - pathlib's may raise


# Options that change no saved number, or that the output folder's name holds already. Every other
# one is part of a run's name: a new option too.
NOT_IN_NAME = (
    *("dataset.", "model.name", "model.path", "loader.", "shard.", "engine.", "device"),
    *("store.dir", "store.num_writers", "store.fsync", "store.verify"),
    *("cpu_fallback", "retry_failed", "overwrite"),
)
ALWAYS_NAMED = ("audio.maxx", "audio.alpha")


def run_name(config: Any, type_of: Callable[[Any], Any] = type) -> str:
    """Name of a run's folder: the model and every setting of its features that is not a default.

    `maxx` and `alpha` are always said, since they are what sweeps are about:
    `hubert_base-layer9-maxx0.95-alpha0.3`. Settings of different features have different names.
    """
    parts = [config.model.name]
    known = options_of(config, type_of)
    named = [name for name in known if not name.startswith(NOT_IN_NAME)]
    for name in sorted(named, key=lambda name: name.startswith("audio.")):
        value, default = attrgetter(name)(config), known[name].default
        if value != default or (name in ALWAYS_NAMED and has_effect(name, config)):
            parts.append(_part(name.rpartition(".")[2], value))
    return "-".join(parts)


def _part(key: str, value: Any) -> str:
    """A setting in a folder's name: `alpha0.3`, `layer9`; for a choice only what is chosen."""
    if value is None or (isinstance(value, Enum) and value.name == "none"):
        return f"{key}_none"
    if isinstance(value, Enum):
        return value.name
    if not isinstance(value, str) and isinstance(value, Sequence):
        return key + "_".join(map(str, value))
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{key}{value:g}"
    return f"{key}{value}".replace("/", "_")
