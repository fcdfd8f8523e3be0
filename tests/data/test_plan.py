"""The plan of batches: everyone once, within the budget, little padding, the same everywhere."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extract.data.plan import (
    MAX_BATCH,
    cost_s,
    padding_share,
    plan_batches,
    plan_fingerprint,
    unfinished,
)
from extract.manifest.strings import PackedStrings

DURATIONS = st.lists(st.floats(0, 1e4), max_size=200)


@given(DURATIONS, st.floats(0.1, 1e3))
def test_everyone_is_in_one_batch_and_no_batch_is_above_the_budget(durations, budget):
    batches = plan_batches(durations, budget)
    assert sorted(index for batch in batches for index in batch) == list(range(len(durations)))
    for batch in batches:
        assert 1 <= len(batch) <= MAX_BATCH
        padded = len(batch) * cost_s(np.array(max(durations[index] for index in batch)))
        assert len(batch) == 1 or padded <= budget * (1 + 1e-9)


@given(DURATIONS)
def test_the_longest_come_first_and_equals_keep_their_order(durations):
    order = [index for batch in plan_batches(durations, 60) for index in batch]
    known = [max(durations[index], 1e-3) for index in order]
    assert all(
        (a, -i) >= (b, -j) for a, b, i, j in zip(known, known[1:], order, order[1:], strict=False)
    )


def speech(num: int = 5_000) -> np.ndarray:
    """Durations as a corpus of utterances has them: log-normal, 1 to 20 s."""
    rng = np.random.default_rng(0)
    return np.clip(rng.lognormal(np.log(5), 0.6, num), 1, 20)


@pytest.mark.parametrize("budget", [60, 300])
def test_little_of_a_batch_is_padding(budget):
    seconds = speech()
    share = padding_share(seconds, plan_batches(seconds, budget))
    assert 0 < share <= 0.05
    in_order = np.split(np.arange(5_000), 500)
    assert padding_share(seconds, in_order) > 0.3, "batches in the list's order would be half empty"


def test_batches_are_as_full_as_they_can_be():
    seconds = speech()
    batches = plan_batches(seconds, 60)
    least = cost_s(seconds).sum() / 60
    assert len(batches) <= 1.2 * least


def test_a_plan_follows_what_attention_costs():
    seconds = np.full(1_000, 10.0)
    assert {len(one) for one in plan_batches(seconds, 60, quadratic_s=10.0)[:-1]} == {3}
    assert {len(one) for one in plan_batches(seconds, 60, quadratic_s=1e9)[:-1]} == {5}


def test_the_plan_is_a_function_of_the_durations():
    seconds = speech(500)
    first, second = (plan_batches(given, 60) for given in (seconds, seconds.tolist()))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_an_empty_manifest_has_an_empty_plan():
    assert plan_batches([], 60) == []
    assert padding_share([], []) == 0.0


def test_only_what_is_left_counts_as_padded_or_not():
    left = [np.array([1, 2])]
    assert padding_share([60.0, 4.0, 3.0], left) == pytest.approx(1 / 8)


def fingerprint(plan: list[np.ndarray], ids: list[str]) -> str:
    return plan_fingerprint(plan, PackedStrings.from_iterable(ids))


def test_a_plan_is_known_by_who_shares_a_batch():
    ids = [f"{n}" for n in range(6)]
    plan = [np.array([0, 1]), np.array([2, 3, 4, 5])]
    other = [np.array([0, 1, 2]), np.array([3, 4, 5])]
    assert fingerprint(plan, ids) == fingerprint([batch.copy() for batch in plan], list(ids))
    assert fingerprint(plan, ids) != fingerprint(other, ids)
    assert fingerprint(plan, ids) != fingerprint(plan, ids[::-1])
    assert len(fingerprint(plan, ["odd\udcff", *ids])) == 64


def test_a_plans_hash_is_this():
    """A store's note of its plan outlives versions; another hash is another plan."""
    plan = [np.array([2, 0]), np.array([1])]
    expected = "c865cf70218c2ba708b36a4d4c7aed8a2dd671b7dae28e7185bb23c8c867ac27"
    assert fingerprint(plan, ["a", "b", "ä"]) == expected
    assert hashlib.sha256("ä\na\0b\0".encode()).hexdigest() == expected


def lists(batches) -> list[list[int]]:
    return [batch.tolist() for batch in batches]


def mask(*indices: int) -> np.ndarray:
    found = np.zeros(6, dtype=bool)
    found[list(indices)] = True
    return found


PLAN = [np.array([5, 4, 3]), np.array([2, 1, 0])]


def test_finished_batches_are_left_out_and_the_others_are_thinned():
    assert lists(unfinished(PLAN, mask(), mask())) == []
    assert lists(unfinished(PLAN, mask(1), mask())) == [[1]]
    assert lists(unfinished(PLAN, mask(5, 3, 0), mask())) == [[5, 3], [0]]


def test_a_batch_that_was_interrupted_is_computed_whole_again():
    assert lists(unfinished(PLAN, mask(4), mask(4))) == [[5, 4, 3]]
    assert lists(unfinished(PLAN, mask(4, 1), mask(4))) == [[5, 4, 3], [1]]


@given(st.sets(st.integers(0, 5)), st.sets(st.integers(0, 5)))
def test_whoever_is_left_to_do_is_in_what_is_left_once(todo, companions):
    left = [index for batch in unfinished(PLAN, mask(*todo), mask(*companions)) for index in batch]
    assert len(set(left)) == len(left)
    assert todo <= set(left)
