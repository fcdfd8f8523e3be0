"""Checks stores of any layout by their files and their ledgers."""

import json
import re
from collections import Counter
from pathlib import Path

import soundfile
import torch

from extract.store.layouts.gpt_sovits import names
from extract.store.per_utterance import PerUtterance
from extract.store.store import Store
from extract.values import Encoded, Features, Recording
from support import readers


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


def audit(store: Path, ids: set[str], recordings: Path | None = None) -> None:
    """Asserts what must hold after any run that finished, whatever the store's layout.

    `recordings` may be the store's own folder.

    I1 every id once; I2 every saved one readable by other programs, finite, of the right shape; I3
    nothing unreadable under a final name; I4 no stray file.
    """
    records, found = ledger(store), readers.read(store)
    assert Counter(record["id"] for record in records) == Counter(ids)
    saved = {record["id"]: record for record in records if record["status"] == "saved"}
    assert found.keys() == saved.keys()
    layout = readers.opened(store).layout
    for id_, record in saved.items():
        features, kept = found[id_], layout.kept(record)
        assert layout.intact(kept, checksum=True)
        assert torch.equal(layout.read(kept), features)
        assert (features.shape[1], f"torch.{record['dtype']}") == (
            readers.num_frames(store, record),
            str(features.dtype),
        )
        assert torch.isfinite(features).all()
        if is_per_utterance(store):
            audit_audio(store, record)
    assert all(record["reason"] for record in records if record["status"] != "saved")
    named = {name for record in saved.values() for name, *_ in record["files"]}
    found = files_of(store) - (ids if recordings == store else set())
    assert found == named | readers.INDICES.get(readers.layout_of(store), set())


def audit_audio(store: Path, record: dict) -> None:
    """The training audio beside the features, where the store's identity says that there is any."""
    wanted = not {"store.audio", "audio.rate_path"} & readers.identity(store).keys()
    _features, *wavs = [name for name, *_ in record["files"]]
    assert len(wavs) == wanted
    for name in wavs:
        samples, rate = soundfile.read(store / name, dtype="int16")
        assert rate == 32_000
        assert record["num_frames"] == (-(-len(samples) // 2) - 400) // 320 + 1


def is_per_utterance(store: Path) -> bool:
    """Whether the store's layout keeps an utterance in files of its own."""
    return isinstance(readers.opened(store).layout, PerUtterance)


def files_of(store: Path) -> set[str]:
    """All files in the folders that a store's layout writes in, without the store's own."""
    folders = [store / folder for folder in readers.opened(store).layout.folders]
    files = {
        str(path.relative_to(store))
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file()
    }
    own = re.compile(r"(ledger[^/]*\.jsonl|metadata\.json|\.extract/.*)")
    return {name for name in files if not own.fullmatch(name)}


def contents(store: Path) -> dict[str, bytes]:
    """What a store holds, to the byte: each file, or each utterance's part of an archive."""
    opened = readers.opened(store)
    if is_per_utterance(store):
        return {name: (store / name).read_bytes() for name in files_of(store)}
    return {
        record["id"]: b"".join(map(opened.files.read, record["files"]))
        for record in ledger(store)
        if record["status"] == "saved"
    }


def ids_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
