"""`extract show`: what the ledgers hold, for eyes and for programs, of a store of any size."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from extract.commands import show
from extract.shard import Shard

RECORDS = [
    {"id": "a.wav", "status": "saved", "peak": 0.5, "duration_s": 3600.0, "clipped_samples": 1234},
    {"id": "语音.wav", "status": "saved", "peak": 0.25, "duration_s": 1800.0, "clipped_samples": 0},
    {"id": "quiet.wav", "status": "rejected", "reason": "silent", "detail": "only zeros"},
    {"id": "gone.wav", "status": "failed", "reason": "missing", "detail": "no such file"},
    {"id": "torn.wav", "status": "failed", "reason": "undecodable", "detail": "no sound"},
    {"id": "html.wav", "status": "failed", "reason": "undecodable", "detail": "no sound"},
]
TOTALS = (
    "6 utterances: 2 saved (1.50 h), 1 rejected (silent 1), 3 failed (missing 1, undecodable 2)"
)


def write_ledger(store: Path, records: list[dict], name: str = "ledger.jsonl") -> Path:
    store.mkdir(exist_ok=True)
    (store / name).write_text("".join(json.dumps(record) + "\n" for record in records), "utf8")
    return store


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Six utterances over the ledgers of two shards."""
    write_ledger(tmp_path / "store", RECORDS[:2], Shard(0, 2).ledger_name)
    return write_ledger(tmp_path / "store", RECORDS[2:], Shard(1, 2).ledger_name)


BUFFERED = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}


def process(*argv: str | Path, stdout=subprocess.PIPE, **environment: str) -> subprocess.Popen:
    """The command in a process of its own, its output buffered as Python does by itself."""
    command = [sys.executable, "-m", "extract", "show", *map(str, argv)]
    environment = BUFFERED | environment
    return subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, env=environment)


def shown(capsys, *argv: str | Path) -> list[str]:
    assert show.main(list(map(str, argv))) == 0
    return capsys.readouterr().out.splitlines()


def test_every_utterance_of_every_shard_is_in_the_table(store, capsys):
    lines = shown(capsys, store)
    assert lines[0].split() == list(show.COLUMNS)
    assert [line.split() for line in lines[1:3]] == [
        ["saved", "3600.00", "0.500", "1,234", "a.wav"],
        ["saved", "1800.00", "0.250", "0", "语音.wav"],
    ]
    assert lines[3].split() == ["rejected", "silent", "quiet.wav", "only", "zeros"]
    assert lines[-1] == TOTALS
    assert len(lines) == 1 + len(RECORDS) + 1


def test_a_column_starts_where_its_head_does(store, capsys):
    lines = shown(capsys, store, "--status", "failed")
    for record, line in zip(RECORDS[3:], lines[1:-1], strict=True):
        for field in ("status", "reason", "id", "detail"):
            assert line.index(record[field]) == lines[0].index(field)


def test_wide_characters_take_two_columns(tmp_path, capsys):
    records = [
        {"id": name, "status": "failed", "detail": "end"} for name in ("语音语音", "abcdefgh")
    ]
    lines = shown(capsys, write_ledger(tmp_path / "store", records))
    assert lines[1].index("end") + 4 == lines[2].index("end")


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        (["--status", "failed"], ["gone.wav", "torn.wav", "html.wav"]),
        (["--status", "saved"], ["a.wav", "语音.wav"]),
        (["--reason", "undecodable"], ["torn.wav", "html.wav"]),
        (["--status", "failed", "--reason", "missing"], ["gone.wav"]),
        (["--status", "saved", "--reason", "missing"], []),
    ],
)
def test_only_what_is_asked_for_is_shown_and_all_is_counted(store, capsys, options, ids):
    lines = shown(capsys, store, *options)
    assert [next(i for i in line.split() if i.endswith(".wav")) for line in lines[1:-1]] == ids
    assert lines[-1] == TOTALS
    objects = map(json.loads, shown(capsys, store, *options, "--json"))
    assert [record["id"] for record in objects] == ids


def test_json_gives_the_records_whole(store, capsys):
    lines = shown(capsys, store, "--json")
    assert list(map(json.loads, lines)) == RECORDS
    assert all(line.isascii() for line in lines)


@pytest.mark.parametrize("hostile", ["\x1b[31m", "a\nb", "\u202e", "\u2028", "\udcff", "x" * 9_999])
def test_whatever_a_ledger_holds_is_printed_safely(tmp_path, capsys, hostile):
    record = {"id": hostile, "status": "failed", "reason": hostile, "detail": hostile}
    store = write_ledger(tmp_path / "store", [record])
    lines = shown(capsys, store)
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)
    assert max(map(len, lines)) < 700
    assert json.loads(*shown(capsys, store, "--json")) == record


@pytest.mark.parametrize(
    "record",
    [
        {"id": "a"},
        {"id": "a", "status": None, "peak": "loud", "duration_s": [1], "detail": {"b": 2}},
        {"id": "a", "status": ["saved"], "reason": 7, "peak": True},
        {"id": "a", "status": "saved", "duration_s": "long"},
    ],
)
def test_a_damaged_line_is_shown_as_it_is(tmp_path, capsys, record):
    lines = shown(capsys, write_ledger(tmp_path / "store", [record]))
    assert "a" in lines[1].split()
    assert lines[2].startswith("1 utterance: ")


def test_a_name_that_the_locale_cannot_encode_is_escaped(store):
    with process(store, PYTHONIOENCODING="ascii") as running:
        said, errors = running.communicate()
    assert running.returncode == 0, errors
    assert rb"\u8bed\u97f3.wav" in said


@pytest.mark.parametrize("what", ["nowhere", "a folder", "a file"])
def test_what_is_no_store_is_refused_with_a_sentence(tmp_path, capsys, what):
    path = tmp_path / what
    if what == "a folder":
        path.mkdir()
    if what == "a file":
        path.write_text("")
    assert show.main([str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"{path}: no ledger here; needed ")


@pytest.mark.parametrize("argv", [[], ["--status", "lost"], ["--reason", "bad"]])
def test_a_mistake_names_the_choices(store, capsys, argv):
    with pytest.raises(SystemExit) as ended:
        show.main([*argv, str(store)] if argv else [])
    assert ended.value.code == 2
    assert {"lost": "rejected", "bad": "undecodable"}.get(argv[-1] if argv else "", "STORE") in (
        capsys.readouterr().err
    )


def test_a_ledger_that_cannot_be_read_is_said_and_is_1(tmp_path):
    (tmp_path / "ledger.jsonl").mkdir()
    with process(tmp_path) as running:
        _said, errors = running.communicate()
    assert running.returncode == 1
    assert b"ledger.jsonl" in errors
    assert errors.count(b"\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full")
@pytest.mark.parametrize("more", [[], ["--csv"]])
def test_an_output_that_is_full_is_said_and_is_1(store, more):
    with open("/dev/full", "wb") as full, process(store, *more, stdout=full) as running:
        _said, errors = running.communicate()
    assert running.returncode == 1
    assert b"No space left" in errors
    assert errors.count(b"\n") == 1


@pytest.mark.parametrize("more", [[], ["--json"], ["--csv"]])
def test_a_reader_that_has_seen_enough_ends_it_quietly(tmp_path, more):
    store = write_ledger(tmp_path / "store", RECORDS * 20_000)
    with process(store, *more) as running:
        assert running.stdout.readline()
        running.stdout.close()
        assert running.stderr.read() == b""
        assert running.wait(60) == 0


class Counted:
    """What knows how many of its kind there are, and were at most."""

    alive = most = 0

    def __init__(self, *args) -> None:
        super().__init__(*args)
        kind = type(self)
        kind.alive += 1
        kind.most = max(kind.most, kind.alive)

    def __del__(self) -> None:
        type(self).alive -= 1


@pytest.mark.parametrize("more", [[], ["--json"], ["--csv"]])
def test_records_are_held_a_block_at_a_time(store, capsys, monkeypatch, more):
    class Record(Counted, dict):
        pass

    class Row(Counted, list):
        pass

    num_records = 5 * show.BLOCK
    cells = show._cells
    monkeypatch.setattr(
        show, "_records", lambda _: (Record(RECORDS[0]) for _ in range(num_records))
    )
    monkeypatch.setattr(show, "_cells", lambda record: Row(cells(record)))
    assert len(shown(capsys, store, *more)) >= num_records
    assert 0 < Record.most <= 4
    assert Row.most <= 2 * show.BLOCK


def test_it_starts_without_what_a_run_needs(store):
    code = (
        "import sys; from extract.__main__ import command; "
        f"sys.argv[1:] = ['show', {str(store)!r}]; code = command(); "
        "print(*sys.modules, file=sys.stderr); sys.exit(code)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == TOTALS
    heavy = {"torch", "hydra", "omegaconf", "transformers", "av", "numpy", "pyarrow"}
    assert not heavy & set(result.stderr.split())


def test_the_help_says_what_there_is(capsys):
    with pytest.raises(SystemExit) as ended:
        show.main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "--status" in said
    assert "undecodable" in said
