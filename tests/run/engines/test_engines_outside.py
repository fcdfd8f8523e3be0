"""Engines of other packages, used on the command line without an edit anywhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from extract.shard import Shard
from support.command import TINY
from support.packages import install
from support.recordings import write_wav
from support.stores import audit, contents, ids_of

PAGE = Path(__file__).parents[3] / "docs" / "contributing.md"

# In a process of its own that knows nothing of this one, so all that travels is pickled; the last
# shard first.
ELSEWHERE = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from extract.config import EngineOptions

@dataclass
class Options(EngineOptions):
    kind: str = "elsewhere"

def shards(config):
    return config.shard.all()

def run(config, shards, unit, watch, stop):
    spawn = multiprocessing.get_context("spawn")
    summaries = []
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        for shard in reversed(shards):
            summaries.append(pool.submit(unit, config, shard).result())
            watch.said(f"shard {shard}: {summaries[-1].num('saved')} saved")
    return summaries
"""


def extract(environment, *words) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "extract", *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def folder(recordings: Path, store: Path) -> list[str]:
    return ["dataset=folder", f"dataset.path={recordings}", f"store.dir={store}", *TINY]


@pytest.fixture
def few(tmp_path: Path) -> Path:
    for number in range(6):
        write_wav(tmp_path / "in" / f"{number}.wav", 0.2 + 0.1 * number, number)
    return tmp_path / "in"


@pytest.fixture
def documented(tmp_path: Path) -> dict[str, str]:
    """An environment in which the engine of `How to add an engine` is installed as it says."""
    text = PAGE.read_text("utf8").split("## How to add an engine\n")[1]
    [source] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    [(group, name, module)] = re.findall(r'\[project.entry-points."(.+)"\]\n(\w+) = "(.+)"\n', text)
    return install(tmp_path / "packages", group, name, module, source)


def test_the_documented_engine_runs_all_shards(documented, few, tmp_path):
    command = re.search(r"python -m extract dataset=mydata (.+)", PAGE.read_text("utf8"))[1]
    ran = extract(documented, *folder(few, tmp_path / "out"), *command.split())
    assert ran.returncode == 0, ran.stderr
    said = [line for line in ran.stderr.splitlines() if line.startswith("shard ")]
    assert said == [f"shard {index}-of-8" for index in range(8)]
    audit(tmp_path / "out", ids_of(few))
    ledgers = {path.name for path in (tmp_path / "out").glob("ledger*")}
    assert ledgers == {f"ledger.{index}-of-8.jsonl" for index in range(8)}


def test_an_engine_may_run_shards_in_another_process_and_order(few, tmp_path, command):
    packages = tmp_path / "packages"
    environment = install(packages, "extract.engines", "elsewhere", "an_engine", ELSEWHERE)
    (few / "broken.wav").write_bytes(b"RIFF but not really")
    words = folder(few, tmp_path / "out")
    ran = extract(environment, *words, "engine.kind=elsewhere", "shard.count=2")
    assert ran.returncode == 1, ran.stderr  # of the shard with the broken recording
    said = re.findall(r"^shard (\d)-of-2: (\d) saved$", ran.stderr, re.MULTILINE)
    assert [index for index, _saved in said] == ["1", "0"]
    assert sum(int(saved) for _index, saved in said) == 6
    audit(tmp_path / "out", {*ids_of(few), "broken.wav"})
    before = contents(tmp_path / "out")
    code = command(*words, "shard.count=2")  # by `local`: the first shard alone
    assert code == Shard(0, 2).owns("broken.wav")
    assert contents(tmp_path / "out") == before


def test_an_unknown_engine_is_a_mistake_that_is_said_before_torch_is_imported(tmp_path):
    code = (
        "import sys; from extract.app import main; "
        "code = main(['dataset=demo', 'engine.kind=nosuch', *sys.argv[1:]]); "
        "assert 'torch' not in sys.modules, 'torch was imported'; sys.exit(code)"
    )
    command = [sys.executable, "-c", code, *TINY]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert ran.returncode == 2, ran.stderr
    assert ran.stderr.startswith("engine.kind: nosuch: none of extract's engines; needed local")
    assert list(tmp_path.iterdir()) == []
