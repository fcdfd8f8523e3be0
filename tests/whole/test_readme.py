"""The README says what is so."""

import re
from enum import Enum
from pathlib import Path

import pytest
from omegaconf import MISSING

from extract.app import conf_dir
from extract.config import Config
from extract.options import options
from extract.store.ledger import REASONS
from support.faults import fault_row, faults

README = (Path(__file__).parents[2] / "README.md").read_text("utf8")


def test_the_fault_table_is_the_one_the_tests_write():
    assert len(faults()) >= 12
    table = README.split("## Faults")[1].split("## Options")[0]
    rows = [line for line in table.splitlines() if line.endswith("| nothing |")]
    assert sorted(rows) == sorted(fault_row(*fault) for fault in faults())


def test_every_reason_is_named_and_no_other():
    table = README.split("## The ledger")[1].split("## On-the-fly")[0]
    for status in ("rejected", "failed"):
        row = next(line for line in table.splitlines() if line.startswith(f"| `{status}`"))
        named = set(re.findall(r"`(\w+)`", row)) - {status}
        assert named == {reason for reason, its in REASONS.items() if its == status}


OPTIONS = sorted(set(re.findall(r"\b((?:audio|loader|store|shard|dataset|model)\.\w+)", README)))


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_named_exists(option):
    group, key = option.split(".")
    assert hasattr(getattr(Config(), group), key)


def cells(heading):
    """The rows of the table of options below `heading`, each as a list of cells."""
    table = README.split("## Options")[1].split(heading)[1].split("\n\n")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]


def shown(default):
    """A default of the schema as the README writes it; None: it is said in words."""
    if default == MISSING:
        return None
    if default is None or isinstance(default, bool):
        return {None: "`null`", True: "true", False: "false"}[default]
    if isinstance(default, Enum):
        return f"`{default.name}`"
    return f"{default:g}" if isinstance(default, int | float) else f"`{default}`"


def test_the_table_of_options_has_every_option_with_its_default_and_no_other():
    table = {}
    for names, defaults, _text in cells("| option | default | |"):
        names, defaults = names.split(", "), defaults.split(", ")
        table |= dict(zip((name.strip("`") for name in names), defaults, strict=True))
    said_in_words = {name: text for name, text in table.items() if text.startswith("by ")}
    expected = {name: shown(option.default) for name, option in options().items()}
    assert table == expected | {k: said_in_words.get(k) for k, v in expected.items() if v is None}
    assert {name for name, text in expected.items() if text is None} == set(said_in_words)


def test_the_table_of_choices_has_every_choice_and_no_other():
    group, found = "", set()
    for first, choices, _text in cells("| group | choices | |"):
        group = first.strip("`") or group
        found |= {(group, choice.strip("`")) for choice in choices.split(", ")}
    groups = {"dataset", "model"}  # the others have one choice each
    there = {(path.parent.name, path.stem) for path in Path(conf_dir()).glob("*/*.yaml")}
    assert found == {choice for choice in there if choice[0] in groups}
    assert {choice for choice in there if choice[0] not in groups} == {
        *[("audio", "default"), ("loader", "default"), ("store", "default")]
    }
