"""Every utterance's line is in the ledger once, and damage to one line costs that line alone."""

import json
import os
import threading
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from extract.shard import Shard, index_of
from extract.store import ledger as module
from extract.store.ledger import (
    SYNC_EVERY_S,
    Ledger,
    Record,
    heads,
    ledger_paths,
    read,
    read_lines,
    rewrite,
)
from extract.store.resharding import reshard
from extract.store.store import Store
from extract.values import OF_A_SOURCE, SAVED, STATUS_OF
from support.stores import put


def record(id_: str) -> Record:
    return Record(id_, f"/there/{id_}", SAVED, peak=0.5, duration_s=1.25, num_frames=62)


def ids(directory) -> list[str]:
    return [line["id"] for line in read(directory)]


def write(directory, *names: str, index: int = 0, count: int = 1) -> None:
    ledger = Ledger(directory / Shard(index, count).ledger_name)
    for name in names:
        ledger.append(record(name))
    ledger.close()


@given(st.text(), st.text())
def test_a_record_is_one_line_whatever_is_in_it(id_, detail):
    line = Record(id_, "/there", "failed", "undecodable", detail).line()
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert json.loads(line)["detail"] == detail


def test_a_name_that_is_not_unicode_gives_a_line_that_is():
    line = Record("bad\udcff.wav", "/bad\udcff.wav", "failed", "missing").line()
    assert "bad" in json.loads(line.decode("utf8"))["id"]


def test_a_line_is_made_of_these_bytes():
    """Stores outlive versions: what changes here must still be read where it is old."""
    saved = Record(
        "speaker/ä.wav",
        "/there/ä.wav",
        "saved",
        peak=0.5,
        duration_s=1.25,
        num_frames=62,
        dtype="float16",
        retried_fp32=False,
        clipped_samples=0,
        source_size=40_044,
        source_mtime_ns=1_700_000_000_123_456_789,
        files=(
            ("4-cnhubert/speaker/ä.wav.pt", 0, 96_889, 3_735_928_559),
            ("5-wav32k/speaker/ä.wav", 0, 80_044, 305_419_896),
        ),
    )
    assert saved.line() == (
        b'{"id":"speaker/\xc3\xa4.wav","path":"/there/\xc3\xa4.wav","status":"saved","reason":null,'
        b'"detail":null,"peak":0.5,"duration_s":1.25,"num_frames":62,"dtype":"float16",'
        b'"retried_fp32":false,"clipped_samples":0,"source_size":40044,'
        b'"source_mtime_ns":1700000000123456789,'
        b'"files":[["4-cnhubert/speaker/\xc3\xa4.wav.pt",0,96889,3735928559],'
        b'["5-wav32k/speaker/\xc3\xa4.wav",0,80044,305419896]]}\n'
    )
    assert Record("b.wav", "/b.wav", "failed", "undecodable", "b: \n no").line() == (
        b'{"id":"b.wav","path":"/b.wav","status":"failed","reason":"undecodable",'
        b'"detail":"b: \\n no","peak":null,"duration_s":null,"num_frames":null,"dtype":null,'
        b'"retried_fp32":null,"clipped_samples":null,"source_size":-1,"source_mtime_ns":-1,'
        b'"files":null}\n'
    )


def test_an_utterance_stays_with_its_shard():
    names = ("a.wav", "speaker/ä.wav", "語/音.flac", "")
    assert [index_of(name, 7) for name in names] == [1, 2, 3, 0]


def test_a_line_holds_all_that_is_promised():
    assert {
        *("id", "path", "status", "reason", "detail", "peak", "duration_s", "num_frames"),
        *("dtype", "retried_fp32", "clipped_samples"),
    } <= set(json.loads(record("a").line()))


def test_every_reason_is_a_gates_or_a_faults():
    gates = {"peak_above_gate", "too_short", "too_long", "silent", "empty"}
    assert {reason for reason, status in STATUS_OF.items() if status == "rejected"} == gates
    assert set(STATUS_OF.values()) == {"rejected", "failed"}


def test_a_ledger_goes_on_where_it_ended(tmp_path):
    write(tmp_path, "a", "b")
    write(tmp_path, "c")
    assert ids(tmp_path) == ["a", "b", "c"]


def test_a_torn_last_line_is_left_out(tmp_path):
    write(tmp_path, "a", "b")
    path = tmp_path / "ledger.jsonl"
    for size in range(path.stat().st_size - 1, len(record("a").line()), -17):
        os.truncate(path, size)
        assert ids(tmp_path) == ["a"]


IMPOSSIBLE = [
    b'{"id":"../../victim/x","status":"saved"}',
    b'{"id":"../../victim/x","status":"saved","reason":"bad_line"}',
    b'{"id":"/etc/passwd","status":"saved"}',
    b'{"id":"x.wav"}',
    b'{"id":"x.wav","status":"kept"}',
    b'{"id":"x.wav","status":"failed","reason":"[red]\\u001b[31m"}',
    b'{"id":"x.wav","status":"failed","reason":["missing"]}',
    b'{"id":"x.wav","status":"failed","reason":"silent"}',
    b'{"id":"x.wav","status":"failed"}',
    b'{"id":"x.wav","status":"saved","files":[["4-cnhubert/x.wav.pt",0,1]]}',
    b'{"id":"x.wav","status":"saved","files":[["4-cnhubert/x.wav.pt",0,"1",1]]}',
    b'{"id":"x.wav","status":"saved","files":["4-cnhubert/x.wav.pt"]}',
    b'{"id":"x.wav","status":"saved","files":7}',
    b'{"id":"x.wav","status":"saved","duration_s":"1.5"}',
    b'{"id":"x.wav","status":"saved","duration_s":NaN}',
    b'{"id":"x.wav","status":"saved","peak":true}',
    b'{"id":"x.wav","status":"saved","peak":-1.5}',
    b'{"id":"x.wav","status":"saved","peak":' + b"9" * 400 + b"}",
    b'{"id":"x.wav","status":"saved","num_frames":[]}',
    b'{"id":"x.wav","status":"saved","source_size":1e400}',
    b'{"id":"x.wav","status":"saved","source_mtime_ns":1.5}',
    b"[" * 100_000,
    b'{"id":"x.wav","status":"saved","num_frames":' + b"9" * 5_000 + b"}",
]


@pytest.mark.parametrize(
    "damage", [b"\0" * 30, b"{", b"[1]", b'{"id": 3}', b"\xff\xfe", b"", *IMPOSSIBLE]
)
def test_a_damaged_line_costs_itself_alone(tmp_path, damage):
    lines = record("a").line(), damage + b"\n", record("b").line()
    (tmp_path / "ledger.jsonl").write_bytes(b"".join(lines))
    assert ids(tmp_path) == ["a", "b"]
    assert [line for line, _ in read_lines(tmp_path / "ledger.jsonl")] == [lines[0], lines[2]]


def test_a_line_of_a_source_may_have_an_id_that_names_no_file(tmp_path):
    for reason in OF_A_SOURCE:
        line = Record("../some.list:2", "/there", "failed", reason).line()
        (tmp_path / "ledger.jsonl").write_bytes(line)
        assert ids(tmp_path) == ["../some.list:2"]


def test_a_ledger_of_zeros_costs_no_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_LINE", 1_000)
    (tmp_path / "ledger.jsonl").write_bytes(bytes(10_000) + b"\n" + record("a").line())
    longest = max(len(line) for line in module.lines(tmp_path / "ledger.jsonl"))
    assert longest == 1_000
    assert ids(tmp_path) == ["a"]


def test_only_the_names_that_we_write_are_ledgers(tmp_path):
    ours = ("ledger.jsonl", "ledger.0-of-2.jsonl", "ledger.11-of-12.jsonl")
    theirs = ("ledger.backup.jsonl", "ledger-notes.jsonl", "ledger.jsonl.bak", "ledger.0-of-2.json")
    others = ("ledger.00-of-2.jsonl", "ledger.0-of-0.jsonl", "my ledger.jsonl", "ledger_2.jsonl")
    for name in (*ours, *theirs, *others):
        (tmp_path / name).touch()
    assert {path.name for path in ledger_paths(tmp_path)} == set(ours)


@pytest.mark.parametrize("block", [1, 300, 1 << 16])
def test_the_head_of_a_line_is_read_as_the_whole_of_it(tmp_path, monkeypatch, block):
    monkeypatch.setattr(module, "BLOCK", block)
    names = ('a "quoted" ä.wav', "back\\\\slash\n.wav", "plain/b.wav")
    write(tmp_path, *names)
    with (tmp_path / "ledger.jsonl").open("ab") as file:
        file.write(Record("c.wav", 'a "path", "status":"saved"', "failed", "missing").line())
        file.write(b'{"id": "spaced.wav", "status": "rejected", "reason": "silent"}\n')
    expected = {**dict.fromkeys(names, True), "c.wav": False, "spaced.wav": False}
    assert dict(heads(tmp_path / "ledger.jsonl")) == expected


def test_the_id_of_a_damaged_line_is_salvaged(tmp_path):
    line, path = record('a "quoted" ä.wav').line(), tmp_path / "ledger.jsonl"
    plain = record("b.wav").line()
    for damaged in (line[:-30], line[:50], line.replace(b"status", b"\xff\0atus")):
        for before in (b"", plain):
            path.write_bytes(before + damaged)
            expected = [("b.wav", True)] * bool(before) + [('a "quoted" ä.wav', True)]
            assert list(heads(path)) == expected
    path.write_bytes(b"x" + plain + plain)
    assert list(heads(path)) == [("b.wav", True)]
    for damaged in (line[5:], line[:10], b"", b"\n"):
        path.write_bytes(damaged)
        assert not list(heads(path))


def test_lines_reach_the_disk_every_few_seconds_and_at_the_end(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (synced.append(1), fsync(descriptor)))
    for every_s, expected in ((0.0, [1, 2, 3, 4]), (1e9, [0, 0, 0, 1])):
        monkeypatch.setattr(module, "SYNC_EVERY_S", every_s)
        synced.clear()
        ledger, found = Ledger(tmp_path / "ledger.jsonl"), []
        for name in "abc":
            ledger.append(record(name))
            found.append(len(synced))
        ledger.close()
        assert [*found, len(synced)] == expected
    synced.clear()
    ledger = Ledger(tmp_path / "ledger.jsonl", fsync=False)
    ledger.append(record("d"))
    ledger.close()
    assert not synced


def test_a_few_seconds_are_few():
    assert 0 < SYNC_EVERY_S <= 10


def test_a_ledger_is_never_written_through_a_link(tmp_path):
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "ledger.jsonl").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic links"):
        Ledger(tmp_path / "ledger.jsonl")
    assert (tmp_path / "victim").read_text() == "mine"


def test_a_line_that_a_full_disk_takes_in_part_is_taken_back(tmp_path, monkeypatch):
    write(tmp_path, "a")
    path = tmp_path / "ledger.jsonl"
    whole, write_all = path.read_bytes(), os.write
    ledger = Ledger(path)
    monkeypatch.setattr(os, "write", lambda descriptor, data: write_all(descriptor, data[:20]))
    with pytest.raises(OSError, match="No space left") as caught:
        ledger.append(record("b"))
    assert caught.value.errno == 28
    assert path.read_bytes() == whole
    monkeypatch.undo()
    ledger.append(record("c"))
    ledger.close()
    assert ids(tmp_path) == ["a", "c"]


def test_threads_do_not_mix_their_lines(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")

    def work(thread: int) -> None:
        for n in range(100):
            ledger.append(record(f"{thread}-{n}" + "/xxxxxxxxx" * 50))

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ledger.close()
    assert len(set(ids(tmp_path))) == len(ids(tmp_path)) == 400


def test_closing_twice_is_no_matter(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.close()
    ledger.close()


def test_a_rewrite_that_fails_leaves_the_ledger_as_it_was(tmp_path, monkeypatch):
    write(tmp_path, "a", "b")

    def lines():
        yield record("a").line()
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        rewrite(tmp_path / "ledger.jsonl", lines())
    assert ids(tmp_path) == ["a", "b"]
    assert [path.name for path in tmp_path.iterdir()] == ["ledger.jsonl"]


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (3, 2), (2, 2)])
def test_another_sharding_keeps_every_line_once_and_where_its_id_belongs(tmp_path, before, after):
    names = [f"{n}.wav" for n in range(100)]
    for index in range(before):
        mine = [name for name in names if before == 1 or index_of(name, before) == index]
        write(tmp_path, *mine, index=index, count=before)
    with open(tmp_path / Shard(0, before).ledger_name, "ab") as file:
        file.write(b'{"id": "torn')
    reshard(Store(tmp_path), Shard(0, after))
    assert sorted(ids(tmp_path)) == sorted(names)
    assert {path.name for path in ledger_paths(tmp_path)} == {
        Shard(index, after).ledger_name for index in range(after)
    }
    for index in range(after) if after > 1 else ():
        found = [line["id"] for _, line in read_lines(tmp_path / Shard(index, after).ledger_name)]
        assert found
        assert all(index_of(name, after) == index for name in found)


def test_a_reshard_that_was_killed_is_finished_and_loses_nothing(tmp_path, monkeypatch):
    names = [f"{n}.wav" for n in range(50)]
    for index in range(2):
        write(tmp_path, *(n for n in names if index_of(n, 2) == index), index=index, count=2)
    unlink = os.unlink

    def killed(path):
        if str(path).endswith("1-of-2.jsonl"):
            raise KeyboardInterrupt  # one old ledger is gone, this one still beside the new one
        unlink(path)

    monkeypatch.setattr(os, "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        reshard(Store(tmp_path), Shard())
    monkeypatch.undo()
    assert len(ledger_paths(tmp_path)) == 2
    reshard(Store(tmp_path), Shard())
    assert set(ids(tmp_path)) == set(names)
    assert [path.name for path in ledger_paths(tmp_path)] == ["ledger.jsonl"]


def saved(store: Store, name: str, size: int) -> Record:
    files = put(store, name, torch.zeros(1, size, 2), torch.zeros(9, dtype=torch.int16))
    return Record(name, f"/there/{name}", SAVED, files=files)


def test_lines_that_are_in_two_ledgers_or_in_the_wrong_one_become_one_each(tmp_path):
    """The one whose files are there is kept, wherever it stands."""
    store = Store(tmp_path, fsync=False)
    store.create()
    names = [f"{n}.wav" for n in range(20)]
    whole = {name: saved(store, name, 5) for name in names}
    stale = {name: replace(whole[name], files=None, peak=0.1) for name in names}
    for file, lines in (
        ("ledger.0-of-2.jsonl", [*whole.values(), stale["0.wav"]]),  # half of them belong here
        ("ledger.1-of-2.jsonl", [stale[name] for name in names]),
    ):
        (tmp_path / file).write_bytes(b"".join(line.line() for line in lines))
    assert reshard(store, Shard(0, 2)) == set(names)
    for index in range(2):
        found = list(read_lines(tmp_path / Shard(index, 2).ledger_name))
        assert [line for line, _ in found] == [
            whole[name].line() for name in names if index_of(name, 2) == index
        ]


def test_an_utterance_that_has_two_lines_in_its_ledger_has_one_afterwards(tmp_path):
    write(tmp_path, "a", "b", "a")
    assert reshard(Store(tmp_path), Shard()) == {"a", "b"}
    assert ids(tmp_path) == ["a", "b"]


def test_ledgers_in_order_are_not_written_again(tmp_path):
    names = [f"{n}.wav" for n in range(20)]
    for index in range(2):
        write(tmp_path, *(n for n in names if index_of(n, 2) == index), index=index, count=2)
    before = [path.stat().st_ino for path in ledger_paths(tmp_path)]
    assert reshard(Store(tmp_path), Shard(0, 2)) == set(names)
    assert [path.stat().st_ino for path in ledger_paths(tmp_path)] == before
