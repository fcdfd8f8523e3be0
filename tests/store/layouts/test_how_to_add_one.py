"""docs/contributing.md, "How to add a layout": its example works as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from support.command import TINY
from support.packages import install
from support.stores import ledger

PAGE = Path(__file__).parents[3] / "docs" / "contributing.md"


def test_the_example_of_a_layout_works_as_it_stands(tmp_path):
    section = PAGE.read_text("utf8").split("## How to add a layout")[1].split("\n## ")[0]
    [example] = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    [group, name, module] = re.search(
        r'\[project\.entry-points\."(.*)"\]\n(\w+) = "(.*)"', section
    ).groups()
    [said] = re.findall(r"`python -m (extract .*?)`", section)
    environment = install(tmp_path / "site", group, name, module, example)
    command = [sys.executable, "-m", *said.split(), *TINY, "store.dir=out"]
    for _ in range(2):
        subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    records = ledger(tmp_path / "out")
    assert len(records) == 12
    for record in records:
        features = np.load(tmp_path / "out" / "npy" / f"{record['id']}.npy")
        assert features.shape == (record["num_frames"], 32)
    found = {path.name for path in (tmp_path / "out" / "npy").iterdir()}
    assert found == {f"{record['id']}.npy" for record in records}
