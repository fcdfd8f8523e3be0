"""A source of an installed package is a choice like any other, without an edit anywhere."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from extract import choices
from extract.manifest.source import Output, read_source
from extract.manifest.sources import folder, gpt_sovits
from support.command import TINY
from support.packages import install
from support.recordings import write_wav
from support.stores import ledger

GUIDE = Path(__file__).parents[2].joinpath("docs", "contributing.md").read_text("utf8")
OWN = choices.own("sources")
LINES = GUIDE.split("## How to add a source")[1].split("```python\n")[1].split("```")[0]


@pytest.fixture
def extract(tmp_path: Path):
    """Runs the command in a process of its own, with the guide's source installed."""
    environment = install(
        tmp_path / "packages", "extract.sources", "lines", "my_package.lines", LINES
    )
    for number in range(4):
        write_wav(tmp_path / "wavs" / f"{number}.wav", seed=number)
    names = [f"{number}.wav" for number in range(4)]
    (tmp_path / "a(1).txt").write_text("\n".join([*names, "# the end"]))

    def extract(*argv: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "extract", *argv]
        environment["HOME"] = str(tmp_path)
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    return extract


CHOSEN = ["dataset=lines", "dataset.path=a(1).txt", "dataset.root=~/wavs", *TINY]


def test_it_runs_to_a_finished_store(extract, tmp_path):
    ran = extract(*CHOSEN, "dataset.every=1")
    assert ran.returncode == 1, ran.stderr  # the comment failed
    [store] = (tmp_path / "outputs" / "a(1)").iterdir()
    statuses = {record["id"]: record["status"] for record in ledger(store)}
    assert statuses == {f"{number}.wav": "saved" for number in range(4)} | {"a(1).txt:5": "failed"}
    made_with = json.loads((store / "metadata.json").read_text())["made_with"]
    assert made_with["dataset"] == f"{tmp_path}/a(1).txt"


def test_its_options_may_be_swept_over(extract, tmp_path):
    ran = extract("-m", *CHOSEN, "dataset.every=2,3", "store.dir=out${dataset.every}")
    assert ran.returncode == 0, ran.stderr
    found = [{record["id"] for record in ledger(tmp_path / f"out{every}")} for every in (2, 3)]
    assert found == [{"1.wav", "3.wav"}, {"2.wav"}]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["dataset.evry=2"], "Key 'evry' not in 'Options'"),
        (["dataset.audio_dir=x"], "Key 'audio_dir' not in 'Options'"),  # another source's
        (["dataset.every=0"], "dataset.every: 0; needed at least 1, and finite"),
        (["dataset.every=some"], "Value 'some' of type 'str' could not be converted to Integer"),
        (["dataset.root=nowhere"], "nowhere: no such folder; looked for /"),
        (["dataset.kind=folder"], "dataset.kind: 'folder' with the options of another choice"),
        (
            ["dataset.kind=no"],
            f"no: none of extract's sources; needed {' or '.join([*OWN, 'lines'])}",
        ),
        (["dataset=line"], "Could not find 'dataset/line'"),
        (["dataset=line"], " ".join(sorted([*OWN, "demo", "lines", "mydata"]))),
    ],
)
def test_a_mistake_in_its_options_ends_before_any_work(extract, tmp_path, argv, said):
    changed = {word.partition("=")[0] for word in argv}
    ran = extract(*(word for word in CHOSEN if word.partition("=")[0] not in changed), *argv)
    assert ran.returncode == 2, ran.stderr
    assert said in " ".join(ran.stderr.split())
    assert not (tmp_path / "outputs").exists()


def test_it_is_in_the_help_and_its_options_are_shown(extract):
    listed = ", ".join(sorted([*OWN, "demo", "lines", "mydata"]))
    help_screen = " ".join(extract("--help").stdout.split())
    assert f" dataset {listed} preset " in help_screen
    shown = extract("--cfg", "job", "dataset=lines").stdout
    assert "\n  kind: lines\n  path: ???\n  root: .\n  every: 1\n" in shown


def test_it_is_not_imported_until_it_is_chosen(extract, tmp_path):
    (tmp_path / "packages" / "my_package" / "lines.py").write_text("1 / 0")
    assert "lines" in extract("--help", "dataset=folder").stdout
    ran = extract("dataset=demo", "dataset.pth=x")
    assert (ran.returncode, "Key 'pth' not in 'Options'" in ran.stderr) == (2, True), ran.stderr
    assert "ZeroDivisionError" in extract("--help", "dataset=lines").stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import not_there", "lines: needs the package not_there, which is missing"),
        ("", "lines: my_package.lines has no dataclass `Options`; needed one"),
    ],
)
def test_a_package_that_cannot_be_used_is_named(extract, tmp_path, text, said):
    (tmp_path / "packages" / "my_package" / "lines.py").write_text(text)
    ran = extract(*CHOSEN)
    assert (ran.returncode, said in ran.stderr) == (2, True), ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_file_of_options_may_be_built_on_it(extract, tmp_path):
    conf = tmp_path / "conf" / "dataset"
    conf.mkdir(parents=True)
    (conf / "corpus.yaml").write_text("defaults:\n  - lines\n  - _self_\npath: a(1).txt\nname: c\n")
    argv = ["dataset=corpus", "dataset.root=~/wavs", "dataset.every=4", "--config-dir=conf"]
    ran = extract(*argv, *TINY)
    assert ran.returncode == 0, ran.stderr
    [store] = (tmp_path / "outputs" / "c").iterdir()
    assert [record["id"] for record in ledger(store)] == ["3.wav"]


# --- without the command -----------------------------------------------------------------------


def test_a_source_is_told_of_the_layout(tmp_path):
    for name in ("a.wav", "npy/b.wav", "5-wav32k/c.wav"):
        write_wav(tmp_path / name)
    output = Output(str(tmp_path), folders=("npy",), suffixes=("", ".features"))
    options = folder.Options(kind="folder", path=str(tmp_path))
    assert list(read_source(options, output).ids) == ["a.wav", "5-wav32k/c.wav"]
    long = "x" * 250
    (tmp_path / "l.list").write_text(f"/a/{long}|s|zh|t\n/a/b.wav|s|zh|t\n")
    options = gpt_sovits.Options(kind="gpt_sovits", path=str(tmp_path / "l.list"))
    manifest = read_source(options, output)
    [failure] = manifest.failures
    assert list(manifest.ids) == ["b.wav"]
    assert (failure.recording.id, failure.reason) == ("l.list:1", "bad_id")


@pytest.mark.parametrize("source", choices.own("sources"))
def test_options_are_read_without_numpy_and_torch(source):
    code = (
        f"import sys; from extract.options import schema_of; schema_of('dataset', '{source}'); "
        "assert not {'numpy', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- layouts and engines -----------------------------------------------------------------------

A_LAYOUT = """
from dataclasses import dataclass
from extract.store.layout import LayoutOptions
from extract.fields import number

@dataclass
class Options(LayoutOptions):
    level: int = number(3, at_least=1)
"""


def test_a_layout_of_an_installed_package_is_a_choice_of_its_group(tmp_path):
    environment = install(tmp_path, "extract.layouts", "packed", "my_layout", A_LAYOUT)

    def run(*argv):
        command = [sys.executable, "-m", "extract", "dataset=demo", *argv]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        return done.stdout + done.stderr

    shown = run("store=packed", "store.level=5", "--cfg", "job", "--resolve")
    assert "  level: 5\n" in shown
    assert "  dir: outputs/demo/tiny_random-packed-level5-maxx0.95-alpha0.5\n" in shown
    assert "store.level: 0; needed at least 1" in run("store=packed", "store.level=0")
    assert "Key 'level' not in 'Options'" in run("store.level=5")
    assert "packed" in run("store=unpacked")
