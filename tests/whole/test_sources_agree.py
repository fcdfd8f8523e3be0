"""One dozen clips, listed in every way: the same features, to the last bit."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from extract.app import main
from extract.commands import show
from support.command import TINY
from support.recordings import DEMO, FFMPEG, ffmpeg_decode, speech_like, write_wav
from support.stores import audit, ledger

CLIPS = sorted(
    path.name for path in DEMO.iterdir() if path.suffix in (".wav", ".mp3", ".ogg", ".flac")
)
TEXTS = {clip: f"{clip} 说的话" for clip in CLIPS}

Options = Sequence[str]


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), "utf8")
    return path


def folder(_place: Path) -> Options:
    return [f"dataset.path={DEMO}"]


def gpt_sovits(place: Path) -> Options:
    return [f"dataset.path={write(place / 'l.list', *(f'{DEMO}/{clip}|s|en|t' for clip in CLIPS))}"]


def jsonl(place: Path) -> Options:
    lines = [{"audio_filepath": f"{DEMO}/{clip}", "duration": 1.0} for clip in CLIPS]
    return [f"dataset.path={write(place / 'l.jsonl', *map(json.dumps, lines))}"]


def tsv(place: Path) -> Options:
    path = write(place / "l.tsv", str(DEMO), *(f"{clip}\t16000" for clip in reversed(CLIPS)))
    return [f"dataset.path={path}"]


def kaldi(place: Path) -> Options:
    write(place / "wav.scp", *(f"{clip} {DEMO}/{clip}" for clip in CLIPS))
    return [f"dataset.path={place}"]


def kaldi_segments(place: Path) -> Options:
    write(place / "wav.scp", *(f"rec{n} {DEMO}/{clip}" for n, clip in enumerate(CLIPS)))
    write(place / "segments", *(f"{clip} rec{n} 0 -1" for n, clip in enumerate(CLIPS)))
    return [f"dataset.path={place}"]


def csv(place: Path) -> Options:
    path = write(place / "l.csv", "words,file", *(f"w,{clip}" for clip in CLIPS))
    form = "dataset.delimiter=,", "dataset.header=true", "dataset.audio_column=file"
    return [f"dataset.path={path}", f"dataset.audio_dir={DEMO}", *form]


def hf(place: Path) -> Options:
    datasets = pytest.importorskip("datasets")
    cells = [{"bytes": (DEMO / clip).read_bytes(), "path": clip} for clip in CLIPS]
    made = datasets.Dataset.from_dict({"sound": cells})
    datasets.disable_progress_bars()
    made.cast(datasets.Features(sound=datasets.Audio())).save_to_disk(str(place))
    return [f"dataset.path={place}", "dataset.column=sound"]


SOURCES = [folder, gpt_sovits, jsonl, tsv, kaldi, kaldi_segments, csv, hf]


def extract(place: Path, source: Callable[[Path], Options]) -> Path:
    """The store of a run over the clips as `source` lists them."""
    store = place / "store"
    name = source.__name__.partition("_seg")[0]
    argv = [f"dataset={name}", *source(place / "list"), f"store.dir={store}", *TINY]
    assert main([*argv, "loader.num_workers=1"]) == 0
    return store


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["extract"])
        patch.setenv("HYDRA_FULL_ERROR", "0")
        return extract(tmp_path_factory.mktemp("folder"), folder)


@pytest.mark.parametrize("source", SOURCES[1:], ids=lambda source: source.__name__)
def test_every_source_gives_the_same_features(command, tmp_path, expected, source):
    assert command.__name__  # its environment
    store = extract(tmp_path, source)
    audit(store, set(CLIPS))
    for clip in CLIPS:
        features, others = (
            torch.load(one / "4-cnhubert" / f"{clip}.pt") for one in (store, expected)
        )
        assert torch.equal(features, others), clip
        wavs = [(one / "5-wav32k" / clip).read_bytes() for one in (store, expected)]
        assert wavs[0] == wavs[1], clip


@pytest.mark.skipif(FFMPEG is None, reason="the yardstick is the ffmpeg program")
def test_cuts_of_a_list_are_those_samples_of_a_full_decode(command, tmp_path):
    """GPT-SoVITS's training audio, by its formula, of slices of what `ffmpeg` decodes."""
    paths = [write_wav(tmp_path / "a.wav", 3.0, 1, 44_100), tmp_path / "b.flac"]
    soundfile.write(paths[1], speech_like(3.0, 2, 24_000), 24_000)
    ends = [(0.0, 1.0), (0.333, 1.01), (1.00005, 2.5), (2.25, None)]
    lines = [
        {"audio_filepath": str(path), "offset": start, "duration": end and end - start}
        for path in paths
        for start, end in ends
    ]
    write(tmp_path / "l.jsonl", *map(json.dumps, lines))
    kaldi = tmp_path / "kaldi"
    write(kaldi / "wav.scp", *(f"{path.name} {path}" for path in paths))
    rows = [(path.name, start, end or -1) for path in paths for start, end in ends]
    write(
        kaldi / "segments",
        *(f"{n} {name} {start} {end}" for n, (name, start, end) in enumerate(rows)),
    )
    argv = ["dataset=jsonl", f"dataset.path={tmp_path}/l.jsonl", "store.dir=one"]
    assert command(*argv, *TINY, "loader.num_workers=0") == 0
    argv = ["dataset=kaldi", f"dataset.path={kaldi}", "store.dir=two"]
    assert command(*argv, *TINY, "loader.num_workers=0") == 0
    names = [
        f"{name}-{round(1000 * s)}-{'end' if e < 0 else round(1000 * e)}" for name, s, e in rows
    ]
    audit(tmp_path / "one", set(names))
    audit(tmp_path / "two", {str(n) for n in range(len(rows))})
    for number, (id_, (name, start, end)) in enumerate(zip(names, rows, strict=True)):
        whole = ffmpeg_decode(tmp_path / name)
        x = whole[round(32_000 * start) : None if end < 0 else round(32_000 * end)]
        x = x.astype(np.float64) * (0.95 * 0.5 / np.abs(x).max() + 0.5) * 32_768
        for wav in (tmp_path / "one/5-wav32k" / id_, tmp_path / "two/5-wav32k" / str(number)):
            samples, _rate = soundfile.read(wav, dtype="int16")
            assert len(samples) == len(x)
            assert np.abs(samples - x).max() <= 1.001


def test_what_a_list_says_more_is_shown_beside_what_became_of_it(command, tmp_path, capsys):
    write_wav(tmp_path / "a.wav")
    lines = [
        {"audio_filepath": "a.wav", "text": "你好", "speaker": {"name": "s", "age": 7}},
        {"audio_filepath": "none.wav", "text": "missing"},
        {"audio_filepath": "a.wav", "id": "plain", "duration": 0.5},
    ]
    write(tmp_path / "l.jsonl", *map(json.dumps, lines), "no json")
    argv = ["dataset=jsonl", "dataset.path=l.jsonl", "store.dir=out", *TINY]
    assert command(*argv, "loader.num_workers=0") == 1
    capsys.readouterr()
    assert show.main([str(tmp_path / "out"), "--json"]) == 0
    shown = {one["id"]: one for one in map(json.loads, capsys.readouterr().out.splitlines())}
    assert shown["a.wav"]["extra"] == {"text": "你好", "speaker": {"name": "s", "age": 7}}
    assert (shown["none.wav"]["reason"], shown["none.wav"]["extra"]) == (
        "missing",
        {"text": "missing"},
    )
    assert "extra" not in shown["plain"]
    assert shown["l.jsonl:4"]["reason"] == "bad_line"
    lines[0]["text"] = "再见"
    write(tmp_path / "l.jsonl", *map(json.dumps, lines))
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.pt")}
    assert command(*argv, "loader.num_workers=0") == 1
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.pt")} == files
    found = {record["id"]: record.get("extra") for record in ledger(tmp_path / "out")}
    assert found["a.wav"]["text"] == "再见", "the list was mended, and nothing else was to do"


def test_a_source_whose_package_is_missing_ends_before_any_work(
    command, tmp_path, monkeypatch, capfd
):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert command("dataset=hf", f"dataset.path={tmp_path}", "store.dir=out", *TINY) == 2
    said = " ".join(capfd.readouterr().err.split())
    assert "needs the package datasets, which is missing: pip install 'extract-ssl[hf]'" in said
    assert not (tmp_path / "out").exists()
