"""Reads stores of archives by the ecosystem's own readers, kaldiio and webdataset.

A function has its layout's name and returns the features of every utterance that it finds by
itself, without the ledger: (layers, num_frames, hidden_size).
"""

import itertools
import json
import warnings
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

import kaldiio
import numpy as np
import torch
import webdataset as wds

from extract.options import schema_of
from extract.store.store import Store

OPTIONS = {"kaldi": "ark_mb", "webdataset": "shard_mb"}
FOLDERS = {"kaldi": "arks", "webdataset": "shards"}


def kaldi(store: Path) -> dict[str, torch.Tensor]:
    """By `feats.scp`. The arks hold the same, each key once."""
    if not (store / "feats.scp").exists():
        return {}
    lines = (store / "feats.scp").read_text("utf8").splitlines()
    assert lines == sorted(lines, key=lambda line: line.split(" ")[0].encode())
    listed = kaldiio.load_scp(str(store / "feats.scp"))
    assert len(listed) == len(lines)
    archives = sorted((store / "arks").glob("*.ark"))
    held = [item for path in archives for item in kaldiio.load_ark(str(path))]
    held = [item for item in held if item[0].strip("\\")]  # without blank ones
    assert sorted(key for key, _matrix in held) == sorted(listed)
    counts = dict(
        line.split() for line in (store / "utt2num_frames").read_text("utf8").splitlines()
    )
    features = {}
    for key, matrix in held:
        assert matrix.dtype == np.float32
        assert np.array_equal(matrix, listed[key])
        assert counts.pop(key) == str(len(matrix))
        features[unquote(key)] = torch.from_numpy(matrix.copy())[None]
    assert not counts
    return features


def webdataset(store: Path) -> dict[str, torch.Tensor]:
    """All samples of all tars: each id, and each key, once."""
    features, keys = {}, set()
    for sample in samples(store):
        about, values = sample["json"], sample["npy"]
        assert about["id"] not in features
        assert sample["__key__"] not in keys
        assert unquote(sample["__key__"]) == about["id"]
        keys.add(sample["__key__"])
        features[about["id"]] = torch.from_numpy(values if values.ndim == 3 else values[None])
        assert (about["num_frames"], about["dtype"]) == (values.shape[-2], str(values.dtype))
    return features


def samples(store: Path) -> list[dict]:
    """What webdataset makes of the tars."""
    urls = sorted(map(str, (store / "shards").glob("*.tar")))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # webdataset closes no file
        return list(wds.WebDataset(urls, shardshuffle=False).decode()) if urls else []


READERS = {"kaldi": kaldi, "webdataset": webdataset}


def opened(store: Path, layout: str, mb: float = 256.0, **options) -> Store:
    """A store with archives of at most `mb`."""
    of_layout = {"dir": str(store), "layout": layout, OPTIONS[layout]: mb}
    return Store(store, fsync=False, options=schema_of("store", layout)(**of_layout), **options)


def ledger(store: Path) -> list[dict]:
    lines = [path.read_text("utf8").splitlines() for path in sorted(store.glob("ledger*.jsonl"))]
    return [json.loads(line) for line in itertools.chain(*lines)]


def audit(store: Path, layout: str, ids: set[str]) -> dict[str, torch.Tensor]:
    """Asserts that each utterance is once in the ledger, and read back once by its reader.

    Its line names all of an archive's bytes but the ending; no other file is there.
    """
    records, features = ledger(store), READERS[layout](store)
    assert Counter(record["id"] for record in records) == Counter(ids)
    saved = [record for record in records if record["status"] == "saved"]
    assert features.keys() == {record["id"] for record in saved}
    own = opened(store, layout).layout
    for record in saved:
        kept = own.kept(record)
        assert own.intact(kept, checksum=True), record
        assert torch.equal(own.read(kept), features[record["id"]])
        assert features[record["id"]].shape[1] == record["num_frames"]
    sizes = Counter()
    for record in saved:
        [(name, _offset, size, _crc)] = record["files"]
        sizes[name] += size
    ending = {"kaldi": 0, "webdataset": 1024}[layout]
    held = {str(path.relative_to(store)): path.stat().st_size for path in archives(store, layout)}
    assert held == {name: size + ending for name, size in sizes.items()}
    assert not [path for path in store.rglob("*") if path.name.startswith(".tmp-")]
    assert not list((store / ".extract").glob("archives-*"))
    return features


def archives(store: Path, layout: str) -> list[Path]:
    """All that is in the folder of the archives."""
    return sorted((store / FOLDERS[layout]).iterdir())


def blocks(store: Path) -> dict[str, bytes]:
    """The bytes of each saved utterance, which do not depend on where it is."""
    found = {}
    for record in ledger(store):
        for name, offset, size, _crc in record["files"] or ():
            found[record["id"]] = (store / name).read_bytes()[offset : offset + size]
    return found


def identity(store: Path) -> dict:
    return json.loads((store / "metadata.json").read_text("utf8"))["identity"]
