"""Nearest centres: the published formula's, in any batch; ties to the first."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from extract.encoder import nearest
from extract.encoder.nearest import OPEN, Nearest
from support.semantic import CODEBOOK, s2g, tokens

LENGTHS = [1, 2, 3, 4, 7, 30, 49, 50, 333, 1_501, 5]


def of(weight: dict[str, torch.Tensor]) -> Nearest:
    return Nearest(weight[CODEBOOK], (weight["ssl_proj.weight"], weight["ssl_proj.bias"]))


@pytest.fixture(scope="module")
def weight() -> dict[str, torch.Tensor]:
    return s2g(width=48, codes=200)


@pytest.fixture(scope="module")
def utterances() -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    return [torch.randn(48, length, generator=draw) for length in LENGTHS]


def packed(utterances: list[torch.Tensor]) -> tuple[torch.Tensor, list[int]]:
    return torch.cat(utterances, dim=1), [x.shape[1] for x in utterances]


def split(units: torch.Tensor, sizes: list[int], stride: int = 2) -> list[list[int]]:
    return [part.tolist() for part in torch.split(units, [size // stride for size in sizes])]


@pytest.mark.parametrize("block", [nearest.BLOCK, 32])
def test_units_are_those_of_the_published_formula_in_any_batch(
    weight, utterances, monkeypatch, block
):
    monkeypatch.setattr(nearest, "BLOCK", block)
    expected = [tokens(weight, x[None]) if x.shape[1] > 1 else [] for x in utterances]
    assert max(map(max, filter(None, expected))) < 100  # each row comes again behind the hundredth
    assign, rng = of(weight), np.random.default_rng(0)
    for _ in range(4):
        order = rng.permutation(len(utterances))[: rng.integers(1, len(utterances) + 1)]
        values, sizes = packed([utterances[index] for index in order])
        assert split(assign(values, sizes), sizes) == [expected[index] for index in order]
    for x, alone in zip(utterances, expected, strict=True):
        assert assign(x, [x.shape[1]]).tolist() == alone


def test_without_frames_there_are_no_units(weight):
    assign = of(weight)
    assert [assign.num_units(count) for count in range(6)] == [0, 0, 1, 1, 2, 2]
    for sizes in ([], [1], [1, 1]):
        found = assign(torch.randn(48, sum(sizes)), sizes)
        assert (found.tolist(), found.dtype) == ([], torch.int64)


def test_of_centres_at_one_distance_the_first_wins():
    """Small whole numbers, so that ties are ties in every arithmetic."""
    draw = torch.Generator().manual_seed(2)
    whole = [
        torch.randint(-1, 2, size, generator=draw).float() for size in ((40, 6), (6, 6, 2), (6,))
    ]
    weight = dict(zip((CODEBOOK, "ssl_proj.weight", "ssl_proj.bias"), whole, strict=True))
    values = torch.randint(-1, 2, (6, 2_000), generator=draw).float()
    assign = of(weight)
    found = assign(values, [2_000])
    assert found.tolist() == tokens(weight, values[None])
    assert (assign.propose(values, [2_000]) == OPEN).float().mean() > 0.1  # ties of different rows


def test_of_centres_nearer_than_float32_can_tell_the_nearer_one_wins():
    """Frames so close to the middle of two centres that float32 rounds the choice either way."""
    draw = torch.Generator().manual_seed(3)
    middle, across = torch.randn(64, generator=draw), torch.randn(64, generator=draw)
    centres = torch.stack([middle + across, middle - across])
    aside = torch.randn(64, 120, generator=draw) * 3
    aside -= across[:, None] * (across @ aside / across.square().sum())
    frames = middle[:, None] + aside
    assign = Nearest(centres)
    found = assign(frames, [120])

    def distance(frame: list[float], centre: list[float]) -> Fraction:
        return sum((Fraction(a) - Fraction(b)) ** 2 for a, b in zip(frame, centre, strict=True))

    both = [[distance(x, c) for c in centres.tolist()] for x in frames.T.tolist()]
    assert found.tolist() == [int(two < one) for one, two in both]
    in_float32 = (centres @ frames - centres.square().sum(1, keepdim=True) / 2).max(0).indices
    assert (in_float32 != found).any()  # which float32 alone does not find
    for size in (1, 3, 7):
        parts = [assign(part, [part.shape[1]]) for part in torch.split(frames, size, dim=1)]
        assert torch.equal(torch.cat(parts), found)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_are_taken_as_they_are(weight, utterances, dtype):
    values, sizes = packed(utterances)
    rounded = values.to(dtype)
    assert torch.equal(of(weight)(rounded, sizes), of(weight)(rounded.float(), sizes))


def test_features_that_are_not_finite_spoil_no_others(weight, utterances):
    values, sizes = packed(utterances)
    expected = split(of(weight)(values, sizes), sizes)
    values[:, sum(sizes[:5]) : sum(sizes[:6])] = torch.nan
    found = split(of(weight)(values, sizes), sizes)
    assert found[:5] + found[6:] == expected[:5] + expected[6:]


def test_a_fingerprint_tells_weights_and_shapes_apart():
    some = torch.arange(6.0)
    assert nearest.fingerprint("a", some) == nearest.fingerprint("a", some.half())
    prints = [("a", some), ("b", some), ("a", some + 1), ("a", some.view(2, 3))]
    assert len({nearest.fingerprint(*of) for of in prints}) == len(prints)
