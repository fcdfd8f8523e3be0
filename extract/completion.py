"""Completion of the command line by TAB: what the shell runs, and what it is answered.

    eval "$(python -m extract -sc install=bash)"

Hydra answers which groups, choices and options there are (`-sc query=bash`). Two things of its own
are replaced here: its script for bash, which knows `python FILE.py` and no `python -m extract`; and
the line that it is asked about, since a line without a dataset does not compose.
"""

from __future__ import annotations

import io
import os
import pkgutil
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import is_dataclass
from enum import Enum
from pathlib import Path

from extract.config import MODULE_GROUPS, PRESET, Config
from extract.options import ChoiceError, fields_of, kinds, option_named
from extract.words import SHOWS_CONFIG, SHOWS_HELP

COMPLETES = {"--shell-completion", "-sc"}
COMMANDS = tuple(
    module.name for module in pkgutil.iter_modules([str(Path(__file__).parent / "commands")])
)
FLAGS = ("--multirun", *(flag for flag in SHOWS_HELP | SHOWS_CONFIG if flag.startswith("--")))
# Groups of Hydra's own and of this package's schemas: no command line chooses from them.
NOT_OFFERED = ("hydra", "schema")

_SCRIPT = r"""_extract_complete() {
    local line=${COMP_LINE:0:COMP_POINT} typed program
    read -ra typed <<< "$line"
    program=("${typed[0]/#\~/$HOME}")
    if [[ ${typed[0]##*/} == python* ]]; then
        [[ ${typed[1]} == -m && ${typed[2]} == extract ]] || return
        program+=(-m extract)
    fi
    local word=${line##*[[:space:]]} IFS=$' \n'
    COMPREPLY=($(COMP_LINE=$line "${program[@]}" -sc query=bash 2> /dev/null))
    if [[ $COMP_WORDBREAKS == *=* ]]; then
        COMPREPLY=("${COMPREPLY[@]#"${word%"${word##*=}"}"}")
    fi
}
complete -o nospace -o bashdefault -o default -F _extract_complete """


def complete(words: Sequence[str], hydra: Callable[[], None]) -> None:
    """Prints what completes the line in `COMP_LINE`, or what the shell needs to ask for that.

    Args:
        words: `-sc` and what is asked for: `install=bash`, `uninstall=bash`, `query=bash`.
        hydra: runs Hydra on `sys.argv`. What is not put right here is its own.
    """
    line = os.environ.get("COMP_LINE")
    if "install=bash" in words:
        sys.stdout.write(script(sys.argv[0]))
    elif "uninstall=bash" in words:
        sys.stdout.write(undo(sys.argv[0]))
    elif line and any(word.startswith("query=") for word in words):
        sys.stdout.write("".join(f"{one}\n" for one in answer(line, hydra)))
    else:
        sys.argv[1:] = words
        hydra()


def answer(line: str, hydra: Callable[[], None]) -> list[str]:
    """The words that the last word of a line may become; none if its choices do not compose."""
    typed, word = typed_words(line)
    own = own_answer(typed, word)
    if own is not None:
        return own
    os.environ |= {"COMP_LINE": line_for_hydra(typed, word), "HYDRA_FULL_ERROR": "1"}
    sys.argv[1:] = ["query=bash", "--shell-completion"]
    out = io.StringIO()
    with suppress(Exception, SystemExit), redirect_stdout(out), redirect_stderr(io.StringIO()):
        hydra()
    offered = [
        f"{one[:-1]}=" if one.endswith(".") and option_named(one[:-1], _chosen(typed)) else one
        for one in out.getvalue().split()
        if word.startswith(NOT_OFFERED) or not one.startswith(NOT_OFFERED)
    ]
    return offered + [one for one in COMMANDS if not typed and one.startswith(word)]


def script(program: str) -> str:
    """What bash evaluates to complete this command; other uses of python get names of files.

    Args:
        program: `sys.argv[0]`, a `.py` for `python -m extract`.
    """
    return f"{_SCRIPT}{_completed(program)}\n"


def undo(program: str) -> str:
    """What bash evaluates to do so no longer."""
    return f"complete -r {_completed(program)}\nunset -f _extract_complete\n"


def _completed(program: str) -> str:
    return "extract python python3" if program.endswith(".py") else "extract"


def typed_words(line: str) -> tuple[list[str], str]:
    """The words behind the command, and the one that is being typed, which may be empty."""
    typed = line.split()
    begin = 3 if Path(typed[0]).name.startswith("python") else 1
    if len(typed) <= begin and not line[-1:].isspace():
        return [], ""
    word = "" if line[-1:].isspace() else typed.pop()
    return typed[begin:], word


def line_for_hydra(words: Sequence[str], word: str) -> str:
    """A line that Hydra can complete: choices alone, one of each group, a dataset among them.

    Values need quotes of Hydra's, and change nothing of what there is to choose from.
    """
    chosen = {group: choice.partition(",")[0] for group, choice in _chosen(words)}
    if not chosen.keys() & {"dataset", PRESET}:
        chosen["dataset"] = "demo"
    return " ".join(["extract", *map("=".join, chosen.items()), word or " "])


def _chosen(words: Iterable[str]) -> list[tuple[str, str]]:
    groups = {PRESET, *(one.name for one in fields_of(Config) if is_dataclass(one.type))}
    pairs = (word.partition("=")[::2] for word in words)
    return [(name, value) for name, value in pairs if name in groups and value]


def own_answer(words: Sequence[str], word: str) -> list[str] | None:
    """What is known of a word without Hydra: a flag, or the values of an option; else None."""
    if words and words[0] in COMMANDS:
        return []  # names of files, by the shell
    if word.startswith("-"):
        return sorted(flag for flag in FLAGS if flag.startswith(word))
    name, separator, _value = word.partition("=")
    if not separator or name in (PRESET, *MODULE_GROUPS):
        return None
    try:
        option = option_named(name, _chosen(words))
    except ChoiceError:
        return []
    if option is None:
        return None
    values = [one.name for kind in kinds(option) for one in _members(kind)]
    values += ["true", "false"] if bool in kinds(option) else []
    return [f"{name}={value}" for value in values if f"{name}={value}".startswith(word)]


def _members(kind: object) -> Iterable[Enum]:
    return kind if isinstance(kind, type) and issubclass(kind, Enum) else ()
