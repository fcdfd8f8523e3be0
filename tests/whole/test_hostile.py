"""Hostile input through the whole command: it costs its own line, and nothing leaves the store."""

import json
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from extract.encoder.encoder import Encoder
from extract.models.load import load_model
from support.command import TINY
from support.models import Payload, folder_of
from support.recordings import write_wav
from support.stores import audit, ledger

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links, pipes and devices")


def tree(folder: Path, besides: str) -> dict[str, tuple[int, int]]:
    """Size and time of every file below a folder."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in folder.rglob("*")
        if not path.is_dir() and path.relative_to(folder).parts[0] != besides
    }


def write_bomb(path: Path, hours: float = 2, rate: int = 8000) -> Path:
    """Hours of silence in a small file."""
    with soundfile.SoundFile(path, "w", rate, 1) as file:
        for _ in range(round(hours * 60)):
            file.write(np.zeros(60 * rate, np.int16))
    return path


def peak_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1000
    return 0.0


def forget_the_peak() -> None:
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder with one good recording and much that is none."""
    folder = tmp_path / "wavs"
    write_wav(folder / "good.wav", 0.4)
    write_wav(tmp_path / "outside.wav", 0.3)
    write_bomb(folder / "bomb.flac")
    (folder / "loop.wav").symlink_to("loop.wav")
    os.mkfifo(folder / "pipe.wav")
    (folder / "zero.wav").symlink_to("/dev/zero")
    (folder / "folder.wav").mkdir()
    (folder / "playlist.m3u8").write_text(f"#EXTM3U\n#EXTINF:1,\nfile://{folder}/good.wav\n")
    (folder / "concat.wav").write_text(f"ffconcat version 1.0\nfile '{folder}/good.wav'\n")
    return folder


@pytest.mark.parametrize("encoding", ["gb18030", "utf-8-sig"])
def test_a_hostile_list_costs_only_its_own_lines(command, hostile, tmp_path, encoding):
    lines = [
        f"{hostile}/good.wav|说话人|ZH|他说|“好”。",
        "../wavs/../outside.wav|s|ZH|一个名字只能落在仓库里",
        f"{hostile}/bomb.flac|s|ZH|t",
        f"{hostile}/loop.wav|s|ZH|t",
        f"{hostile}/pipe.wav|s|ZH|t",
        f"{hostile}/zero.wav|s|ZH|t",
        f"{hostile}/folder.wav|s|ZH|t",
        f"{hostile}/playlist.m3u8|s|ZH|t",
        f"{hostile}/concat.wav|s|ZH|t",
        f"{hostile}/{'x' * 300}.wav|s|ZH|t",
        "nul\0byte.wav|s|ZH|t",
        "..|s|ZH|t",
        "/|s|ZH|t",
        "不够",
        "http://127.0.0.1:9/net.wav|s|ZH|t",
        "|||",
        "",
    ]
    (tmp_path / "some.list").write_bytes("\r\n".join(lines).encode(encoding))
    (tmp_path / "run").mkdir()
    os.chdir(tmp_path / "run")
    Encoder(load_model("tiny_random")).encode(torch.zeros(1, 16_000), [16_000])  # imports all
    before, start = tree(tmp_path, besides="run"), time.monotonic()
    forget_the_peak()
    before_mb = peak_mb()
    argv = ["dataset=gpt_sovits", "dataset.path=../some.list", "store.dir=store", "device=cpu"]
    assert command(*argv, "model=tiny_random", "loader.num_workers=0") == 1
    assert time.monotonic() - start < 20
    assert peak_mb() - before_mb < 200, "two hours of silence are 900 MB once decoded"
    assert tree(tmp_path, besides="run") == before

    records = ledger(tmp_path / "run" / "store")
    audit(tmp_path / "run" / "store", {record["id"] for record in records})
    assert {record["id"] for record in records if record["status"] == "saved"} == {
        "good.wav",
        "outside.wav",
    }
    reasons = {record["id"]: record["reason"] for record in records}
    expected = {
        "bomb.flac": "too_long",
        "pipe.wav": "undecodable",
        "zero.wav": "undecodable",
        "folder.wav": "undecodable",
        "playlist.m3u8": "undecodable",
        "concat.wav": "undecodable",
        "net.wav": "undecodable",  # nobody answers there
    }
    assert expected.items() <= reasons.items()
    assert reasons["loop.wav"] in {"missing", "undecodable"}
    for number in (10, 11, 12, 13, 14, 16):
        assert reasons[f"some.list:{number}"] in {"bad_line", "bad_id"}, number
    assert len(records) == 16


def jsonl(folder: Path, paths: list[str]) -> list[str]:
    lines = [json.dumps({"audio_filepath": path, "text": "好"}) for path in paths]
    (folder / "l.jsonl").write_text("\n".join([*lines, "[" * 70_000, '{"audio_filepath": 1}']))
    return ["dataset=jsonl", f"dataset.path={folder}/l.jsonl"]


def tsv(folder: Path, paths: list[str]) -> list[str]:
    lines = [f"{path}\t16000" for path in paths]
    (folder / "l.tsv").write_text("\n".join(["/", *lines, "a.wav\tmany", "not enough"]))
    return ["dataset=tsv", f"dataset.path={folder}/l.tsv"]


def kaldi(folder: Path, paths: list[str]) -> list[str]:
    lines = [f"{path.rpartition('/')[2]} {path}" for path in paths]
    (folder / "wav.scp").write_text("\n".join([*lines, f"p touch {folder}/ran |", "alone"]))
    return ["dataset=kaldi", f"dataset.path={folder}"]


def csv(folder: Path, paths: list[str]) -> list[str]:
    (folder / "l.csv").write_text("\n".join([*(f"{path}|好" for path in paths), "|no", "''|no"]))
    return ["dataset=csv", f"dataset.path={folder}/l.csv", "dataset.extension="]


@pytest.mark.parametrize("source", [jsonl, tsv, kaldi, csv], ids=lambda source: source.__name__)
def test_a_hostile_list_of_another_tool_costs_only_its_own_lines(
    command, hostile, tmp_path, source
):
    names = ["good.wav", "bomb.flac", "loop.wav", "pipe.wav", "zero.wav", "folder.wav"]
    names += ["playlist.m3u8", "concat.wav", "none.wav", "x" * 300 + ".wav", ".."]
    (tmp_path / "lists").mkdir()
    argv = source(tmp_path / "lists", [f"{hostile}/{name}" for name in names])
    before = tree(tmp_path, besides="store")
    assert command(*argv, "store.dir=store", *TINY, "loader.num_workers=0") == 1
    assert tree(tmp_path, besides="store") == before, "and no command was run"
    records = ledger(tmp_path / "store")
    audit(tmp_path / "store", {record["id"] for record in records})
    assert len(records) == len(names) + 2
    prefix = f"{hostile}/".removeprefix("/") if source is tsv else ""
    reasons = {record["id"].removeprefix(prefix): record["reason"] for record in records}
    assert reasons.pop("good.wav") is None
    assert all(reasons.values())
    assert (reasons["bomb.flac"], reasons["none.wav"]) == ("too_long", "missing")
    for name in ("pipe.wav", "zero.wav", "folder.wav", "playlist.m3u8", "concat.wav"):
        assert reasons[name] == "undecodable"
    lost = [reason for id_, reason in reasons.items() if ":" in id_]
    assert sorted(lost) == ["bad_id", "bad_id", "bad_line", "bad_line"]


def test_a_hostile_folder_costs_only_its_own_files(extract_folder, hostile, tmp_path):
    (hostile / "again").symlink_to(hostile)
    names = [b"line\nbreak.wav", b"not\xff\xfeunicode.wav", b"y" * 251 + b".wav", b"-rf.wav"]
    names += [b"spaces and 'quotes'.wav", b"%s{}$(touch ran).wav", "名字.wav".encode()]
    for name in names:
        shutil.copy(hostile / "good.wav", hostile / os.fsdecode(name))
    assert extract_folder(hostile, "loader.num_workers=0") == 1
    records = ledger(tmp_path / "out")
    saved = {record["id"] for record in records if record["status"] == "saved"}
    assert {"good.wav", "-rf.wav", "spaces and 'quotes'.wav", "名字.wav"} <= saved
    assert "again/good.wav" not in saved
    reasons = {record["id"]: record["reason"] for record in records}
    assert reasons[os.fsdecode(names[2])] == "bad_id"
    assert not list(tmp_path.rglob("ran"))
    wavs = tmp_path / "out" / "5-wav32k"
    assert {path.name for path in wavs.rglob("*")} == saved
    assert all(soundfile.info(path).frames for path in wavs.rglob("*"))


def test_a_model_with_code_in_its_weights_is_refused_before_any_work(
    extract_folder, recordings, tmp_path, capfd
):
    proof, folder = tmp_path / "ran", tmp_path / "model"
    model = load_model("tiny_random")
    folder_of(model, folder, "bin")
    torch.save({**model.weights, "extra": Payload(proof)}, folder / "pytorch_model.bin")
    assert extract_folder(recordings, "model=local", f"model.path={folder}") == 2
    output = capfd.readouterr().err
    assert "safetensors" in output
    assert "Traceback" not in output
    assert not proof.exists()
    assert not list(tmp_path.glob("out/4-cnhubert/*"))
