"""The layouts `npy`, `rvc` and `so_vits_svc`: these bytes, for the readers that there are."""

import os
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from extract import choices
from extract.config import Config
from extract.options import check, schema_of
from extract.store.files import WriteFailed
from extract.store.layout import Kept, TrainingAudio
from extract.store.store import Store
from support.stores import encoded

GOLDEN = Path(__file__).parent / "golden_files"
# (1, num_frames, hidden_size) and samples, of which the golden files are made
VALUES = ((torch.arange(12, dtype=torch.float32) - 3.5) / 8).view(1, 3, 4).mT
WAV = torch.arange(-3, 4, dtype=torch.int16) * 4681
NO_WAV = torch.empty(0, dtype=torch.int16)


def store_of(where: Path, layout: str, **options) -> Store:
    made = schema_of("store", layout)(dir=str(where), layout=layout, **options)
    store = Store(where, fsync=False, options=made)
    store.create()
    return store


def save(store: Store, id_: str, features=VALUES, wav=NO_WAV) -> Kept:
    [kept] = store.layout.put(encoded(id_, features, wav))
    return kept


def npy_bytes(descr: str, shape: tuple[int, ...], data: bytes) -> bytes:
    """Version 1.0 of the format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format"""
    head = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    padded = head + b" " * (-(10 + len(head) + 1) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded + data


def floats(code: str, values: torch.Tensor) -> bytes:
    """Of a tensor's numbers, one row after the other."""
    flat = [number for row in values.reshape(-1, values.shape[-1]).tolist() for number in row]
    return struct.pack(f"<{len(flat)}{code}", *flat)


# --- what is written -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "descr", "code"), [("float32", "<f4", "f"), ("float16", "<f2", "e")]
)
@pytest.mark.parametrize("num_layers", [1, 2])
def test_an_npy_file_is_made_of_these_bytes(tmp_path, dtype, descr, code, num_layers):
    values = (
        torch.cat([VALUES, 3 * VALUES])[:num_layers].mT.contiguous().mT.to(getattr(torch, dtype))
    )
    kept = save(store_of(tmp_path, "npy"), "deep/a.wav", values)
    path = tmp_path / "deep" / "a.wav.npy"
    shape = (4, 3) if num_layers == 1 else (2, 4, 3)
    assert path.read_bytes() == npy_bytes(descr, shape, floats(code, values))
    assert kept.files[0][:3] == ("deep/a.wav.npy", 0, path.stat().st_size)
    mapped = np.load(path, mmap_mode="r")
    assert mapped.flags["C_CONTIGUOUS"]
    assert (mapped.shape, mapped.dtype) == (shape, np.dtype(descr))
    assert torch.equal(torch.from_numpy(np.array(mapped)).view(num_layers, 4, 3), values)


def test_training_audio_lies_in_a_folder_of_its_own(tmp_path):
    store = store_of(tmp_path, "npy", audio=TrainingAudio.wav32k)
    kept = save(store, "a.mp3", wav=WAV)
    assert [name for name, *_ in kept.files] == ["a.mp3.npy", "wav32k/a.mp3.wav"]
    assert (tmp_path / "wav32k" / "a.mp3.wav").read_bytes() == (GOLDEN / "audio.wav").read_bytes()
    alone = store_of(tmp_path / "alone", "npy")
    save(alone, "a.mp3", wav=WAV)
    assert [path.name for path in (tmp_path / "alone").iterdir()] == ["a.mp3.npy"]


@pytest.mark.parametrize("folder", ["3_feature768", "3_feature256"])
def test_a_file_of_rvc_is_made_of_these_bytes(tmp_path, folder):
    save(store_of(tmp_path, "rvc", folder=folder), "a")
    [path] = tmp_path.rglob("*.npy")
    assert path == tmp_path / folder / "a.npy"
    assert path.read_bytes() == npy_bytes("<f4", (4, 3), floats("f", VALUES))


def test_a_file_of_so_vits_svc_is_made_of_these_bytes(tmp_path):
    save(store_of(tmp_path, "so_vits_svc"), "speaker/a.wav")
    path = tmp_path / "speaker" / "a.wav.soft.pt"
    if torch.__version__.startswith("2.11."):
        assert path.read_bytes() == (GOLDEN / "float32.pt").read_bytes()
    found = torch.load(path, weights_only=True)
    assert (found.shape, found.dtype) == ((1, 3, 4), torch.float32)
    assert torch.equal(found, VALUES.mT)


# --- what is read --------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["npy", "rvc", "so_vits_svc"])
def test_features_are_read_as_they_were_put_and_a_damaged_file_is_named(tmp_path, layout):
    store = store_of(tmp_path, layout)
    kept = save(store, "a.wav")
    assert torch.equal(store.layout.read(kept), VALUES)
    path = tmp_path / kept.files[0][0]
    whole = path.read_bytes()
    for damaged in (whole[:-50], b"", b"text", whole[1:], whole[1::-1] + whole[2:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=path.name):
            store.layout.read(kept)
    np.save(path.with_suffix(".x"), np.zeros((2, 3), "i4"))
    path.with_suffix(".x.npy").replace(path)
    with pytest.raises(ValueError, match=path.name):
        store.layout.read(kept)


@pytest.mark.parametrize("layout", choices.own("layouts"))
def test_what_a_layout_says_of_itself_holds_together(tmp_path, layout):
    store = store_of(tmp_path, layout)
    assert "float32" in store.layout.dtypes
    assert store.keeps_audio <= store.layout.keeps_audio
    assert not (
        store.layout.lies_beside and len(store.layout.folders) != len(store.layout.suffixes)
    )
    source = f"import sys, extract.store.layouts.{layout}; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", source], check=True, env=environment)


@pytest.mark.parametrize("layout", ["npy", "rvc", "so_vits_svc"])
def test_a_second_of_audio_takes_what_is_said(tmp_path, layout):
    store = store_of(tmp_path, layout)
    kept = save(store, "a.wav", torch.zeros(1, 768, 500).mT)  # 10 s
    assert 10 * store.layout.bytes_per_second(768, 4, 50) == pytest.approx(
        kept.files[0][2], rel=0.01
    )
    if store.layout.keeps_audio:
        both = store_of(tmp_path, layout, audio=TrainingAudio.wav32k).layout
        more = both.bytes_per_second(768, 4, 50) - store.layout.bytes_per_second(768, 4, 50)
        assert more == 64_000


# --- a store in a folder of recordings -----------------------------------------------------------


@pytest.mark.parametrize(
    "name", [".extract/a", "b/.extract/a", "metadata.json/a", "ledger.jsonl/a"]
)
def test_no_file_takes_the_place_of_the_stores_own(tmp_path, name):
    for layout in ("npy", "so_vits_svc"):
        with pytest.raises(WriteFailed, match="the store itself uses"):
            save(store_of(tmp_path, layout), name)
    assert not any(tmp_path.iterdir())
    save(store_of(tmp_path, "npy"), "metadata.json")
    save(store_of(tmp_path, "rvc"), "metadata.json/a")


def test_files_of_other_stores_below_are_left_alone(tmp_path):
    store = store_of(tmp_path, "npy")
    save(store, "a.wav")
    unfinished = [".tmp-host-1-0123abcd-1", "below/.tmp-host-1-0123abcd-2"]
    for name in (*unfinished, "other/.tmp-host-2-0123abcd-3", "other/.extract/lock", "other/b.npy"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert list(store.layout.ids_of_files()) == ["a.wav"]
    assert store.layout.sweep() == len(unfinished)
    assert (tmp_path / "other" / ".tmp-host-2-0123abcd-3").exists()


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["", ".", "..", ".x", "a/b", "/a", "a\n"])
def test_a_folder_of_rvc_is_one_name(tmp_path, folder):
    config = Config(store=schema_of("store", "rvc")(str(tmp_path)))
    check(config)
    with pytest.raises(ValueError, match=r"^store.folder: .*needed a folder's name"):
        check(replace(config, store=replace(config.store, folder=folder)))


@pytest.mark.parametrize(
    ("layout", "dtype", "holds"),
    [
        ("npy", "bfloat16", "auto or float32 or float16"),
        ("rvc", "float16", "auto or float32"),
        ("so_vits_svc", "bfloat16", "auto or float32"),
    ],
)
def test_a_dtype_that_no_file_holds_is_refused_before_any_work(
    command, tmp_path, capfd, layout, dtype, holds
):
    asked = f"store={layout}", f"store.dtype={dtype}", f"store.dir={tmp_path / 'out'}"
    assert command("dataset=folder", "dataset.path=nowhere", "model=tiny_random", *asked) == 2
    said = " ".join(capfd.readouterr().err.split())
    assert f"store.dtype={dtype}: no file of the layout {layout} holds it; needed {holds}" in said
    if layout != "npy":
        asked = f"store={layout}", "store.audio=wav32k"
        assert command("dataset=folder", "dataset.path=nowhere", "model=tiny_random", *asked) == 2
        assert f"the layout {layout} saves no audio" in " ".join(capfd.readouterr().err.split())
    assert not (tmp_path / "out").exists()
