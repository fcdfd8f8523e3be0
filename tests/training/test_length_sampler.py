"""`LengthBatchSampler`: all utterances once an epoch, as many batches on each rank, resuming."""

import json
import multiprocessing
import socket
from collections import Counter
from itertools import chain
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed
from hypothesis import given
from hypothesis import strategies as st

from extract.data.plan import MAX_BATCH, QUADRATIC_S, plan_batches
from extract.training.sampler import STEP, LengthBatchSampler
from support import posix

DURATIONS = np.random.default_rng(0).lognormal(0.7, 0.7, 500)


def cost_s(duration_s: float) -> float:
    """What a recording costs, as the plan counts it."""
    return duration_s * (1 + duration_s / QUADRATIC_S)


def ranks(durations, world_size: int, **options) -> list[LengthBatchSampler]:
    return [
        LengthBatchSampler(durations, rank=rank, world_size=world_size, **options)
        for rank in range(world_size)
    ]


@given(
    st.lists(st.floats(0.0, 40.0), min_size=1, max_size=60),
    st.integers(1, 5),
    st.sampled_from([1.0, 30.0, 60.0]),
    st.booleans(),
    st.integers(0, 3),
)
def test_ranks_have_every_utterance_and_as_many_batches(durations, world, seconds, shuffle, epoch):
    samplers = ranks(durations, world, batch_seconds=seconds, shuffle=shuffle)
    for sampler in samplers:
        sampler.set_epoch(epoch)
    parts = [list(sampler) for sampler in samplers]
    assert {len(part) for part in parts} == {len(samplers[0])}
    seen = Counter(chain.from_iterable(chain.from_iterable(parts)))
    assert set(seen) == set(range(len(durations)))
    again = sum(seen.values()) - len(durations)
    alone = all(len(batch) == 1 for part in parts for batch in part)
    assert again == 0 or (alone and again < world)
    for batch in chain.from_iterable(parts):
        longest = max(1e-3, max(durations[index] for index in batch))
        assert len(batch) == 1 or len(batch) * cost_s(longest) <= seconds * 1.0001
        assert len(batch) <= MAX_BATCH


def test_what_comes_again_are_the_shortest_and_only_where_nothing_can_be_halved():
    long = [50.0, 80.0, 70.0, 60.0, 90.0]
    parts = [list(sampler) for sampler in ranks(long, 4, batch_seconds=10, shuffle=False)]
    assert [len(part) for part in parts] == [2] * 4
    seen = Counter(chain.from_iterable(chain.from_iterable(parts)))
    assert seen == {0: 2, 1: 1, 2: 2, 3: 2, 4: 1}


def test_unshuffled_it_is_the_plan_with_the_longest_first():
    plan = [batch.tolist() for batch in plan_batches(DURATIONS, 60.0)]
    assert list(LengthBatchSampler(DURATIONS, 60.0, shuffle=False)) == plan
    sampler = LengthBatchSampler(DURATIONS, 60.0, shuffle=False)
    sampler.set_epoch(7)
    assert list(sampler) == plan


def test_epochs_differ_in_order_and_in_company_and_a_seed_repeats_them():
    def epoch(number: int, seed: int = 0) -> list[list[int]]:
        sampler = LengthBatchSampler(DURATIONS, 60.0, seed=seed)
        sampler.set_epoch(number)
        return list(sampler)

    first, second = epoch(0), epoch(1)
    assert first == epoch(0)
    assert first != epoch(0, seed=1)
    assert {frozenset(batch) for batch in first} != {frozenset(batch) for batch in second}
    longest = [DURATIONS[batch].max() for batch in first]
    assert longest != sorted(longest, reverse=True)
    assert len(first) == len(second) == len(LengthBatchSampler(DURATIONS, 60.0))


def test_shuffled_batches_hold_similar_lengths():
    """Padding is at most what the plan has, and a step of rounding."""

    def padded_s(batches: list[list[int]]) -> float:
        return sum(len(batch) * DURATIONS[batch].max() for batch in batches)

    plan = [batch.tolist() for batch in plan_batches(DURATIONS, 60.0)]
    assert padded_s(list(LengthBatchSampler(DURATIONS, 60.0))) < padded_s(plan) * STEP * 1.02


def test_ranks_have_batches_of_similar_length_at_the_same_step():
    steps = zip(*(list(sampler) for sampler in ranks(DURATIONS, 2, batch_seconds=20)), strict=True)
    for one, other in steps:
        lengths = DURATIONS[one].max(), DURATIONS[other].max()
        assert max(lengths) < 2 * min(lengths)


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_a_state_goes_on_with_the_next_batch(taken):
    sampler = LengthBatchSampler(DURATIONS, 20.0, seed=4)
    sampler.set_epoch(3)
    whole = [batch.tolist() for batch in sampler.batches()]
    batches = iter(sampler)
    assert [next(batches) for _ in range(taken)] == whole[:taken]
    state = json.loads(json.dumps(sampler.state_dict()))

    other = LengthBatchSampler(DURATIONS, 20.0, seed=4)
    other.load_state_dict(state)
    assert other.state_dict() == state
    other.set_epoch(3)  # a loop over epochs says so before each
    assert list(other) == whole[taken:]
    assert list(other) == whole, "the next pass begins at the beginning"


def test_the_state_of_a_whole_epoch_goes_on_with_the_next_epoch():
    sampler = LengthBatchSampler(DURATIONS, 20.0)
    assert len(list(sampler)) == len(sampler)
    other = LengthBatchSampler(DURATIONS, 20.0)
    other.load_state_dict(sampler.state_dict())
    assert (other.epoch, other.next) == (1, 0)
    sampler.set_epoch(1)
    assert list(other) == list(sampler)


def test_another_epoch_begins_at_its_beginning():
    sampler = LengthBatchSampler(DURATIONS, 20.0)
    next(iter(sampler))
    state = sampler.state_dict()
    sampler.load_state_dict(state)
    sampler.set_epoch(1)
    assert sampler.state_dict()["next"] == 0
    assert len(list(sampler)) == len(sampler)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 1}, "seed=0; needed 1"),
        ({"shuffle": False}, "shuffle=True; needed False"),
        ({"batch_seconds": 30.0}, "batch_seconds=20.0; needed 30.0"),
        ({"rank": 0, "world_size": 2}, "world_size=1; needed 2"),
        ({"duration_s": DURATIONS[:-1]}, "num_utterances=500; needed 499"),
        ({"duration_s": DURATIONS[::-1].copy()}, "durations="),
    ],
)
def test_a_state_of_another_plan_is_refused(change, said):
    state = LengthBatchSampler(DURATIONS, 20.0).state_dict()
    options = {"duration_s": DURATIONS, "batch_seconds": 20.0} | change
    with pytest.raises(ValueError, match=said):
        LengthBatchSampler(**options).load_state_dict(state)


def test_the_dataset_is_told_of_each_epoch():
    told: list[int] = []
    sampler = LengthBatchSampler(DURATIONS, dataset=SimpleNamespace(set_epoch=told.append))
    next(iter(sampler))
    sampler.set_epoch(1)
    sampler.load_state_dict(sampler.state_dict() | {"epoch": 5})
    assert told == [0, 1, 5]


def test_no_utterance_and_no_such_rank_are_refused():
    with pytest.raises(ValueError, match="at least one is needed"):
        LengthBatchSampler([])
    with pytest.raises(ValueError, match="rank=2: needed 0 to 1"):
        LengthBatchSampler([1.0], rank=2, world_size=2)


def of_a_rank(rank: int, port: int, results) -> None:
    """One of two processes: what its sampler draws, with a barrier after each batch."""
    address = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", address, world_size=2, rank=rank)
    sampler = LengthBatchSampler(DURATIONS[:41], 20.0)
    drawn = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        for batch in sampler:
            drawn.append((epoch, batch))
            torch.distributed.barrier()  # one rank with more batches would wait here for ever
    results.put((rank, drawn))
    torch.distributed.destroy_process_group()


@posix.START_METHODS
def test_two_ranks_of_torch_distributed_share_an_epoch_and_end_together():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=of_a_rank, args=(rank, port, results)) for rank in (0, 1)]
    for process in processes:
        process.start()
    found = dict(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    for epoch in (0, 1):
        parts = [[batch for number, batch in found[rank] if number == epoch] for rank in (0, 1)]
        assert len(parts[0]) == len(parts[1]) > 1
        seen = Counter(chain.from_iterable(chain.from_iterable(parts)))
        assert seen == dict.fromkeys(range(41), 1)
