"""The README says what is so."""

import re
from pathlib import Path

import pytest
import test_damage
import test_faults
import test_opening
from conftest import fault_row

from extract.config import Config
from extract.ledger import REASONS

README = (Path(__file__).parents[1] / "README.md").read_text("utf8")
FAULT_TESTS = [
    marker
    for module in (test_faults, test_opening, test_damage)
    for name, test in vars(module).items()
    if name.startswith("test_")
    for marker in getattr(test, "pytestmark", [])
    if marker.name == "fault"
]


def test_the_fault_table_is_the_one_the_tests_write():
    assert len(FAULT_TESTS) >= 12
    table = README.split("## Faults")[1].split("## Options")[0]
    rows = [line for line in table.splitlines() if line.endswith("| nothing |")]
    assert sorted(rows) == sorted(map(fault_row, FAULT_TESTS))


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
