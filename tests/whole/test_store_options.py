"""`store.dtype` and `store.audio` through the whole command."""

import json

import pytest
import soundfile
import torch

from extract.data import dataset
from extract.run.build import open_store
from extract.shard import Shard
from extract.store.layout import TrainingAudio
from extract.values import AudioSettings, RatePath
from support.configs import tiny_config
from support.recordings import write_wav
from support.stores import ledger


@pytest.fixture
def clips(tmp_path):
    for number in range(3):
        write_wav(tmp_path / "in" / f"{number}.wav", 0.3 + 0.1 * number, number)
    return tmp_path / "in"


@pytest.fixture
def extract(extract_folder, clips):
    return lambda *options: extract_folder(clips, "loader.num_workers=0", *options)


def identity(store) -> dict:
    return json.loads((store / "metadata.json").read_text())["identity"]


def feature(store, name: str) -> torch.Tensor:
    return torch.load(store / "4-cnhubert" / f"{name}.wav.pt", weights_only=True)


def test_features_are_saved_in_the_dtype_asked_for(extract, tmp_path, capfd):
    out, half = tmp_path / "out", tmp_path / "half"
    assert extract() == 0
    assert "store.dtype" not in identity(out)
    assert extract("store.dtype=float32") == 0
    assert "0 of 3 recordings to do" in capfd.readouterr().err
    assert extract("store.dtype=float16", f"store.dir={half}") == 0
    assert identity(half) == {**identity(out), "store.dtype": "float16"}
    for record in ledger(half):
        found = feature(half, record["id"][0])
        assert record["dtype"] == "float16"
        assert torch.equal(found, feature(out, record["id"][0]).half())
    assert extract("store.dtype=bfloat16") == 2
    assert "store.dtype auto bfloat16" in " ".join(capfd.readouterr().err.split())
    assert extract("store.dtype=int8") == 2


def test_an_utterance_that_does_not_fit_float16_keeps_float32_and_the_ledger_says_so(
    extract, tmp_path, monkeypatch
):
    from extract.encoder.encoder import ExactForward

    forward = ExactForward.forward

    def loud(self, waveforms, lengths, *rest):
        values = forward(self, waveforms, lengths, *rest)
        return values * (1e6 if waveforms.shape[1] < 6000 else 1)

    monkeypatch.setattr(ExactForward, "forward", loud)
    assert extract("store.dtype=float16", "loader.batch_seconds=0.1") == 0
    dtypes = {record["id"]: record["dtype"] for record in ledger(tmp_path / "out")}
    assert dtypes == {"0.wav": "float32", "1.wav": "float16", "2.wav": "float16"}
    assert feature(tmp_path / "out", "0").abs().max() > 65_504


def test_without_training_audio_none_is_made_and_the_features_are_the_same(
    extract, tmp_path, monkeypatch, capfd
):
    assert extract(f"store.dir={tmp_path / 'both'}") == 0
    copies = []

    def preparing(*args, **options):
        copies.append(prepare(*args, **options))
        return copies[-1]

    prepare = dataset.prepare
    monkeypatch.setattr(dataset, "prepare", preparing)
    assert extract("store.audio=none") == 0
    assert [len(one.wav32k) for one in copies] == [0, 0, 0]
    out, both = tmp_path / "out", tmp_path / "both"
    assert not any((out / "5-wav32k").iterdir())
    for name in "012":
        assert torch.equal(feature(out, name), feature(both, name))
        assert soundfile.info(both / "5-wav32k" / f"{name}.wav").samplerate == 32_000
    assert identity(out) == {**identity(both), "store.audio": "none"}
    capfd.readouterr()
    assert extract() == 2
    assert "store.audio none wav32k" in " ".join(capfd.readouterr().err.split())


@pytest.mark.parametrize("none", ["store.audio=none", "audio=plain"])
def test_what_is_replaced_keeps_no_training_audio_of_before(extract, tmp_path, none):
    """Of an earlier run, or of another program: it does not go with these features."""
    out = tmp_path / "out"
    assert extract() == 0
    assert extract(none, "overwrite=true") == 0
    assert not any((out / "5-wav32k").iterdir())
    (out / "ledger.jsonl").unlink()
    (out / "metadata.json").unlink()
    for name in ("0.wav", "other.wav"):
        (out / "5-wav32k" / name).write_text("another program's")
    assert extract(none) == 0
    assert [path.name for path in (out / "5-wav32k").iterdir()] == ["other.wav"]


def test_plain_audio_has_no_training_audio_whatever_the_store_says(extract, tmp_path, capfd):
    assert extract("audio=plain") == 0
    assert "store.audio" not in identity(tmp_path / "out")
    capfd.readouterr()
    assert extract("audio=plain", "store.audio=none") == 0
    assert "0 of 3 recordings to do" in capfd.readouterr().err


def test_no_disk_is_reckoned_for_audio_that_is_not_made(tmp_path):
    config = tiny_config(tmp_path, tmp_path / "out")
    features = 768 * 2 * 50
    assert open_store(config, Shard()).layout.bytes_per_second(768, 2, 50) == features + 64_000
    config.store.audio = TrainingAudio.none
    assert open_store(config, Shard()).layout.bytes_per_second(768, 2, 50) == features
    config = tiny_config(tmp_path, tmp_path / "out")
    config.audio = AudioSettings(rate_path=RatePath.direct)
    assert open_store(config, Shard()).layout.bytes_per_second(768, 2, 50) == features
    assert not open_store(config, Shard()).keeps_audio


def test_audio_that_is_asked_for_and_not_made_is_refused(extract, tmp_path, capfd):
    assert extract("store=npy", "store.audio=wav32k", "audio=plain") == 2
    said = " ".join(capfd.readouterr().err.split())
    assert "store.audio=wav32k: audio.rate_path=direct makes no audio at 32 kHz" in said
    assert extract("store=npy", "store.audio=wav32k") == 0
    assert len(list((tmp_path / "out" / "wav32k").iterdir())) == 3
