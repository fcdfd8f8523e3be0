"""Cuts of longer recordings, and what collecting entries keeps of them."""

import multiprocessing
import pickle

import pytest

from extract.manifest.manifest import Manifest
from extract.shard import Shard
from extract.values import Entry

ENTRIES = [
    Entry("whole.wav", "/c/whole.wav"),
    Entry("a-1", "/c/a.wav", 0.0, 1.5),
    Entry("a-2", "/c/a.wav", 1.5, 2.25, '{"text":"好"}'),
    Entry("a-3", "/c/a.wav", 3.75),
    Entry("b", "/c/b.wav"),
]


def test_a_manifest_without_cuts_has_no_arrays_of_them():
    whole = [Entry("a", "/a"), Entry("b", "/b", 0.0, None)]
    assert Manifest.from_entries(whole).cuts is None
    assert list(Manifest.from_entries(whole)) == whole


def test_cuts_come_back_as_they_went_in():
    manifest = Manifest.from_entries(iter(ENTRIES))
    assert list(manifest) == [manifest[index] for index in range(5)] == ENTRIES
    assert manifest[-2] == ENTRIES[3]
    assert list(manifest[1:4]) == ENTRIES[1:4]
    assert list(manifest.subset([3, 0])) == [ENTRIES[3], ENTRIES[0]]
    assert list(manifest.share()) == list(pickle.loads(pickle.dumps(manifest))) == ENTRIES
    assert list(pickle.loads(pickle.dumps(manifest.share()))) == ENTRIES
    parts = [Shard(index, 3).part_of(manifest) for index in range(3)]
    assert sorted((e for part in parts for e in part), key=ENTRIES.index) == ENTRIES


def _send_all(manifest: Manifest, connection) -> None:
    connection.send(list(manifest))


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_worker_reads_shared_cuts_however_it_was_started(method):
    context = multiprocessing.get_context(method)
    receiver, sender = context.Pipe(duplex=False)
    manifest = Manifest.from_entries(ENTRIES).share()
    worker = context.Process(target=_send_all, args=(manifest, sender))
    worker.start()
    assert receiver.poll(60)
    assert receiver.recv() == ENTRIES
    worker.join(60)


def test_shared_cuts_are_handed_to_a_starting_worker_and_copied_elsewhere(monkeypatch):
    cuts = Manifest.from_entries(ENTRIES).share().cuts
    assert cuts.__getstate__()[0] == -1
    monkeypatch.setattr("extract.manifest.cuts.get_spawning_popen", lambda: "a process that starts")
    assert cuts.__getstate__() == (5, *cuts._shared)


def test_one_id_with_another_cut_is_named_before_any_work():
    entries = [Entry("a", "/a.wav", 1.5, 2.0), Entry("b", "/b"), Entry("a", "/a.wav", 1.5)]
    said = r"  a: /a\.wav from 1\.5 s for 2 s and /a\.wav from 1\.5 s\n"
    with pytest.raises(ValueError, match=said):
        Manifest.from_entries(entries)
    assert list(Manifest.from_entries([*entries[:2], entries[0]])) == entries[:2]  # kept once


@pytest.mark.parametrize(
    ("offset_s", "duration_s"),
    [
        *[(-1.0, None), (float("nan"), 1.0), (float("inf"), None), (0.0, 0.0), (1.0, -2.0)],
        *[(0.0, float("nan")), (0.0, float("inf"))],
    ],
)
def test_a_cut_that_cannot_be_is_a_failure_and_its_neighbours_stay(offset_s, duration_s):
    entries = [Entry("a", "/a", offset_s, duration_s), Entry("a", "/a", 1.0)]
    manifest = Manifest.from_entries(entries)
    assert list(manifest) == entries[1:]
    [failure] = manifest.failures
    assert failure.reason == "bad_line"
    assert failure.recording.id.startswith("a: from ")
    assert "needed a start of at least 0 s and a duration above 0 s" in failure.detail


# --- the bytes that ids and paths share ---------------------------------------------------------


@pytest.mark.parametrize(
    ("paths", "shared"),
    [
        (["/x/a", "/x/b", "/x/c"], True),
        (["a", "b", "c"], True),
        (["/x/a", "/x/b", "/y/c"], False),
        (["/x/a", "/x/b", "/x/d"], False),
        (["/x/other", "/x/b", "/x/c"], False),
        (["/x\udcff/a", "/x\udcff/b", "/x\udcff/c"], True),
    ],
)
def test_paths_that_are_ids_behind_one_prefix_cost_nothing(paths, shared):
    entries = [Entry(id_, path) for id_, path in zip("abc", paths, strict=True)]
    manifest = Manifest.from_entries(entries)
    assert list(manifest) == entries
    assert manifest.paths.shares_arrays(manifest.ids) is shared


def test_a_bad_id_leaves_no_path_behind():
    entries = [Entry("..", "/x/.."), Entry("a", "/y/a"), Entry("../b", "/z"), Entry("c", "/c")]
    assert list(Manifest.from_entries(entries)) == [entries[1], entries[3]]


# --- what a layout adds to an id ----------------------------------------------------------------


def test_a_layouts_suffixes_bound_an_id_and_tell_which_files_meet():
    longest = Entry("x" * 251, "/x")
    assert len(Manifest.from_entries([longest])) == 1
    [failure] = Manifest.from_entries([longest], suffixes=[".json"]).failures
    assert "a part of 251 bytes; at most 250 are possible" in failure.detail
    entries = [Entry("a", "/a"), Entry("a.npy/b", "/b")]
    assert len(Manifest.from_entries(entries)) == 2
    with pytest.raises(ValueError, match=r"a and a\.npy/b"):
        Manifest.from_entries(entries, suffixes=[".npy"])
