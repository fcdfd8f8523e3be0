"""Reads and checks stores by their files alone, without the package's readers."""

import json
from collections import Counter
from pathlib import Path

import soundfile
import torch

from extract.store.layouts.gpt_sovits import names
from extract.store.store import Store
from extract.values import Encoded, Features, Recording


def encoded(id_: str, features: torch.Tensor, wav32k: torch.Tensor) -> Encoded:
    """An utterance as the encoder hands it to the store: features (1, num_frames, hidden_size)."""
    recording = Recording(0, id_, f"/there/{id_}")
    return Encoded(recording, Features(features, True, False), wav32k)


def put(store: Store, id_: str, features: torch.Tensor, wav32k: torch.Tensor) -> tuple:
    """Saves one utterance; returns what the ledger keeps of its files."""
    [kept] = store.layout.put(encoded(id_, features, wav32k))
    assert kept.id == id_
    return kept.files


def paths(store: Store, id_: str) -> list[str]:
    """Where GPT-SoVITS finds an utterance's features and training audio."""
    return [f"{store.directory}/{name}" for name in names(id_)]


def ledger(store: Path) -> list[dict]:
    lines = []
    for path in sorted(store.glob("ledger*.jsonl")):
        lines += [json.loads(line) for line in path.read_text("utf8").splitlines()]
    return lines


def audit(store: Path, ids: set[str]) -> None:
    """Asserts what must hold after any run that finished, by the store's files alone.

    I1 every id once; I2 every saved one readable, finite, of the right shape; I3 nothing unreadable
    under a final name; I4 no stray file.
    """
    records = ledger(store)
    assert Counter(record["id"] for record in records) == Counter(ids)
    expected = set()
    for record in records:
        if record["status"] != "saved":
            assert record["reason"]
            continue
        feature_path = store / "4-cnhubert" / f"{record['id']}.pt"
        wav_path = store / "5-wav32k" / record["id"]
        expected |= {feature_path, wav_path}
        features = torch.load(feature_path, weights_only=True)
        samples, rate = soundfile.read(wav_path, dtype="int16")
        assert rate == 32_000
        frames = (-(-len(samples) // 2) - 400) // 320 + 1
        assert features.shape[0] == 1
        assert features.shape[2] == frames == record["num_frames"]
        assert torch.isfinite(features).all()
    folders = (store / "4-cnhubert", store / "5-wav32k")
    found = {path for folder in folders for path in folder.rglob("*") if path.is_file()}
    assert found == expected


def contents(store: Path) -> dict[str, bytes]:
    folders = (store / "4-cnhubert", store / "5-wav32k")
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(store)): path.read_bytes() for path in files}


def ids_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
