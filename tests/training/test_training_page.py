"""What docs/training.md says of features from files runs as it stands."""

import re
from pathlib import Path

import torch

from extract.app import main
from support import readers
from support.command import TINY
from support.recordings import DEMO

PAGE = Path(__file__).parents[2].joinpath("docs", "training.md").read_text("utf8")
SMALL = {
    '"data/mydata"': repr(str(DEMO)),
    '"TencentGameMate/chinese-hubert-base"': '"tiny_random"',
    'device="cuda:0"': 'device="cpu"',
    "num_workers=4": "num_workers=0",
}


def test_the_examples_of_features_from_files_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = ["dataset=folder", f"dataset.path={DEMO}", "store.dir=outputs/mydata", *TINY]
    assert main([*run, "loader.num_workers=0"]) == 0
    found = readers.read(tmp_path / "outputs" / "mydata")
    section = PAGE[PAGE.index("## From files") :]
    examples = re.findall(r"```python\n(.*?)```", section, re.S)
    names = {"rank": 0, "world_size": 1, "store": "outputs/mydata", "torch": torch}
    monkeypatch.setattr("torch.distributed.barrier", lambda: None)
    for number, example in enumerate(examples):
        for real, small in SMALL.items():
            example = example.replace(real, small)
        if "FeatureStore" in example:
            example = example.replace("outputs/mydata", "outputs/own")
        exec(example, names)
        assert len(names["stored"]) == len(found) == 12, number
    assert len(examples) == 4
    for recording, features in zip(names["batch"].recordings, names["features"], strict=True):
        assert torch.allclose(features.values, found[recording.id], atol=1e-5)
    assert readers.read(tmp_path / "outputs" / "own").keys() == found.keys()
