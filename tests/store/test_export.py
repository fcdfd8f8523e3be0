"""The ledger as CSV and Parquet, read back with other programs' readers."""

import csv
import io
import json
import sys
from dataclasses import fields

import pandas
import pytest
from pyarrow import parquet

from extract.commands import show
from extract.shard import Shard
from extract.store import export
from extract.store.ledger import Record
from support.stores import ledger

RECORDS = [
    Record(
        "语音.wav",
        "/there/语音.wav",
        "saved",
        peak=0.5,
        duration_s=1.25,
        num_frames=62,
        dtype="float16",
        retried_fp32=False,
        clipped_samples=3,
        source_size=40_044,
        source_mtime_ns=1_700_000_000_123_456_789,
        files=(
            ("4-cnhubert/语音.wav.pt", 0, 96_000, 4_294_967_295),
            ("5-wav32k/语音.wav", 0, 40_044, 0),
        ),
    ),
    Record("a,b.wav", '/there/"a",b.wav', "rejected", "silent", "only zeros", duration_s=1.0),
    Record("gone.wav", "/there/gone.wav", "failed", "missing", "no such file", peak=0.0),
]
NUMBERS = ["peak", "duration_s", "num_frames", "clipped_samples", "source_size", "source_mtime_ns"]
TEXTS = ["id", "path", "status", "reason", "detail", "dtype"]


@pytest.fixture
def store(tmp_path):
    folder = tmp_path / "store"
    folder.mkdir()
    (folder / Shard(0, 2).ledger_name).write_bytes(b"".join(one.line() for one in RECORDS[:1]))
    (folder / Shard(1, 2).ledger_name).write_bytes(b"".join(one.line() for one in RECORDS[1:]))
    return folder


def as_csv(capfdbinary, *argv) -> bytes:
    assert show.main([*map(str, argv), "--csv"]) == 0
    return capfdbinary.readouterr().out


def as_parquet(path, *argv):
    assert show.main([*map(str, argv), "--parquet", str(path)]) == 0
    return parquet.read_table(path)


def write_lines(store, *records: dict):
    (store / Shard(1, 2).ledger_name).write_text("".join(json.dumps(r) + "\n" for r in records))


def test_there_is_a_column_for_each_field_of_the_ledger():
    assert list(export.COLUMNS) == [field.name for field in fields(Record)]
    assert set(export.COLUMNS) >= {*NUMBERS, *TEXTS, "retried_fp32", "files"}


def test_csv_is_what_the_csv_module_and_pandas_read(store, capfdbinary):
    data = as_csv(capfdbinary, store)
    assert data.startswith(b"\xef\xbb\xbfid,path,status,")
    assert data.count(b"\r\n") == data.count(b"\n") == 4
    rows = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline="")))
    frame = pandas.read_csv(io.BytesIO(data))
    assert len(rows) == len(frame) == 3
    for number, (record, row) in enumerate(zip(ledger(store), rows, strict=True)):
        for name in TEXTS:
            assert row[name] == (record[name] or "")
        for name in NUMBERS:
            assert row[name] == ("" if record[name] is None else str(record[name]))
            cell = frame[name][number]
            assert cell == record[name] or (pandas.isna(cell) and record[name] is None)
    assert [row["retried_fp32"] for row in rows] == ["false", "", ""]
    assert json.loads(rows[0]["files"]) == ledger(store)[0]["files"]
    assert frame["source_mtime_ns"].dtype == "int64"
    assert frame["peak"].dtype == frame["duration_s"].dtype == "float64"


def test_parquet_is_what_pyarrow_and_pandas_read(store, tmp_path, capsys):
    table = as_parquet(tmp_path / "ledger.parquet", store)
    assert capsys.readouterr().out.startswith("3 utterances: 1 saved (0.00 h), 1 rejected")
    types = {field.name: str(field.type) for field in table.schema}
    assert types | dict.fromkeys(TEXTS, "string") == types
    assert types["peak"] == types["duration_s"] == "double"
    assert {types[name] for name in NUMBERS[2:]} == {"int64"}
    assert types["retried_fp32"] == "bool"
    for row, record in zip(table.to_pylist(), ledger(store), strict=True):
        files = [[*file.values()] for file in row.pop("files") or []]
        assert files == (record.pop("files") or [])
        assert {name: row[name] for name in record} == record
    frame = pandas.read_parquet(tmp_path / "ledger.parquet")
    assert frame["source_mtime_ns"][0] == 1_700_000_000_123_456_789
    assert frame["files"][0][0]["name"] == "4-cnhubert/语音.wav.pt"


def test_only_what_is_asked_for_is_given(store, tmp_path, capfdbinary):
    data = as_csv(capfdbinary, store, "--status", "failed")
    assert [row["id"] for row in csv.DictReader(io.StringIO(data.decode("utf-8-sig")))] == [
        "gone.wav"
    ]
    table = as_parquet(tmp_path / "some.parquet", store, "--reason", "silent")
    assert table["id"].to_pylist() == ["a,b.wav"]


FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "=cmd|'/C calc'!A0", "'quoted", "＝1+1", "＠SUM(A1)"]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_cell_is_no_formula_and_one_apostrophe_is_ours(store, capfdbinary, text):
    write_lines(store, {"id": text, "path": text, "status": "failed", "reason": "missing"})
    data = as_csv(capfdbinary, store, "--status", "failed").decode("utf-8-sig")
    [row] = csv.DictReader(io.StringIO(data))
    assert row["id"] == row["path"] == f"'{text}"
    assert row["source_size"] == ""
    write_lines(store, {"id": "a", "status": "failed", "source_size": -1})
    [row] = csv.DictReader(io.StringIO(as_csv(capfdbinary, store, "--status", "failed").decode()))
    assert row["source_size"] == "-1"  # a number, which no text can be


@pytest.mark.parametrize(
    "hostile", ["\x1b[31m", "a\nb", "a\r\nb", "\t=1", "\u202e", "\udcff", "\0"]
)
def test_whatever_a_ledger_holds_is_one_printable_line(store, tmp_path, capfdbinary, hostile):
    write_lines(store, {"id": hostile, "status": "failed", "detail": hostile, "path": hostile})
    data = as_csv(capfdbinary, store, "--status", "failed").decode("utf-8-sig")
    lines = data.split("\r\n")
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)
    table = as_parquet(tmp_path / "hostile.parquet", store, "--status", "failed")
    whole = "\\udcff" if hostile == "\udcff" else hostile
    assert table["detail"].to_pylist() == [whole]


def test_a_damaged_line_has_a_row_with_what_is_of_the_right_type(store, tmp_path, capfdbinary):
    write_lines(
        store,
        {"id": "a"},
        {"id": "b", "status": ["saved"], "reason": 7, "peak": "loud", "duration_s": 3},
        {"id": "c", "num_frames": 2**70, "retried_fp32": 1, "files": [1], "peak": True},
        {"id": "d", "files": [["x", 0, 2**80, 1]], "detail": {"é": 1}, "duration_s": 10**400},
    )
    table = as_parquet(tmp_path / "damaged.parquet", store)
    rows = {row["id"]: row for row in table.to_pylist()}
    assert list(rows) == ["语音.wav", "a", "b", "c", "d"]
    assert [rows["b"][name] for name in ("status", "reason", "peak", "duration_s")] == [
        '["saved"]',
        "7",
        None,
        3.0,
    ]
    assert [rows["c"][name] for name in ("num_frames", "retried_fp32", "files", "peak")] == [
        *[None] * 4
    ]
    assert [rows["d"][name] for name in ("files", "detail", "duration_s")] == [
        None,
        '{"é":1}',
        None,
    ]
    assert as_csv(capfdbinary, store).count(b"\r\n") == 6


@pytest.mark.parametrize("what", ["a folder", "nothing", "its own ledger", "metadata"])
def test_a_file_that_may_not_be_written_is_refused(store, tmp_path, capsys, what):
    (tmp_path / "folder").mkdir()
    names = {
        "a folder": tmp_path / "folder",
        "nothing": "",
        "its own ledger": store / "ledger.jsonl",
        "metadata": store / ".." / "store" / "metadata.json",
    }
    before = sorted(tmp_path.rglob("*"))
    assert show.main([str(store), "--parquet", str(names[what])]) == 2
    assert "; needed " in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_the_file_is_whole_or_as_it_was(store, tmp_path, monkeypatch, capfd):
    target = tmp_path / "ledger.parquet"
    target.write_bytes(b"mine")
    monkeypatch.setattr(export, "BLOCK", 1)
    storable, seen = export._storable, []

    def full(line):
        seen.append(line)
        if len(seen) == 3:
            raise OSError(28, "No space left on device")
        return storable(line)

    monkeypatch.setattr(export, "_storable", full)
    assert show.main([str(store), "--parquet", str(target)]) == 1
    assert "No space left on device" in capfd.readouterr().err
    assert target.read_bytes() == b"mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ledger.parquet", "store"]
    monkeypatch.setattr(export, "_storable", storable)
    assert as_parquet(target, store).num_rows == 3
    assert parquet.ParquetFile(target).num_row_groups == 3


class Counted(dict):
    """What knows how many of its kind there are at most."""

    alive = most = 0

    def __init__(self, *args):
        super().__init__(*args)
        Counted.alive += 1
        Counted.most = max(Counted.most, Counted.alive)

    def __del__(self):
        Counted.alive -= 1


@pytest.mark.parametrize(
    ("parts", "most"), [(export.csv_parts, 3), (export.parquet_parts, 2 * 100)]
)
def test_lines_are_held_a_block_at_a_time(monkeypatch, parts, most):
    monkeypatch.setattr(export, "BLOCK", 100)
    monkeypatch.setattr(Counted, "most", 0)
    storable = export._storable
    monkeypatch.setattr(export, "_storable", lambda line: Counted(storable(line)))
    lines = (Counted({"id": str(n), "status": "saved"}) for n in range(5_000))
    sizes = [len(part) for part in parts(lines)]
    assert 0 < Counted.most <= most + 2
    assert len(sizes) > 5_000 / 100


def test_a_missing_package_is_named_with_its_command(store, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert show.main([str(store), "--parquet", str(tmp_path / "a.parquet")]) == 2
    said = capsys.readouterr().err
    assert "needs the package pyarrow, which is missing: pip install 'extract-ssl[parquet]'" in said
    assert not (tmp_path / "a.parquet").exists()


def test_one_form_at_a_time(store, capsys):
    with pytest.raises(SystemExit) as ended:
        show.main([str(store), "--csv", "--json"])
    assert ended.value.code == 2
    assert "not allowed with" in capsys.readouterr().err
