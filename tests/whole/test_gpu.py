"""What only a card can show; skipped where there is none."""

import gc
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import HubertConfig

from extract.data.batch import collate
from extract.encoder.encoder import Encoder
from extract.models.families import hubert
from extract.models.load import load_model
from extract.models.weights import random_checkpoint
from extract.training.stream import stream_features
from extract.values import Recording, Utterance

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

RATE = 16_000
DEVICE = "cuda:0"
DEMO = Path(__file__).resolve().parents[2] / "extract" / "demo"


@pytest.fixture(scope="module")
def model():
    from transformers import HubertModel

    torch.manual_seed(0)
    return HubertModel(HubertConfig(num_hidden_layers=4)).eval()


@pytest.fixture(scope="module")
def batch() -> tuple[torch.Tensor, list[int]]:
    generator = torch.Generator().manual_seed(0)
    lengths = [400, 7_000, 40_000, 15 * RATE, 20 * RATE]
    waveforms = torch.zeros(len(lengths), max(lengths))
    for row, length in zip(waveforms, lengths, strict=True):
        row[:length] = 300 * torch.randn(length, generator=generator)
    return waveforms, lengths


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.float() - expected).norm() / expected.norm())


def test_fp32_on_the_card_is_fp32_on_the_cpu(model, batch):
    here = Encoder(model, device="cpu").encode(*batch)
    there = Encoder(model, device="cuda", precision="fp32").encode(*batch)
    for ours, theirs in zip(there, here, strict=True):
        assert relative(ours.values, theirs.values) < 1e-4


@pytest.mark.parametrize(("precision", "bound"), [("fp16", 1e-2), ("bf16", 5e-2)])
def test_half_precision_is_near_fp32(model, batch, precision, bound):
    exact = Encoder(model, device="cpu").encode(*batch)
    half = Encoder(model, device="cuda", precision=precision).encode(*batch)
    for ours, theirs in zip(half, exact, strict=True):
        assert ours.finite
        assert not ours.retried_fp32
        assert relative(ours.values, theirs.values) < bound


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_gain_sensitivity_is_the_cpus(model, batch, precision):
    here = Encoder(model, device="cpu").measuring_gain().encode(*batch)
    there = Encoder(model, device="cuda", precision=precision).measuring_gain().encode(*batch)
    found, expected = ([one.gain_sensitivity for one in part] for part in (there, here))
    assert found == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_the_first_layers_kernel_works_here(norm, precision):
    settings = {"feat_extract_norm": norm, "conv_bias": norm == "layer", "num_hidden_layers": 1}
    model = random_checkpoint(hubert.architecture(settings), seed=0)
    encoder = Encoder(model, device="cuda", precision=precision)
    first = encoder.exact.convolutions.first
    assert first.in_one_works, "it was tried and left: see the warning"
    batch = first.fold(torch.randn(3, 9_000, device="cuda") * 300, [9_000, 5_000, 400], 27)
    arguments = batch.windows(2, 9), batch.weight, batch.bias
    found, expected = (way(*arguments).float() for way in (first.in_one, first.in_steps))
    bound = {"fp32": 1e-4, "fp16": 4e-3, "bf16": 2e-2}[precision]
    assert ((found - expected) / (1 + expected.abs())).abs().max() < bound


def test_padding_does_not_change_features_in_fp16(model, batch):
    encoder = Encoder(model, device="cuda")
    waveforms, lengths = batch
    together = encoder.encode(waveforms, lengths)
    for row, length, features in zip(waveforms, lengths, together, strict=True):
        alone = encoder.encode(row[None, :length].contiguous(), [length])[0]
        assert relative(features.values, alone.values.float()) < 2e-3


def test_two_batches_in_flight_do_not_meet(model, batch):
    encoder = Encoder(model, device="cuda")
    waveforms, lengths = batch
    pinned = waveforms.pin_memory()
    expected = encoder.encode(pinned, lengths)
    other = (2 * waveforms.flip(0)).pin_memory()
    pending = [encoder.submit(pinned, lengths), encoder.submit(other, lengths[::-1])]
    for _ in range(20):
        pending.append(encoder.submit(pinned, lengths))
        assert all(features.finite for features in pending.pop(0).result())
    for features, first in zip(pending[-1].result(), expected, strict=True):
        torch.testing.assert_close(features.values, first.values)


def test_memory_is_given_back_after_running_out_of_it(model, batch):
    encoder = Encoder(model, device="cuda")
    encoder.encode(*batch)
    gc.collect()
    base = torch.cuda.memory_allocated()
    torch.cuda.empty_cache()
    _free, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction((base + 300e6) / total)
    try:
        with pytest.raises(torch.OutOfMemoryError):
            encoder.encode(torch.zeros(64, 20 * RATE) + 1e-3, [20 * RATE] * 64)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    gc.collect()
    assert torch.cuda.memory_allocated() == base
    encoder.encode(*batch)


def test_non_finite_features_leave_nothing_allocated(batch):
    model = load_model("tiny_random")
    encoder = Encoder(model, device="cuda")
    waveforms, lengths = batch
    encoder.encode(waveforms, lengths)
    base = torch.cuda.memory_allocated()
    broken = waveforms.clone()
    broken[1, 5] = float("nan")
    features = encoder.encode(broken, lengths)
    assert [some.finite for some in features] == [True, False, True, True, True]
    assert torch.cuda.memory_allocated() == base


def test_streamed_features_are_those_of_the_cpu_while_the_card_is_busy_training(model, batch):
    """Memory that the trainer's stream reads is not reused by the encoder's."""
    waveforms, lengths = batch
    items = [
        Utterance(Recording(n, f"{n}", ""), row[:length].clone(), torch.zeros(2 * length).short())
        for n, (row, length) in enumerate(zip(waveforms, lengths, strict=True))
    ]
    batches = [collate(items[n:] + items[:n]) for n in range(len(items))] * 6
    exact = Encoder(model, device="cpu").encode(waveforms, lengths)
    stream = stream_features(batches, Encoder(model, device="cuda", precision="fp32"))
    weight = torch.randn(4096, 4096, device="cuda")
    for given in stream:
        assert given.features.is_cuda
        for _ in range(4):  # queued: the features are read after this
            weight = torch.tanh(weight @ weight)
        later = given.features * 1.0
        for recording, row, length in zip(
            given.recordings, later, given.feature_lengths.tolist(), strict=True
        ):
            assert relative(row[:length].cpu(), exact[recording.index].values[0]) < 1e-4
    del given, later, row
    gc.collect()
    base = torch.cuda.memory_allocated()
    for _ in range(3):
        for _given in stream:
            pass
    del _given
    gc.collect()
    assert torch.cuda.memory_allocated() == base


def test_a_streamed_batch_that_does_not_fit_the_card_is_halved(model, monkeypatch):
    encoder = Encoder(model, device="cuda")
    waveform = 300 * torch.randn(5 * RATE, generator=torch.Generator().manual_seed(0))
    silence = torch.zeros(10 * RATE).short()
    items = [Utterance(Recording(n, f"{n}", ""), waveform, silence) for n in range(8)]
    [whole] = stream_features([collate(items)], encoder)
    submit = Encoder.submit

    def small(self, waveforms, lengths):
        pending = submit(self, waveforms, lengths)
        if len(lengths) > 3:
            raise torch.OutOfMemoryError("made up")
        return pending

    monkeypatch.setattr(Encoder, "submit", small)
    stream = stream_features([collate(items)] * 3, encoder)
    for given in stream:
        assert len(given) == 8
        assert relative(given.features, whole.features.float()) < 2e-3
    assert not stream.failed


def command(store: Path, folder: Path, device: str, *options: str) -> subprocess.Popen[str]:
    """`python -m extract` over a folder, in a process of its own."""
    argv = ["dataset=folder", f"dataset.path={folder}", f"store.dir={store}", f"device={device}"]
    argv += ["model=tiny_random", "loader.num_workers=2", *options]
    return subprocess.Popen(
        [sys.executable, "-m", "extract", *argv], stderr=subprocess.PIPE, text=True
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, said = process.communicate(timeout=120)
    return process.returncode, said


def features_in(store: Path) -> list[Path]:
    return sorted((store / "4-cnhubert").glob("*.pt"))


def test_the_command_says_the_same_on_the_card_as_on_the_cpu(tmp_path):
    for place, device in (("cpu", "cpu"), ("card", DEVICE)):
        status, said = finished(command(tmp_path / place, DEMO, device))
        assert status == 0, said
    here, there = features_in(tmp_path / "cpu"), features_in(tmp_path / "card")
    assert [path.name for path in there] == [path.name for path in here]
    assert len(there) == 12
    for found, expected in zip(there, here, strict=True):
        values = torch.load(found)
        assert values.dtype == torch.float16
        assert relative(values, torch.load(expected)) < 1e-2


def test_a_run_on_the_card_that_is_killed_goes_on(tmp_path):
    """Three kills, each where some are saved and some are not; nothing is lost or done twice."""
    clips = sorted(DEMO.glob("*.wav"))
    folder = tmp_path / "in"
    folder.mkdir()
    for index in range(1200):
        shutil.copy(clips[index % len(clips)], folder / f"{index:04}.wav")
    store, few = tmp_path / "out", ["loader.batch_seconds=20"]
    for kill in range(1, 4):
        process = command(store, folder, DEVICE, *few)
        while len(features_in(store)) < 100 * kill:
            assert process.poll() is None, finished(process)
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert finished(process)[0] == -signal.SIGKILL
    assert 300 <= len(features_in(store)) < 1200
    status, said = finished(command(store, folder, DEVICE, *few))
    assert status == 0, said
    lines = [json.loads(line) for line in (store / "ledger.jsonl").read_text("utf8").splitlines()]
    assert {line["status"] for line in lines} == {"saved"}
    assert sorted(line["id"] for line in lines) == [f"{index:04}.wav" for index in range(1200)]
    audited = subprocess.run([sys.executable, "-m", "extract", "audit", store], check=False)
    assert audited.returncode == 0


def test_a_card_that_is_not_there_is_named(tmp_path):
    status, said = finished(command(tmp_path / "out", DEMO, "cuda:99"))
    assert status == 2, said
    assert "cuda:99" in said
