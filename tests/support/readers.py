"""Reads stores as other programs do, by torch and NumPy alone: one function for each layout.

A function has its layout's name and returns the features of every utterance that it finds by
itself, without the ledger: (layers, num_frames, hidden_size). A layout without one here is read as
it reads itself, by the ledger.
"""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from extract.options import schema_of
from extract.store import ledger
from extract.store.store import Store
from support.archives import kaldi, webdataset

Read = dict[str, torch.Tensor]

__all__ = ["kaldi", "read", "webdataset"]

INDICES: dict[str, set[str]] = {}  # files of a layout that no line of the ledger names


def read(store: Path) -> Read:
    """The features of every utterance in a store."""
    reader: Callable[[Path], Read] | None = getattr(sys.modules[__name__], layout_of(store), None)
    return (reader or by_itself)(store)


def gpt_sovits(store: Path) -> Read:
    return {id_: _of_torch(path) for id_, path in _files(store / "4-cnhubert", ".pt")}


def npy(store: Path) -> Read:
    levels = identity(store).get("store.subfolders", 0)
    return {id_.split("/", levels)[-1]: _of_numpy(path) for id_, path in _files(store, ".npy")}


def rvc(store: Path) -> Read:
    folder = identity(store)["store.folder"]
    return {id_: _of_numpy(path) for id_, path in _files(store / folder, ".npy")}


def so_vits_svc(store: Path) -> Read:
    return {id_: _of_torch(path) for id_, path in _files(store, ".soft.pt")}


def applio(store: Path) -> Read:
    return {id_: _of_numpy(path) for id_, path in _files(store / "extracted", ".npy")}


def ddsp_svc(store: Path) -> Read:
    return {id_: _of_numpy(path) for id_, path in _files(store / "units", ".npy")}


def num_frames(store: Path, record: dict) -> int:
    """How many frames a reader finds of an utterance: the encoder's, or one for each hop."""
    if layout_of(store) == "ddsp_svc":
        return round(record["duration_s"] * 44_100) // 512 + 1
    return record["num_frames"]


def by_itself(store: Path) -> Read:
    layout = opened(store).layout
    saved = [record for record in ledger.read(store) if record["status"] == "saved"]
    return {record["id"]: layout.read(layout.kept(record)) for record in saved}


def identity(store: Path) -> dict:
    return json.loads((store / "metadata.json").read_text("utf8"))["identity"]


def layout_of(store: Path) -> str:
    """As its metadata name it; the first one where a test has damaged or removed them."""
    try:
        return identity(store)["layout"]
    except (OSError, ValueError, KeyError, TypeError):
        return "gpt_sovits"


def opened(store: Path) -> Store:
    """A store as its layout's own code sees it, with the options that its identity names."""
    name = layout_of(store)
    options = schema_of("store", name)(dir=str(store), layout=name)
    said = identity(store) if name != "gpt_sovits" else {}
    for option in ("folder", "subfolders"):
        if f"store.{option}" in said:
            setattr(options, option, said[f"store.{option}"])
    return Store(store, options=options)


def _files(folder: Path, suffix: str) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob(f"*{suffix}")):
        name = str(path.relative_to(folder))
        if path.is_file() and not name.startswith(".extract/"):
            yield name.removesuffix(suffix), path


def _of_torch(path: Path) -> torch.Tensor:
    """What GPT-SoVITS and so-vits-svc read: (1, hidden_size, num_frames)."""
    found = torch.load(path, weights_only=True)
    assert found.dim() == 3
    assert found.is_contiguous()
    return found.mT


def _of_numpy(path: Path) -> torch.Tensor:
    """(num_frames, hidden_size) in C order, or several layers of that."""
    found = np.load(path, mmap_mode="r")
    assert found.flags["C_CONTIGUOUS"]
    assert found.ndim in (2, 3)
    return torch.from_numpy(np.array(found if found.ndim == 3 else found[None]))
