"""`extract report --sweep`: where the page and the table go, and what they do not replace."""

import csv
import json
from pathlib import Path

import pytest

from extract.commands import report

LINE = {"id": "a.wav", "path": "/gone/a.wav", "status": "saved", "peak": 0.5, "duration_s": 1.0}


def store(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "ledger.jsonl").write_text(json.dumps(LINE) + "\n")
    return path


@pytest.fixture
def stores(tmp_path: Path) -> list[Path]:
    return [store(tmp_path / "demo" / name) for name in ("one", "two")]


def made(*argv: str | Path) -> int:
    return report.main(["--sweep", *map(str, argv)])


def named(folder: Path) -> list[str]:
    """The stores in the table of a folder."""
    with (folder / "sweep.csv").open(encoding="utf-8-sig", newline="") as file:
        return [row["store"] for row in csv.DictReader(file)]


def test_the_page_and_the_table_are_above_the_stores_and_may_be_made_again(stores, capsys):
    above = stores[0].parent
    for _ in range(2):
        assert made(*stores, stores[0]) == 0
        assert capsys.readouterr().out == f"{above / 'sweep.html'}\n"
    assert named(above) == ["one", "two"]
    assert (above / "sweep.html").read_bytes().endswith(b"</html>\n")
    assert {path.name for path in above.iterdir()} == {"one", "two", "sweep.csv", "sweep.html"}
    assert [path.name for one in stores for path in one.iterdir()] == 2 * ["ledger.jsonl"]


def test_stores_of_several_folders_have_a_page_in_each_and_one_alone_has_none(stores, tmp_path):
    others = [store(tmp_path / "other" / name) for name in ("one", "three")]
    alone = store(tmp_path / "alone" / "one")
    assert made(stores[0], others[0], alone, stores[1], others[1]) == 0
    assert named(tmp_path / "demo") == ["one", "two"]
    assert named(tmp_path / "other") == ["one", "three"]
    assert [path.name for path in (tmp_path / "alone").iterdir()] == ["one"]
    assert made(alone) == 2


def test_output_takes_one_page_of_all_stores(stores, tmp_path):
    other = store(tmp_path / "other" / "one")
    (tmp_path / "here").mkdir()
    assert made(*stores, other, "--output", tmp_path / "here") == 0
    assert named(tmp_path / "here") == [str(one) for one in (*stores, other)]
    assert made(*stores, "--output", tmp_path / "nowhere") == 2
    assert not (tmp_path / "demo" / "sweep.html").exists()


@pytest.mark.parametrize("name", ["sweep.html", "sweep.csv"])
@pytest.mark.parametrize("what", ["file", "folder", "link"])
def test_what_no_sweep_made_is_not_replaced(stores, tmp_path, name, what, capsys):
    path = stores[0].parent / name
    if what == "file":
        path.write_text("frequency,gain\n")
    elif what == "folder":
        path.mkdir()  # of recordings, perhaps
    else:
        path.symlink_to(tmp_path / "elsewhere")
    assert made(*stores) == 2
    assert f"{path}: not made by a sweep, so it stays" in capsys.readouterr().err
    assert (path.is_symlink(), path.is_dir()) == (what == "link", what == "folder")
    assert len(list(path.parent.iterdir())) == 3


def test_a_folder_without_a_ledger_is_refused(stores, tmp_path, capsys):
    (tmp_path / "demo" / "empty").mkdir()
    assert made(*stores, tmp_path / "demo" / "empty") == 2
    assert "no ledger here" in capsys.readouterr().err
