"""What a list says more of a recording reaches its line of the ledger, as JSON."""

import functools
import json
import pickle
import tracemalloc
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extract.data.dataset import AudioDataset
from extract.manifest.extra import MAX_DEPTH, MAX_EXTRA, extra_of
from extract.manifest.manifest import Manifest
from extract.store.ledger import Ledger, Record, parse, read
from extract.store.resume import ResumePolicy, remaining
from extract.store.store import Store
from extract.store.writers import failure_record
from extract.values import Entry, Failure

ENTRIES = [
    Entry("a", "/c/a.wav"),
    Entry("b", "/c/b.wav", extra='{"text":"你好","speaker":7}'),
    Entry("c", "/c/c.wav"),
    Entry("d", "/c/d.wav", 1.5, 2.0, '{"text":"d"}'),
]

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda some: st.lists(some, max_size=3) | st.dictionaries(st.text(), some, max_size=3),
    max_leaves=8,
)


# --- its text ------------------------------------------------------------------------------------


@given(st.dictionaries(st.text(), JSON, min_size=1, max_size=4))
def test_what_json_holds_comes_back_as_it_was(values):
    text = extra_of(values)
    assert "\n" not in text
    text.encode()
    finite = json.loads(json.dumps(values), parse_constant=lambda _name: None)
    if json.dumps(values) == json.dumps(finite):  # no infinity within
        assert json.loads(text) == values


def test_what_json_does_not_hold_is_text_or_null():
    values = {"day": date(2026, 1, 2), "score": float("nan"), "scores": [1.0, float("inf")], "n": 1}
    expected = {"day": "2026-01-02", "score": None, "scores": None, "n": 1}
    assert json.loads(extra_of(values)) == expected
    assert extra_of({}) is None
    assert extra_of({"lone": "\ud800"}) == '{"lone":"\\ud800"}', "which UTF-8 can hold"


def test_of_what_is_too_long_the_longest_values_are_null():
    values = {"id": 3, "vector": [0.5] * 5_000, "text": "好" * 4_000, "notes": "x" * 9_000}
    text = extra_of(values)
    assert json.loads(text) == {**values, "vector": None, "notes": None}
    for more in range(-40, 40):
        values = {"a": "x" * (MAX_EXTRA - 30 + more), "b": "y"}
        text = extra_of(values)
        assert len(text) <= MAX_EXTRA
        whole = json.dumps(values, separators=(",", ":"))
        assert (text == whole) == (len(whole) <= MAX_EXTRA)
    assert extra_of({f"{number:09}": None for number in range(2_000)}) == "{}"


@pytest.mark.parametrize(
    ("levels", "kept"), [(MAX_DEPTH - 1, True), (MAX_DEPTH, False), (900, False)]
)
def test_what_is_too_deep_for_readers_of_json_is_null(levels, kept):
    deep = functools.reduce(lambda inner, _level: [inner], range(levels - 1), [])
    values = {"deep": deep, "words": [{"word": "a", "start": 0.5}] * 100}
    assert json.loads(extra_of(values)) == values | {"deep": deep if kept else None}


# --- in a manifest -------------------------------------------------------------------------------


def test_it_comes_back_from_a_manifest_as_it_went_in():
    manifest = Manifest.from_entries(iter(ENTRIES))
    assert list(manifest) == [manifest[index] for index in range(4)] == ENTRIES
    assert list(manifest[1:3]) == ENTRIES[1:3]
    assert list(manifest.subset([3, 0])) == [ENTRIES[3], ENTRIES[0]]
    assert list(pickle.loads(pickle.dumps(manifest.share()))) == ENTRIES
    again = [ENTRIES[1], Entry("b", "/c/b.wav", extra='{"text":"again"}'), ENTRIES[0]]
    assert list(Manifest.from_entries(again)) == [ENTRIES[1], ENTRIES[0]]


def test_a_worker_that_starts_maps_it(monkeypatch):
    extras = Manifest.from_entries(ENTRIES).share().extras
    monkeypatch.setattr("extract.manifest.strings.get_spawning_popen", lambda: "one that starts")
    assert extras.__getstate__() == ("", True, *extras._shared)


def test_entries_without_cost_nothing_and_with_it_its_bytes():
    assert Manifest.from_entries(ENTRIES[:1]).extras is None
    num, text = 10_000, '{"text":"some words"}'
    extras = [None] * (num - 10) + [text] * 10
    tracemalloc.start()
    manifest = Manifest.from_entries(
        Entry(f"{index:07}", f"/c/{index:07}", extra=extra) for index, extra in enumerate(extras)
    )
    kept, _peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert manifest.extras.nbytes == 8 * (num + 1) + 10 * len(text)
    assert kept < (7 + 8 + 8 + 8) * num + 40_000  # id, its offset, the extra's; the buffers' slack


@pytest.mark.parametrize("text", ["", "[]", "no", '{"a":1}\n', "{'a':1}", "[" * 100_000])
def test_a_source_that_gives_no_object_is_told_so(text):
    with pytest.raises(ValueError, match=r"^b: extra: .*; needed what `extra_of` returns$"):
        Manifest.from_entries([ENTRIES[0], Entry("b", "/b", extra=text)])


# --- in the ledger -------------------------------------------------------------------------------


def test_a_lines_last_key_is_the_object_and_without_it_there_is_none():
    line = Record("b", "/c/b.wav", "failed", "missing", extra=ENTRIES[1].extra).line()
    assert line.endswith(',"files":null,"extra":{"text":"你好","speaker":7}}\n'.encode())
    assert parse(line)["extra"] == {"text": "你好", "speaker": 7}
    assert b"extra" not in Record("b", "/c/b.wav", "failed", "missing").line()


@pytest.mark.parametrize("damaged", [b'"extra":7}', b'"extra":"text"}', b'"extra":[{}]}'])
def test_a_line_whose_extra_is_no_object_is_damaged(damaged):
    line = Record("b", "/c/b.wav", "failed", "missing", extra="{}").line()
    assert parse(line) is not None
    assert parse(line.replace(b'"extra":{}}', damaged)) is None


def records(tmp_path, manifest):
    """A ledger of these recordings, none of which exists; and its store."""
    store = Store(tmp_path)
    store.create()
    ledger = Ledger(tmp_path / "ledger.jsonl", fsync=False)
    for item in AudioDataset(manifest):
        assert isinstance(item, Failure)
        ledger.append(failure_record(item))
    ledger.close()
    return store, ledger.path


def test_a_failure_has_the_extra_of_its_entry(tmp_path):
    records(tmp_path, Manifest.from_entries(ENTRIES))
    found = {record["id"]: record.get("extra") for record in read(tmp_path)}
    assert found == {
        "a": None,
        "b": {"text": "你好", "speaker": 7},
        "c": None,
        "d": {"text": "d"},
    }


def test_a_line_that_is_kept_gets_what_its_list_says_now(tmp_path):
    store, path = records(tmp_path, Manifest.from_entries(ENTRIES))
    changed = [ENTRIES[0], Entry("b", "/c/b.wav", extra='{"text":"再见"}'), *ENTRIES[2:3]]
    changed += [Entry("d", "/c/d.wav", 1.5, 2.0)]
    policy = ResumePolicy(retry_failed=False)
    before = path.read_bytes().splitlines()
    rest = remaining(Manifest.from_entries(changed), store, path, policy)
    assert not rest.todo.any()
    after = path.read_bytes().splitlines()
    assert [after[0], after[2]] == [before[0], before[2]]
    assert after[1] == before[1].replace(
        '{"text":"你好","speaker":7}'.encode(), '{"text":"再见"}'.encode()
    )
    assert after[3] == before[3].replace(b',"extra":{"text":"d"}', b"")
    inode = path.stat().st_ino
    remaining(Manifest.from_entries(changed), store, path, policy)
    assert path.stat().st_ino == inode, "and the second time nothing is written"
