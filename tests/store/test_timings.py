"""The file of a run's timings: bounded, and never a reason for a run to end."""

import json

from extract.shard import Shard
from extract.store import timings
from extract.store.timings import Timings


def test_each_shard_has_a_file_and_all_are_read(tmp_path):
    (tmp_path / ".extract").mkdir()
    for shard in (Shard(), Shard(0, 2), Shard(1, 2)):
        Timings(tmp_path, shard).begin({"began": str(shard)})
    names = {path.name for path in (tmp_path / ".extract").iterdir()}
    assert names == {"timings.jsonl", "timings.0-of-2.jsonl", "timings.1-of-2.jsonl"}
    assert {line["began"] for line in timings.read(tmp_path)} == {"0-of-1", "0-of-2", "1-of-2"}


def test_a_run_that_finds_a_large_file_keeps_its_newer_half(tmp_path):
    (tmp_path / ".extract").mkdir()
    path = tmp_path / ".extract" / "timings.jsonl"
    line = json.dumps({"s": 1.0, "text": "x" * 1000})
    path.write_text(f"{line}\n" * 1100)
    assert path.stat().st_size > timings.MAX_BYTES
    Timings(tmp_path, Shard()).begin({"began": "now"})
    assert path.stat().st_size < timings.MAX_BYTES / 2 + 100
    lines = path.read_text().splitlines()
    assert set(lines[:-1]) == {line}
    assert json.loads(lines[-1]) == {"began": "now"}


def test_a_torn_line_is_dropped_and_a_copy_of_hard_links_stays_as_it_is(tmp_path):
    (tmp_path / ".extract").mkdir()
    path, copy = tmp_path / ".extract" / "timings.jsonl", tmp_path / "copy"
    path.write_text('{"s":1}\n{"s":')
    copy.hardlink_to(path)
    run = Timings(tmp_path, Shard())
    run.begin({"began": "now"})
    run.add({"s": 2})
    assert path.read_text() == '{"s":1}\n{"began":"now"}\n{"s":2}\n'
    assert copy.read_text() == '{"s":1}\n{"s":'


def test_damaged_lines_are_left_out(tmp_path):
    (tmp_path / ".extract").mkdir()
    path = tmp_path / ".extract" / "timings.jsonl"
    path.write_bytes(b'{"s":1}\n[1]\n\xff\xfe\n' + b"[" * 9000 + b'\n{"s":2}\n{"s":')
    assert [line["s"] for line in timings.read(tmp_path)] == [1, 2]


def test_what_cannot_be_written_is_left_out(tmp_path):
    (tmp_path / ".extract" / "timings.jsonl" / "full").mkdir(parents=True)
    for store in (tmp_path, tmp_path / "gone"):
        run = Timings(store, Shard())
        run.begin({"began": "now"})
        run.add({"s": 1})
    assert list(timings.read(tmp_path)) == []
