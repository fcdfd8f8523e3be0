"""Makes docs/options.md out of the schema: `python tests/support/options_page.py`.

The schema's types, defaults and ranges become columns, its comments and the docstrings of its
choices the text. The first line of a file in `conf/`, or of a module, says what that choice is.
"""

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Container, Iterator
from dataclasses import is_dataclass
from enum import Enum
from pathlib import Path

from extract import choices
from extract.config import MODULE_GROUPS, ONLY_WITH, ORDERED, PRESET, Config
from extract.fields import MISSING
from extract.hydra_setup import conf_dir
from extract.options import Option, fields_of, is_number, kinds, schema_of

PAGE = Path(__file__).parents[2] / "docs" / "options.md"
HEAD = """\
# Options

<!-- Made from the schema by `python tests/support/options_page.py`; a test compares the two. -->

Every option is a `key=value` on the command line; `python -m extract --cfg job` lists them with
the values they have, and `--help` the choices. The groups `dataset`, `model`, `audio`, `store`,
`quantizer` and `report` take a choice too: `dataset=folder`. A `preset` makes all choices at once,
as another tool has them, and gives way to whatever else the command line says. A wrong key, type,
choice or number stops before any work, with exit code 2. `--info defaults` says what chose each
choice: the command line, a preset, or the default. TAB completes all of it in bash, after
`eval "$(python -m extract -sc install=bash)"`.

A path works as the shell gives it: `dataset.path=a(1)` needs no quotes for Hydra, and `~` is the
home folder. Within a [sweep](sweeps.md) a comma separates values, unless the value is in quotes:
`dataset.path="'a,b'"`. `null` is no value, and `???` is OmegaConf's word for a missing one.
"""
CHOOSES = "## Choices"
TYPES = {int: "whole number", float: "number", str: "text", bool: "`true`, `false`"}
COMMAND = re.compile(r"((?:python -m extract )?\b[\w.]+=[\w.]+(?: [\w.]+=[\w.]+)*)")
WORDS = {None: "`null`", True: "`true`", False: "`false`"}


def page() -> str:
    """The page's text."""
    parts = [HEAD, CHOOSES, "", *_choices(), "", "## Every option", ""]
    groups = [option for option in fields_of(Config) if is_dataclass(option.type)]
    for group in groups:
        summary = _first_paragraph(group.type)
        parts += [f"### `{group.name}`", "", summary, "", *_table(group.type, f"{group.name}."), ""]
        parts += _tables_of_choices(group)
    parts += ["### The run itself", "", *_table(Config, ""), ""]
    rules = "; ".join(f"`{one}` and `{two}`: `{rule}`" for one, _ok, two, rule in ORDERED)
    parts += [f"Options that bound each other: {rules}.", ""]
    idle = "; ".join(f"`{name}` with `{of}={value.name}`" for name, of, value in ONLY_WITH)
    parts += [
        f"Options that are refused where they would change nothing, and have an effect: {idle}."
    ]
    return "\n".join(parts) + "\n"


def _choices() -> Iterator[str]:
    yield "| choice | what |"
    yield "|---|---|"
    groups = [option.name for option in fields_of(Config) if is_dataclass(option.type)]
    for group in [*groups, PRESET]:
        said = _said_of(group)
        for choice, what in sorted(said.items()) if len(said) > 1 else []:
            what = COMMAND.sub(r"`\1`", what)
            yield f"| `{group}={choice}` | {_cell(what)} |"


def _said_of(group: str) -> dict[str, str]:
    """What each choice of a group is: the first line of its module, or of its file in `conf/`."""
    said = {}
    for choice in choices.own(MODULE_GROUPS[group].modules) if group in MODULE_GROUPS else ():
        module = sys.modules[schema_of(group, choice).__module__]
        said[choice] = (inspect.getdoc(module) or "").splitlines()[0].removesuffix(".")
    for file in Path(conf_dir(), group).glob("*.yaml"):
        for line in file.read_text("utf8").splitlines():
            if line.startswith("# ") and "@package" not in line:
                said[file.stem] = line[2:]
                break
        else:
            said.setdefault(file.stem, "")
    return said


def _tables_of_choices(group: Option) -> Iterator[str]:
    """The options that a choice's own schema adds to the group's, in a table for each choice."""
    modules = MODULE_GROUPS.get(group.name)
    for choice in choices.own(modules.modules) if modules else ():
        schema = schema_of(group.name, choice)
        if own := {option.name for option in fields_of(schema)} - set(vars(group.type())):
            yield from (f"With `{group.name}={choice}`:", "")
            yield from (*_table(schema, f"{group.name}.", own), "")


def _table(schema: type, prefix: str, only: Container[str] | None = None) -> Iterator[str]:
    yield "| option | default | values | what |"
    yield "|---|---|---|---|"
    comments = _comments(schema)
    for option in fields_of(schema):
        if not is_dataclass(option.type) and (only is None or option.name in only):
            cells = _default(option, prefix), _values(option), _what(option, comments)
            yield f"| `{prefix}{option.name}` | {' | '.join(map(_cell, cells))} |"


def _default(option: Option, prefix: str) -> str:
    default = option.default
    if default == MISSING:
        has_choices = len(_said_of(prefix.strip("."))) > 1
        return "by the choice" if has_choices else "by the settings"
    if default is None or isinstance(default, bool):
        return WORDS[default]
    if isinstance(default, Enum):
        return f"`{default.name}`"
    if isinstance(default, tuple):  # as the command line takes it
        return f"`[{','.join(map(str, default))}]`"
    return f"{default:g}" if isinstance(default, int | float) else f"`{default}`"


def _values(option: Option) -> str:
    """What an option takes: `whole number, 0 to 1024, or auto`."""
    found = kinds(option) - {type(None)}
    if "check" in option.metadata:
        return option.metadata["check"].needed + ", or `null`" * (option.default is None)
    [*others] = sorted((kind for kind in found if kind is not str), key=str)
    if option.type == tuple[int, int]:
        said = [f"two whole numbers, {option.metadata['range']}"]
    elif is_number(option):
        whole = "whole number" if others == [int] else "number"
        allowed = str(option.metadata["range"]).removesuffix(", and finite")
        said = [f"{whole}, {allowed}"] + ["`auto`"] * (str in found)
    elif isinstance(option.type, type) and issubclass(option.type, Enum):
        said = [", ".join(f"`{choice.name}`" for choice in option.type)]
    elif option.metadata.get("path"):
        said = ["path"]
    else:
        said = [TYPES.get(kind, "list of text") for kind in found]
    return ", or ".join(said + ["`null`"] * (type(None) in kinds(option)))


def _what(option: Option, comments: dict[str, str]) -> str:
    docs = [comments[option.name]] if option.name in comments else []
    if isinstance(option.type, type) and issubclass(option.type, Enum):
        docs.append(inspect.getdoc(option.type) or "")
    text = " ".join(" ".join(docs).split())
    return text[:1].upper() + text[1:].removesuffix("." * (not text.endswith("...")))


def _first_paragraph(schema: type) -> str:
    text = " ".join((inspect.getdoc(schema) or "").split("\n\n")[0].split())
    return re.sub(r" See `.*`\.", "", text)


def _comments(schema: type) -> dict[str, str]:
    """A dataclass's field comments: behind a field, or in the lines above it."""
    source = textwrap.dedent(inspect.getsource(schema))
    lines = source.splitlines()
    found = {}
    for node in ast.parse(source).body[0].body:
        if isinstance(node, ast.AnnAssign):
            assert node.end_lineno
            behind = lines[node.end_lineno - 1].encode()[node.end_col_offset :].decode()
            start = node.lineno - 1
            while lines[start - 1].lstrip().startswith("# "):
                start -= 1
            above = lines[start : node.lineno - 1]
            if text := [line.strip().removeprefix("#").strip() for line in [*above, behind]]:
                found[node.target.id] = " ".join(text).strip()
    return {name: text for name, text in found.items() if text}


def _cell(text: str) -> str:
    """`text` in a table's cell, where a bar would end it."""
    return re.sub(r"(?<!\\)\|", r"\|", text)


if __name__ == "__main__":
    PAGE.write_text(page(), "utf8")
