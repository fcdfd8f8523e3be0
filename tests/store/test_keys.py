"""Keys in archives: reversible, safe for their format, and those of most ids as they are."""

from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from webdataset.tariterators import base_plus_ext

from extract.store.keys import id_of
from extract.store.layouts import kaldi, webdataset

KEYS = {"kaldi": lambda id_: kaldi.key(id_).decode(), "webdataset": webdataset.key}
IDS = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1) | st.text(
    "%. _/a2Ee\u3000é", min_size=1
)


@pytest.mark.parametrize("naming", KEYS)
@given(one=IDS, other=IDS)
@example(one="a b", other="a%20b")
@example(one="a%2Eb", other="a.b")
@example(one="% ", other="%%20")
def test_a_key_is_one_ids_alone_and_leads_back_to_it(naming, one, other):
    key_of = KEYS[naming]
    assert id_of(key_of(one)) == unquote(key_of(one)) == one
    assert (key_of(one) == key_of(other)) == (one == other)


@given(IDS)
def test_kaldis_keys_have_no_white_space(id_):
    assert KEYS["kaldi"](id_).split() == [KEYS["kaldi"](id_)]


@given(IDS)
@example("__a__/b.wav")
@example("__a__")
def test_webdatasets_names_have_their_key_before_the_first_dot(id_):
    key = KEYS["webdataset"](id_)
    if key.endswith("/"):
        return  # no id has such an end
    assert base_plus_ext(f"{key}.npy") == (key, "npy")
    assert not key.startswith("__")


@pytest.mark.parametrize("id_", ["a.wav", "speaker/a-1_b.wav", "50%", "né(1),[x]", "100%.wav"])
def test_kaldis_keys_are_the_ids_where_they_can_be(id_):
    assert KEYS["kaldi"](id_) == id_


def test_what_keys_look_like():
    assert KEYS["kaldi"]("my file\u3000a%20.wav") == "my%20file%E3%80%80a%2520.wav"
    assert KEYS["webdataset"]("speaker.1/a.b.wav") == "speaker%2E1/a%2Eb%2Ewav"
    assert KEYS["webdataset"]("__a__/my file") == "%5F_a__/my file"
