"""docs/contributing.md, "How to add a quantizer" and a format: the examples work as they stand."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from extract import choices, options
from extract.commands.quantize import main as quantize
from extract.encoder.quantizers import kmeans
from extract.run.job import run_shard
from extract.shard import Shard
from support.configs import tiny_config
from support.packages import forget_packages, install
from support.recordings import write_wav
from support.stores import ledger

PAGE = Path(__file__).parents[3] / "docs" / "contributing.md"


@pytest.fixture(params=["a quantizer"])
def installed(request, tmp_path, monkeypatch):
    """The example as an installed package; returns the name of the choice."""
    section = PAGE.read_text("utf8").split(f"## How to add {request.param}\n")[1].split("\n## ")[0]
    [example] = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    [[group, name, module]] = re.findall(
        r'\[project\.entry-points\."(.*)"\]\n(\w+) = "(.*)"', section
    )
    install(tmp_path / "site", group, name, module, example)
    monkeypatch.syspath_prepend(tmp_path / "site")
    forget_packages()
    options.schema_of.cache_clear()
    yield name
    monkeypatch.undo()
    forget_packages()
    options.schema_of.cache_clear()
    for loaded in (module, module.partition(".")[0]):
        sys.modules.pop(loaded, None)


def test_the_example_of_a_quantizer_works_as_it_stands(installed, tmp_path, capsys):
    for index in range(4):
        write_wav(tmp_path / "in" / f"{index}.wav", 0.2 + 0.1 * index, index)
    (tmp_path / "in" / "broken.wav").write_bytes(b"RIFF but not really")
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(9, 32)).astype(np.float32))
    config = tiny_config(tmp_path / "in", tmp_path / "out")
    config.loader.num_workers = 0
    module = choices.find("quantizers", installed)
    config.quantizer = module.Options(path=str(tmp_path / "rows.npy"))
    run_shard(config, Shard())
    units = {record["id"]: record.get("units") for record in ledger(tmp_path / "out")}
    text = (tmp_path / "out" / "units.txt").read_text()
    saved = sorted(units.keys() - {"broken.wav"})
    assert text == "".join(f"{id_}|{units[id_]}\n" for id_ in saved)
    assert units["broken.wav"] is None
    centres = torch.from_numpy(np.load(tmp_path / "rows.npy"))
    for number in range(4):
        path = tmp_path / "out" / "4-cnhubert" / f"{number}.wav.pt"
        distances = torch.cdist(torch.load(path, weights_only=True)[0].T, centres)
        assert units[f"{number}.wav"].split() == [str(int(row)) for row in distances.argmin(1)]

    config.store.dir, config.quantizer = str(tmp_path / "plain"), type(config)().quantizer
    run_shard(config, Shard())
    argv = ["--quantizer", installed, "--path", str(tmp_path / "rows.npy")]
    assert quantize([str(tmp_path / "plain"), *argv]) == 0
    assert (tmp_path / "plain" / "units.txt").read_text() == text
    np.save(tmp_path / "rows.npy", np.zeros((9, 31), np.float32))
    assert quantize([str(tmp_path / "plain"), *argv]) == 2
    assert "rows (9, 31); needed 32 numbers in each" in capsys.readouterr().err


@pytest.mark.parametrize("installed", ["a format of units"], indirect=True)
def test_the_example_of_a_format_works_as_it_stands(installed, tmp_path):
    for index in range(2):
        write_wav(tmp_path / "in" / f"{index}.wav", 0.2 + 0.1 * index, index)
    (tmp_path / "in" / "broken.wav").write_bytes(b"RIFF but not really")
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(3, 32)))
    config = tiny_config(tmp_path / "in", tmp_path / "out")
    config.loader.num_workers = 0
    config.quantizer = kmeans.Options(path=str(tmp_path / "rows.npy"), format=installed)
    run_shard(config, Shard())
    units = {record["id"]: record.get("units") for record in ledger(tmp_path / "out")}
    text = (tmp_path / "out" / "units.csv").read_text()
    assert text == "".join(f"{id_},{units[id_] or ''}\n" for id_ in sorted(units))
    assert text.splitlines()[2] == "broken.wav,"
