from collections import Counter

import pytest

from extract.shard import Shard, index_of


def test_which_part_an_id_is_in_never_changes():
    """A later version goes on in stores that this one has divided."""
    names = ["0.wav", "1.wav", "录音 (2)/a.wav", "a\udcff.wav"]
    assert [index_of(name, 1) for name in names] == [0, 0, 0, 0]
    assert [index_of(name, 1_000_000) for name in names] == [257_995, 50_128, 984_003, 129_924]


@pytest.mark.parametrize("form", ["{}.wav", "{:02}.wav", "vocal_{:04}.wav", "a/{}.flac", "{}"])
@pytest.mark.parametrize("count", [2, 3, 4, 8])
def test_parts_are_of_like_size_whatever_the_names(form, count):
    names = [form.format(number) for number in range(40 * count)]
    sizes = Counter(index_of(name, count) for name in names)
    assert set(sizes) == set(range(count))
    assert max(sizes.values()) < 60
    assert all(sum(shard.owns(name) for shard in Shard(0, count).all()) == 1 for name in names)
