"""The README says what is so."""

import re
from pathlib import Path

import pytest

import test_faults
from conftest import fault_row
from extract.ledger import REASONS

README = (Path(__file__).parents[1] / "README.md").read_text("utf8")
FAULT_TESTS = [
    marker
    for name, test in vars(test_faults).items()
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


@pytest.mark.parametrize("option", sorted(set(re.findall(r"`((?:\w+\.)?\w+)=\w+`", README))))
def test_every_option_named_exists(option):
    from dataclasses import fields

    from extract.config import SCHEMAS, Config

    group, _, key = option.rpartition(".")
    schema = SCHEMAS[group] if group in SCHEMAS else Config
    if group == "shard":
        from extract.config import ShardConfig as schema  # noqa: N813
    assert key in {some.name for some in fields(schema)}
