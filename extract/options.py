"""What the schema says of each option by its name on the command line, `audio.alpha`."""

from __future__ import annotations

import functools
import os
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from operator import attrgetter
from typing import Any, Union, get_args, get_origin, get_type_hints

from extract.config import ORDERED, Config
from extract.fields import Range


@dataclass(frozen=True)
class Option:
    """A field of a schema; its type is never a string."""

    name: str
    type: Any
    default: Any
    metadata: Mapping[str, Any]


@functools.cache
def options(schema: type = Config) -> dict[str, Option]:
    """Every option of the schema, by its name: `{"dataset.path": Field, ..., "seed": Field}`."""
    return dict(_options(schema, ""))


def _options(schema: type, prefix: str) -> Iterator[tuple[str, Option]]:
    for option in fields_of(schema):
        if is_dataclass(option.type):
            yield from _options(option.type, f"{prefix}{option.name}.")  # type: ignore[arg-type]
        else:
            yield prefix + option.name, option


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
    """Refuses numbers that no run can mean.

    Raises:
        ValueError: names the option, its value, and the range.
    """
    for name, option in options().items():
        if is_number(option):
            _check_number(name, option, attrgetter(name)(config))
    for smaller, in_order, larger, needed in ORDERED:
        values = attrgetter(smaller, larger)(config)
        if not in_order(*values):
            found = " ".join(map("{}={}".format, (smaller, larger), values))
            raise ValueError(f"{found}; needed {needed}")


def _check_number(name: str, option: Option, value: Any) -> None:
    if value == option.default:  # also `auto` and null
        return
    allowed: Range = option.metadata["range"]
    needed = f"{allowed} or {option.default}" if isinstance(option.default, str) else str(allowed)
    try:
        number = value if isinstance(value, int | float) else _parsed(value, option)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: {value!r}; needed {needed}") from None
    if number not in allowed:
        raise ValueError(f"{name}: {value!r}; needed {needed}")


def _parsed(text: str, option: Option) -> float:
    """A number that came as text, as `${oc.env:SLURM_CPUS_PER_TASK}` does."""
    return float(text) if float in kinds(option) else int(text)


def expand_home(config: Config) -> None:
    """Puts the home folder for `~` in every option that names a file or folder."""
    for name, option in options().items():
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


def run_name(config: Any) -> str:
    """Name of a run's folder: the model and every setting of its features that is not a default.

    `maxx` and `alpha` are always said, since they are what sweeps are about:
    `hubert_base-layer9-maxx0.95-alpha0.3`. Settings of different features have different names.
    """
    parts = [config.model.name]
    named = [name for name in options() if not name.startswith(NOT_IN_NAME)]
    for name in sorted(named, key=lambda name: name.startswith("audio.")):
        value, default = attrgetter(name)(config), options()[name].default
        if value != default or name in ALWAYS_NAMED:
            parts.append(_part(name.rpartition(".")[2], value))
    return "-".join(parts)


def _part(key: str, value: Any) -> str:
    """A setting in a folder's name: `alpha0.3`, `layer9`; for a choice only what is chosen."""
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{key}{value:g}"
    return f"{key}{value}".replace("/", "_")
