"""Which layers a setting names, of a model with so many."""

from dataclasses import replace
from typing import Any

import pytest

from extract.models.load import TINY
from extract.models.wanted import (
    Wanted,
    is_layer,
    is_several,
    layers_of,
    plain_layer,
    wanted_of,
)

SAID: list[tuple[Any, tuple[int, ...]]] = [
    (None, (12,)),
    (12, (12,)),
    (-1, (12,)),
    (9, (9,)),
    ("9", (9,)),  # of `${oc.env:LAYER}`
    ("-4", (9,)),
    (0, (0,)),
    (-13, (0,)),
    ([9], (9,)),
    ([12, 6, 9], (12, 6, 9)),
    ((-1, 0), (12, 0)),
    (range(1, 4), (1, 2, 3)),
    ("all", tuple(range(13))),
]
WRONG: list[Any] = [
    *("nine", "", "1.0", "--1", "1,2", "ALL", 1.0, float("nan"), True, [], [[1]], ["all"], {}),
    *([1, 1], ["1", 1], [1, None], [True], "²", "9" * 30),
]


@pytest.mark.parametrize(("value", "layers"), SAID)
def test_a_layer_is_a_number_from_either_end_a_list_or_all(
    value: Any, layers: tuple[int, ...]
) -> None:
    assert is_layer(value)
    assert layers_of(value, 12) == layers
    assert layers_of(plain_layer(value), 12) == layers
    hash(plain_layer(value))
    assert is_several(value) == (len(layers) > 1)


@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_what_names_no_layer_is_refused(value: Any) -> None:
    assert not is_layer(value)
    with pytest.raises(ValueError, match="-1 = the last"):
        layers_of(value, 12)


@pytest.mark.parametrize("value", [13, -14, [1, 13], [-14, 1], 10**9])
def test_a_layer_that_the_model_does_not_have_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="this model has layers 1 to 12; 0 is what enters"):
        layers_of(value, 12)


def test_one_layer_under_two_names_is_refused() -> None:
    with pytest.raises(ValueError, match=r"layer=\[12, -1\]: one of 12 layers twice"):
        layers_of([12, -1], 12)


def test_settings_that_do_not_fit_the_model_are_refused() -> None:
    with pytest.raises(ValueError, match="projection=true: this model's file holds no final_proj"):
        wanted_of(TINY, projection=True)
    with pytest.raises(ValueError, match="projection='yes': needed auto, true or false"):
        wanted_of(TINY, projection="yes", has_projection=True)
    with pytest.raises(ValueError, match="final_norm=none: needed transformers or fairseq"):
        wanted_of(TINY, final_norm="none")


def test_what_makes_no_difference_is_not_wanted() -> None:
    """Else two stores of the same numbers would differ."""
    pre_norm = replace(TINY, pre_norm=True)
    plain, without = Wanted((2,)), Wanted((2,), final_norm=False)
    assert wanted_of(pre_norm, -1, final_norm="fairseq") == without
    assert wanted_of(pre_norm, "all", final_norm="fairseq") == replace(without, layers=(0, 1, 2))
    for same in (
        wanted_of(TINY),
        wanted_of(TINY, -1, "auto", "fairseq", has_projection=True),
        wanted_of(TINY, 2, False, "transformers", has_projection=True),
        wanted_of(pre_norm, None, final_norm="fairseq"),
        replace(wanted_of(pre_norm, 1, final_norm="fairseq"), layers=(2,)),
    ):
        assert same == plain
    assert wanted_of(TINY, projection=True, has_projection=True) == Wanted((2,), projected=True)
