"""The examples of docs/training.md run as they stand, one after the other."""

import re
from pathlib import Path

import torch

from extract.app import main
from support import readers
from support.command import TINY
from support.recordings import DEMO

PAGE = Path(__file__).parents[2].joinpath("docs", "training.md").read_text("utf8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.S)
SMALL = {
    '"data/mydata"': repr(str(DEMO)),
    '"TencentGameMate/chinese-hubert-base"': '"tiny_random"',
    'device="cuda:0"': 'device="cpu"',
    "num_workers=4": "num_workers=0",
}


def run(example: str, names: dict) -> None:
    for real, small in SMALL.items():
        example = example.replace(real, small)
    if "FeatureStore" in example:
        example = example.replace("outputs/mydata", "outputs/own")
    exec(example, names)


def ids(batches) -> list[str]:
    return sorted(recording.id for batch in batches for recording in batch.recordings)


def test_the_first_loss_takes_fifteen_lines(capsys):
    lines = [line for line in EXAMPLES[0].splitlines() if line]
    assert [number for number, line in enumerate(lines, 1) if "print(" in line] == [15]
    names = {}
    run(EXAMPLES[0], names)
    [*losses] = map(float, capsys.readouterr().out.split())
    assert losses[-1] == names["loss"].item() > 0
    shape = names["piece"].features.shape
    assert shape[1:] == (50, 32)
    assert names["piece"].audio.shape == (shape[0], 50 * 640)


def test_the_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["dataset=folder", f"dataset.path={DEMO}", "store.dir=outputs/mydata", *TINY]
    assert main([*options, "loader.num_workers=0"]) == 0
    found = readers.read(tmp_path / "outputs" / "mydata")
    monkeypatch.setattr("torch.distributed.barrier", lambda: None)
    names = {"rank": 0, "world_size": 1, "store": "outputs/mydata", "seconds": [1.0] * 12}
    for number, example in enumerate(EXAMPLES):
        run(example, names)
        if "stored" in names:
            assert len(names["stored"]) == len(found) == 12, number
        if "collate_features" in example:
            batch = names["batch"]
            rows = zip(batch.recordings, batch.features, batch.feature_lengths, strict=True)
            for recording, features, length in rows:
                assert torch.equal(features[None, :length], found[recording.id])
        if "FeatureStore" in example:
            batch = names["batch"].recordings
            for recording, features in zip(batch, names["features"], strict=True):
                assert torch.allclose(features.values, found[recording.id], atol=1e-5)
    assert readers.read(tmp_path / "outputs" / "own").keys() == found.keys()
    assert names["dataset"].augmentation.function is names["louder_or_shorter"]
    assert ids(names["batches"]) == ids(names["plain"]) == sorted(found)
    assert len(EXAMPLES) == 8
