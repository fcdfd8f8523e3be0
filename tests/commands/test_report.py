"""`extract report`: where the page goes, and what the command refuses."""

import json
from pathlib import Path

import pytest

from extract.commands import report

LINE = {"id": "a.wav", "path": "/gone/a.wav", "status": "saved", "peak": 0.5, "duration_s": 1.0}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "ledger.jsonl").write_text(json.dumps(LINE) + "\n")
    return tmp_path / "store"


def made(*argv: str | Path) -> int:
    return report.main(list(map(str, argv)))


def test_each_store_gets_its_page(store, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "ledger.0-of-2.jsonl").write_text(json.dumps(LINE) + "\n")
    assert made(store, tmp_path / "other") == 0
    pages = [store / "report.html", tmp_path / "other" / "report.html"]
    assert capsys.readouterr().out.splitlines() == list(map(str, pages))
    assert all(page.read_bytes().endswith(b"</html>\n") for page in pages)


def test_output_takes_the_page_and_leaves_the_store_as_it_was(store, tmp_path):
    assert made(store, "--output", tmp_path / "page.html") == 0
    assert (tmp_path / "page.html").exists()
    assert [path.name for path in store.iterdir()] == ["ledger.jsonl"]


def test_a_folder_without_a_ledger_is_refused(tmp_path, capsys):
    assert made(tmp_path) == 2
    assert "no ledger here" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["ledger.jsonl", "metadata.json", "", "."])
def test_a_page_replaces_no_file_of_the_stores_and_no_folder(store, name, capsys):
    before = (store / "ledger.jsonl").read_bytes()
    assert made(store, "--output", f"{store}/{name}" if name else "") == 2
    assert "--output" in capsys.readouterr().err
    assert (store / "ledger.jsonl").read_bytes() == before


def test_one_page_of_two_stores_is_refused(store, capsys):
    with pytest.raises(SystemExit) as ended:
        made(store, store, "--output", "page.html")
    assert ended.value.code == 2
    assert "takes one STORE" in capsys.readouterr().err


def test_a_page_that_cannot_be_written_is_said(store, tmp_path, capsys):
    assert made(store, "--output", tmp_path / "no" / "folder" / "page.html") == 1
    assert "No such file" in capsys.readouterr().err
