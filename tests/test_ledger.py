"""Every utterance's line is in the ledger once, and damage to one line costs that line alone."""

import json
import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extract.ledger import (
    REASONS,
    SAVED,
    Ledger,
    Record,
    ledger_name,
    ledger_paths,
    read,
    read_lines,
    rewrite,
    shard_of,
)
from extract.resume import reshard


def record(id_: str) -> Record:
    return Record(id_, f"/there/{id_}", SAVED, peak=0.5, duration_s=1.25, num_frames=62)


def ids(directory) -> list[str]:
    return [line["id"] for line in read(directory)]


def write(directory, *names: str, index: int = 0, count: int = 1) -> None:
    ledger = Ledger(directory / ledger_name(index, count))
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


def test_a_line_holds_all_that_is_promised():
    assert {
        *("id", "path", "status", "reason", "detail", "peak", "duration_s", "num_frames"),
        *("dtype", "retried_fp32", "clipped_samples"),
    } <= set(json.loads(record("a").line()))


def test_every_reason_is_a_gates_or_a_faults():
    gates = {"peak_above_gate", "too_short", "too_long", "silent", "empty"}
    assert {reason for reason, status in REASONS.items() if status == "rejected"} == gates
    assert set(REASONS.values()) == {"rejected", "failed"}


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


@pytest.mark.parametrize("damage", [b"\0" * 30, b"{", b"[1]", b'{"id": 3}', b"\xff\xfe", b""])
def test_a_damaged_line_costs_itself_alone(tmp_path, damage):
    lines = record("a").line(), damage + b"\n", record("b").line()
    (tmp_path / "ledger.jsonl").write_bytes(b"".join(lines))
    assert ids(tmp_path) == ["a", "b"]
    assert [line for line, _ in read_lines(tmp_path / "ledger.jsonl")] == [lines[0], lines[2]]


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
            ledger.append(record(f"{thread}-{n}" + "x" * 500))

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
        mine = [name for name in names if before == 1 or shard_of(name, before) == index]
        write(tmp_path, *mine, index=index, count=before)
    with open(tmp_path / ledger_name(0, before), "ab") as file:
        file.write(b'{"id": "torn')
    reshard(tmp_path, after)
    assert sorted(ids(tmp_path)) == sorted(names)
    assert {path.name for path in ledger_paths(tmp_path)} == {
        ledger_name(index, after) for index in range(after)
    }
    for index in range(after) if after > 1 else ():
        found = [line["id"] for _, line in read_lines(tmp_path / ledger_name(index, after))]
        assert found
        assert all(shard_of(name, after) == index for name in found)


def test_a_reshard_that_was_killed_is_finished_and_loses_nothing(tmp_path, monkeypatch):
    names = [f"{n}.wav" for n in range(50)]
    for index in range(2):
        write(tmp_path, *(n for n in names if shard_of(n, 2) == index), index=index, count=2)
    unlink = os.unlink

    def killed(path):
        if str(path).endswith("1-of-2.jsonl"):
            raise KeyboardInterrupt  # one old ledger is gone, this one still beside the new one
        unlink(path)

    monkeypatch.setattr(os, "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        reshard(tmp_path, 1)
    monkeypatch.undo()
    assert len(ledger_paths(tmp_path)) == 2
    reshard(tmp_path, 1)
    assert set(ids(tmp_path)) == set(names)
    assert [path.name for path in ledger_paths(tmp_path)] == ["ledger.jsonl"]
