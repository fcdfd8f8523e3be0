"""Quotes the words of the command line for Hydra, so that a path works as the shell gives it.

Hydra reads `key=value` with a grammar of its own, in which `a(1)`, `it's` and `émile` are errors
and `2024_11_25` is a number. Values of options that take text are quoted before Hydra sees them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from extract.config import MODULE_GROUPS, PRESET
from extract.options import is_of_a_choice, is_text, option_named

# Hydra's options that take the next word.
TAKES_A_WORD = {
    *("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn"),
    *("--config-dir", "-cd", "--experimental-rerun"),
}
# Hydra's prefix (add, force, delete), then a name, then the value: `++model.path=DIR`.
OVERRIDE = re.compile(r"(?P<head>(?:\+\+?|~)?(?P<name>[^=]*)=)(?P<value>.*)", re.DOTALL)
# Hydra's options that show something in place of a run.
SHOWS_HELP, SHOWS_INFO = {"--help", "-h"}, {"--info", "-i"}
SHOWS_CONFIG = {"--cfg", "-c", *SHOWS_INFO}
QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
KEPT = re.compile(
    rf"{QUOTED}|null", re.DOTALL | re.IGNORECASE
)  # left to Hydra: quoted already, or `null`
# A comma in ${...} separates nothing; one may stand in another: ${stem:${dataset.path}}.
INTERPOLATION = r"\$\{(?:[^{}]|\{[^{}]*\})*\}"
ONE_OF_A_SWEEP = re.compile(
    rf"[ \t]*((?:{QUOTED})(?=[ \t]*(?:,|\Z))|(?:{INTERPOLATION}|[^,])*?)[ \t]*(,|\Z)", re.DOTALL
)
IN_BRACKETS = re.compile(rf"{QUOTED}|\[[^\]]*\]|{INTERPOLATION}", re.DOTALL)
IS_SWEPT = re.compile(r",|\A\w+\(")  # `1,2` and `range(1,3)`


def prepared(words: Iterable[str]) -> list[str]:
    """The words as Hydra takes them: first `key=value`, text in quotes, then Hydra's own options.

    In that order because argparse refuses `key=value` on both sides of `-m`.
    """
    overrides, flags = apart(words)
    sweep, chosen = is_sweep([*overrides, *flags]), _chosen(overrides)
    return [_for_hydra(word, sweep, chosen) for word in overrides] + flags


def is_sweep(words: Iterable[str]) -> bool:
    """Whether Hydra is asked for a sweep; argparse takes the beginning of `--multirun` for it."""
    return any(
        word in ("-m", "hydra.mode=MULTIRUN") or (len(word) > 2 and "--multirun".startswith(word))
        for word in words
    )


def is_asked(words: Iterable[str], names: Iterable[str]) -> bool:
    """Whether a word has one of the names: `--cfg`, `--cfg=job`, `dataset=demo`."""
    return not {word.partition("=")[0] for word in words}.isdisjoint(names)


def chooses_dataset(words: Iterable[str]) -> bool:
    """Whether a dataset is chosen: by an override, a preset, or a config that is named."""
    return is_asked(words, {"dataset", PRESET, "--config-name", "-cn"})


def quoted(text: str) -> str:
    r"""`text` in Hydra's quotes, where a backslash is an escape only before a quote or the end."""
    escaped = re.sub(r"(\\*)('|\Z)", lambda m: 2 * m[1] + ("\\'" if m[2] else ""), text)
    return f"'{escaped}'"


def apart(words: Iterable[str]) -> tuple[list[str], list[str]]:
    """The `key=value` words, and all others, each kind in its order."""
    overrides: list[str] = []
    flags: list[str] = []
    taken = False  # whether the option before this word takes it
    for word in words:
        is_override = word[:1] == "~" or (word[:1] != "-" and "=" in word)
        (overrides if is_override and not taken else flags).append(word)
        taken = not taken and word in TAKES_A_WORD
    return overrides, flags


def _chosen(overrides: Iterable[str]) -> list[tuple[str, str]]:
    """The choices in the overrides: `[("dataset", "folder")]`; in a sweep several of a group."""
    found = (OVERRIDE.fullmatch(word) for word in overrides)
    return [
        (override["name"], choice.strip())
        for override in found
        if override and override["name"] in (*MODULE_GROUPS, PRESET)
        for choice in override["value"].split(",")
    ]


def _for_hydra(word: str, sweep: bool, chosen: Sequence[tuple[str, str]]) -> str:
    """A `key=value` with its value quoted, if the option takes text and nothing else."""
    override = OVERRIDE.fullmatch(word)
    option = option_named(override["name"], chosen) if override else None
    if override is None or option is None:
        return word
    value = override["value"]
    if is_text(option):
        values = _one_by_one(value) if sweep else [value]
        value = ",".join(one if KEPT.fullmatch(one) else quoted(one) for one in values)
    if sweep and _needs_choice(override["name"], value, chosen):
        value = f"choice({value})"
    return override["head"] + value


def _needs_choice(name: str, value: str, chosen: Sequence[tuple[str, str]]) -> bool:
    """Whether a sweep's fixed value must be written as `choice(VALUE)`, a sweep over one value.

    Before the jobs of a sweep, Hydra composes a config without the overrides that are swept over.
    In a sweep over choices, `dataset=folder,mydata`, that config has the group's default choice,
    which may lack the option: Hydra would refuse a fixed value for it. A preset makes choices too.
    """
    group = name.partition(".")[0]
    is_swept = any(sum(of == swept for of, _choice in chosen) > 1 for swept in (group, PRESET))
    return is_swept and is_of_a_choice(name) and not IS_SWEPT.search(IN_BRACKETS.sub("", value))


def _one_by_one(value: str) -> list[str]:
    """The values that commas separate in a sweep, without the blanks around them."""
    values = []
    for match in ONE_OF_A_SWEEP.finditer(value):
        values.append(match[1])
        if not match[2]:  # the end; finditer would find an empty value behind it
            break
    return values
