"""Looks up options by their names on the command line, `audio.alpha`, and checks their values."""

from __future__ import annotations

import functools
import os
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from operator import attrgetter
from typing import Any, Union, get_args, get_origin, get_type_hints

from extract import choices
from extract.config import MODULE_GROUPS, ONLY_WITH, ORDERED, Config, StartMethod
from extract.fields import MISSING, Check, Range
from extract.machine import start_methods
from extract.text import shortened


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
        module = choices.find(MODULE_GROUPS[group].modules, choice)
    except ValueError as error:
        raise ChoiceError(str(error)) from error
    schema = getattr(module, "Options", None)
    if not (isinstance(schema, type) and is_dataclass(schema)):
        raise ChoiceError(f"{choice}: {module.__name__} has no dataclass `Options`; needed one")
    return schema


@functools.cache
def options() -> dict[str, Option]:
    """Every option of this package, by its name: `{"dataset.path": Option, ..., "seed": Option}`.

    The options of its own choices are among them; if two choices have an option of the same name,
    the first choice's.
    """
    found: dict[str, Option] = {}
    for option in fields_of(Config):
        found |= _options(option.type, f"{option.name}.") or {option.name: option}
        group = MODULE_GROUPS.get(option.name)
        for choice in choices.own(group.modules) if group else ():
            found = _options(schema_of(option.name, choice), f"{option.name}.") | found
    return found


def options_of(config: Any, type_of: Callable[[Any], Any] = type) -> dict[str, Option]:
    """The options of a config, including those of the choices made in it.

    Args:
        config: a `Config`, or the DictConfig that will become one.
        type_of: returns the schema that a group of `config` is made of.
    """
    found: dict[str, Option] = {}
    for option in fields_of(Config):
        schema = type_of(getattr(config, option.name)) if is_dataclass(option.type) else None
        found |= _options(schema, f"{option.name}.") or {option.name: option}
    return found


def option_named(name: str, chosen: Iterable[tuple[str, str]] = ()) -> Option | None:
    """The option of that name in the schemas of the choices made; None if they have no such option.

    If a file of `conf/` was chosen, its module is not known yet, and the first module of the group
    that has such an option is taken: this package's modules first. Other packages' modules are
    imported only if none of those has it.

    Args:
        name: `dataset.path`.
        chosen: the choices made, `("dataset", "folder")`.

    Raises:
        ChoiceError: a module that was chosen cannot be used.
    """
    group = name.partition(".")[0]
    if group not in MODULE_GROUPS:
        return options().get(name)
    modules = MODULE_GROUPS[group].modules
    there = choices.names(modules)
    asked = [choice for of, choice in chosen if of == group and choice in there]
    for choice in asked or (*choices.own(modules), *there):
        try:
            schema = schema_of(group, choice)
        except Exception:  # another package's module may fail in any way
            if asked:
                raise
            continue
        if option := _options(schema, f"{group}.").get(name):
            return option
    return _options(Config, "").get(name)


def is_of_a_choice(name: str) -> bool:
    """Whether only some choices of the option's group have that option."""
    return name.partition(".")[0] in MODULE_GROUPS and name not in _options(Config, "")


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
    """Refuses values that no run can mean, and the name of a choice whose options are not there.

    Raises:
        ValueError: names the option, its value, and what is needed.
    """
    for group, (_modules, key) in MODULE_GROUPS.items():
        _check_choice(group, key, getattr(config, group, None))
    for name, option in options_of(config).items():
        value = attrgetter(name)(config)
        for one in value if isinstance(value, tuple) else [value] * is_number(option):
            _check_number(name, option, one)
        rule: Check | None = option.metadata.get("check")
        if rule is not None and not rule.fits(value):
            raise ValueError(f"{name}: {shortened(repr(value))}; needed {rule.needed}")
    _check_start_method(config.loader.start_method)
    _check_kept(config)
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


def _check_start_method(method: StartMethod) -> None:
    there = [StartMethod.auto.name, *start_methods()]
    if method.name not in there:
        found = f"loader.start_method: {method.name}, which this system has not"
        raise ValueError(f"{found}; needed {' or '.join(there)}")


def _check_kept(config: Config) -> None:
    if not config.features and config.quantizer.kind == "none":
        raise ValueError("features=false with quantizer=none keeps nothing; needed a quantizer")


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
