"""Which exit code a run's summary has."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from extract import exits
from extract.run.summary import Summary

FAILED = Counter({("failed", "missing"): 1})
FINE = Counter({("saved", ""): 3, ("rejected", "silent"): 2})


def summary(**more) -> Summary:
    return Summary(Path("out"), **{"outcomes": FINE} | more)


@pytest.mark.parametrize(
    ("ended", "expected"),
    [
        (summary(), exits.DONE),
        (summary(outcomes=FAILED), exits.SOME_FAILED),
        (summary(earlier=FAILED), exits.SOME_FAILED),
        (summary(not_retried=1), exits.SOME_FAILED),
        (summary(stopped="full"), exits.STORE_UNUSABLE),
        (summary(stopped="full", outcomes=FAILED), exits.STORE_UNUSABLE),
        (summary(stopped="full", num_internal=1), exits.STORE_UNUSABLE),
        (summary(num_internal=1, outcomes=FAILED), exits.CRASHED),
        (summary(interrupted="SIGINT", left=1), exits.INTERRUPTED),
        (summary(interrupted="SIGTERM", left=1, num_internal=1), exits.TERMINATED),
        (summary(interrupted="SIGUSR1", left=None), exits.TERMINATED),
    ],
)
def test_how_a_shard_ended_is_its_exit(ended, expected):
    assert exits.of_run([ended]) == expected


def test_the_worst_shard_is_the_runs_exit():
    interrupted = summary(interrupted="SIGTERM", left=4)
    assert exits.of_run([]) == exits.DONE
    assert exits.of_run([summary(), summary(outcomes=FAILED), summary()]) == exits.SOME_FAILED
    assert exits.of_run([summary(num_internal=1), interrupted]) == exits.TERMINATED


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({}, exits.DONE),
        ({"reasons": Counter(missing=1, too_long=2)}, exits.DONE),
        ({"clashes": ["a pair"]}, exits.USAGE),
        ({"refusal": "other settings", "unusable": "full"}, exits.USAGE),
        ({"unusable": "full"}, exits.STORE_UNUSABLE),
        ({"reasons": Counter(internal_error=1), "unusable": "full"}, exits.CRASHED),
    ],
)
def test_a_preflight_has_the_exit_of_the_run(found, expected):
    nothing = {"reasons": Counter(), "clashes": [], "refusal": "", "unusable": ""}
    assert exits.of_preflight(SimpleNamespace(**nothing | found)) == expected


def test_the_codes_stay_what_they_are():
    """Scripts and batch systems know them."""
    found = {name: one.code for name, one in vars(exits).items() if isinstance(one, exits.Exit)}
    assert found == {
        "DONE": 0,
        "SOME_FAILED": 1,
        "STORE_UNUSABLE": 1,
        "NO_MEMORY": 1,
        "UNREADABLE": 1,
        "USAGE": 2,
        "CRASHED": 70,
        "INTERRUPTED": 130,
        "TERMINATED": 143,
    }
