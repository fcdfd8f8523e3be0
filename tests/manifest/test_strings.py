"""PackedStrings: many strings at the price of their bytes."""

import multiprocessing
import os
import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extract.manifest import strings as module
from extract.manifest.strings import PackedStrings

FILE_NAMES = st.binary(max_size=20).map(os.fsdecode)  # any name that a file can have


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])) | FILE_NAMES))
def test_strings_come_back_as_they_went_in(strings):
    packed = PackedStrings.from_iterable(iter(strings))
    assert list(packed) == strings
    assert [packed[i] for i in range(len(packed))] == strings
    assert [packed[i - len(packed)] for i in range(len(packed))] == strings


@given(st.lists(FILE_NAMES), st.data())
def test_a_subset_is_what_a_list_would_give(strings, data):
    packed = PackedStrings.from_iterable(strings).with_prefix("root/")
    indices = data.draw(
        st.lists(st.integers(-len(strings), len(strings) - 1)) if strings else st.just([])
    )
    cut = data.draw(st.slices(len(strings)))
    assert list(packed.take(indices)) == ["root/" + strings[i] for i in indices]
    assert list(packed[cut]) == ["root/" + string for string in strings[cut]]


@given(st.lists(FILE_NAMES | st.text("abc"), max_size=12), st.integers(1, 5))
def test_strings_are_taken_out_by_the_piece(strings, piece):
    packed = PackedStrings.from_iterable(strings).with_prefix("ö/")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PIECE", piece)
        assert list(packed) == ["ö/" + string for string in strings]
        assert list(packed.iter_bytes()) == list(map(os.fsencode, strings))


@given(st.lists(FILE_NAMES, min_size=1), st.sampled_from(["", "root/"]), st.data())
def test_joined_are_their_bytes_with_a_separator_between(strings, prefix, data):
    packed = PackedStrings.from_iterable(strings).with_prefix(prefix)
    indices = data.draw(st.lists(st.integers(0, len(strings) - 1)))
    expected = b"\n".join(os.fsencode(prefix + strings[index]) for index in indices)
    assert packed.joined(np.array(indices, np.int64), b"\n") == expected


@pytest.mark.parametrize("index", [2, -3])
def test_an_index_beyond_the_ends_raises(index):
    packed = PackedStrings.from_iterable("ab")
    with pytest.raises(IndexError):
        packed[index]
    with pytest.raises(IndexError):
        packed.take([index])


def test_a_prefix_is_kept_once():
    packed = PackedStrings.from_iterable(["a.wav", "b.wav"])
    paths = packed.with_prefix("/a/very/long/folder/")
    assert list(paths) == ["/a/very/long/folder/a.wav", "/a/very/long/folder/b.wav"]
    assert paths.shares_arrays(packed)
    assert paths.nbytes == packed.nbytes == len("a.wavb.wav") + 3 * 8


def test_a_pickle_keeps_the_strings_and_what_they_share():
    packed = PackedStrings.from_iterable(["你好", "b\udcff"])
    ids, paths = pickle.loads(pickle.dumps((packed, packed.with_prefix("/"))))
    assert list(ids) == ["你好", "b\udcff"]
    assert list(paths) == ["/你好", "/b\udcff"]
    assert paths.shares_arrays(ids)


def _send_length_and_last(packed: PackedStrings, connection) -> None:
    connection.send((len(packed), packed[len(packed) - 1], list(packed.take([0]))))


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_a_worker_reads_shared_strings_however_it_was_started(method):
    context = multiprocessing.get_context(method)
    receiver, sender = context.Pipe(duplex=False)
    packed = PackedStrings.from_iterable(map(str, range(1000))).with_prefix("x").share()
    worker = context.Process(target=_send_length_and_last, args=(packed, sender))
    worker.start()
    assert receiver.poll(60)
    assert receiver.recv() == (1000, "x999", ["x0"])
    worker.join(60)
    assert worker.exitcode == 0


def test_shared_strings_are_handed_to_a_starting_worker_and_copied_elsewhere(monkeypatch):
    packed = PackedStrings.from_iterable(map(str, range(1000)))
    shared = packed.share()
    assert list(pickle.loads(pickle.dumps(shared))) == list(packed)
    monkeypatch.setattr(
        "extract.manifest.strings.get_spawning_popen", lambda: "a process that starts"
    )
    assert shared.__getstate__()[1:] == (True, *shared._shared)
    assert packed.__getstate__()[1] is False


@pytest.mark.parametrize("strings", [[], [""], ["", ""]])
def test_nothing_can_be_packed_and_shared_too(strings):
    packed = PackedStrings.from_iterable(strings)
    assert list(packed) == list(packed.share()) == list(packed.take(range(len(packed)))) == strings


def test_packing_and_reading_cost_little_more_than_the_bytes():
    tracemalloc.start()
    packed = PackedStrings.from_iterable(f"speaker/{i:012d}.wav" for i in range(50_000))
    for _ in packed:
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert packed.nbytes == 50_000 * (24 + 8) + 8
    assert peak < 1.5 * packed.nbytes  # the growing buffers; Python strings would be 3 times that
