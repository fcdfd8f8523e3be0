"""`AudioDataset(augment=...)`: what it changes, and that (seed, epoch, id) alone decide what."""

import pickle
import random

import numpy as np
import pytest
import torch

from extract.audio.prepare import resample_to_16k
from extract.data.augment import Augmentation, TorchAugment, drawn
from extract.data.dataset import AudioDataset
from extract.manifest.sources.folder import read_folder
from extract.training.loader import make_loader
from extract.values import AudioSettings, Failure, Resampler, Utterance
from support import posix
from support.augments import Harm, broken, careless, louder, shorter
from support.recordings import write_wav

SEED = 3


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    for index, seconds in enumerate((0.1, 0.2, 0.15, 0.12, 0.18, 0.11, 0.13)):
        write_wav(folder / f"{index}.wav", seconds, index)
    return read_folder(folder)


def levels(manifest, function=louder, seed=SEED, epoch=0) -> dict[str, float]:
    """The peak of each recording as augmented, by its id."""
    dataset = AudioDataset(manifest, augment=function, seed=seed)
    dataset.set_epoch(epoch)
    return {item.recording.id: item.recording.peak for item in dataset}


def peaks(batches) -> dict[str, float]:
    return {one.id: one.peak for batch in batches for one in batch.recordings}


def test_each_utterance_of_each_epoch_and_seed_has_numbers_of_its_own(manifest):
    plain = {item.recording.id: item.recording.peak for item in AudioDataset(manifest)}
    found = [levels(manifest), levels(manifest, epoch=1), levels(manifest, seed=4)]
    gains = {peak / plain[name] for one in found for name, peak in one.items()}
    assert len(gains) == 3 * len(manifest)
    assert 0.5 <= min(gains) < 0.6 < 0.9 < max(gains) <= 1
    assert levels(manifest) == found[0]


def test_a_gain_is_that_of_a_generator_whose_seed_anyone_can_compute(manifest):
    """Golden, by `b2sum -l 64`: another number would change the audio of a run that goes on."""
    assert drawn("augment", 3, 0, "a/ü.wav") == 14051500967929396842
    rng = np.random.default_rng(drawn("augment", SEED, 2, "0.wav"))
    expected = AudioDataset(manifest)[0].recording.peak * np.float32(rng.uniform(0.5, 1.0))
    assert levels(manifest, epoch=2)["0.wav"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("num_workers", "start_method"),
    [
        (0, None),
        pytest.param(1, "fork", marks=posix.START_METHODS),
        pytest.param(3, "fork", marks=posix.START_METHODS),
        (3, "spawn"),
        pytest.param(1, "forkserver", marks=posix.START_METHODS),
    ],
)
@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
def test_workers_and_their_start_change_nothing_in_any_epoch(manifest, num_workers, start_method):
    dataset = AudioDataset(manifest, augment=careless, seed=SEED)
    loader = make_loader(
        dataset,
        batch_seconds=0.3,
        num_workers=num_workers,
        start_method=start_method,
        persistent_workers=True,
        shuffle=True,
    )
    for epoch in (0, 2):
        loader.set_epoch(epoch)
        assert peaks(loader) == levels(manifest, careless, epoch=epoch)


def test_an_unpickled_dataset_tells_its_workers_of_the_epoch(manifest):
    dataset = pickle.loads(pickle.dumps(AudioDataset(manifest, augment=louder, seed=SEED)))
    loader = make_loader(dataset, num_workers=1, persistent_workers=True)
    for epoch in (0, 1):
        loader.set_epoch(epoch)
        assert peaks(loader) == levels(manifest, epoch=epoch)


def test_global_generators_go_on_as_if_nothing_had_been_drawn(manifest):
    def draw() -> tuple[float, float, float]:
        return random.random(), np.random.random(), float(torch.rand(()))

    def seed() -> None:
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)

    seed()
    expected = draw()
    seed()
    levels(manifest, careless)
    assert draw() == expected


def test_features_and_training_audio_are_of_the_same_augmented_audio(manifest):
    """With no gain: the training audio, as it is, resampled is the encoder's waveform."""
    settings = AudioSettings(gain="none", scale=1.0)
    for item in AudioDataset(manifest, settings, augment=shorter, seed=SEED):
        audio = item.wav32k.numpy().astype(np.float32) / 32768
        waveform = resample_to_16k(audio, Resampler.soxr, 32_000)
        np.testing.assert_allclose(item.waveform.numpy(), waveform, atol=1e-4)
        assert item.recording.duration_s == len(audio) / 32_000
    whole = AudioDataset(manifest, settings)
    lengths = {
        len(item.wav32k) / len(plain.wav32k)
        for item, plain in zip(
            AudioDataset(manifest, settings, augment=shorter, seed=SEED), whole, strict=True
        )
    }
    assert len(lengths) == len(manifest)
    assert all(0.5 <= share <= 1 for share in lengths)


@pytest.mark.parametrize(
    ("harm", "reason", "said"),
    [
        ("nan", "non_finite_audio", "(augmented): NaN or infinity"),
        ("loud", "peak_above_gate", "(augmented): peak"),
        ("too short", "too_short", "(augmented)"),
        ("too long", "too_long", "(augmented): 0.8 s; at most 0.5 s"),
        ("silent", "silent", "(augmented): only zeros"),
        ("empty", "internal_error", "augment: ValueError: returned (0,); needed (num_samples,)"),
        ("two channels", "internal_error", "augment: ValueError: returned (2, 3200)"),
        ("no file", "internal_error", "augment: OSError: no such noise (augments.py:"),
        ("no memory", "out_of_memory", "0.wav"),
    ],
)
def test_what_a_function_does_wrong_is_said_of_the_recording(manifest, harm, reason, said):
    settings = AudioSettings(max_duration_s=0.5)
    item = AudioDataset(manifest, settings, augment=Harm(harm))[0]
    assert isinstance(item, Failure)
    assert item.reason == reason
    assert said in item.detail
    assert "0.wav" in item.detail


def test_an_exception_is_named_with_the_line_that_raised_it(manifest):
    item = AudioDataset(manifest, augment=broken)[0]
    assert item.reason == "internal_error"
    assert "augment: ZeroDivisionError: division by zero (augments.py:" in item.detail


def test_without_a_function_nothing_is_shared_and_epochs_mean_nothing(manifest):
    dataset = AudioDataset(manifest)
    dataset.set_epoch(5)
    assert dataset.augmentation is None
    assert all(isinstance(item, Utterance) for item in dataset)


def test_torch_audiomentations_is_a_function_of_seed_epoch_and_id(manifest):
    audiomentations = pytest.importorskip("torch_audiomentations")
    transform = audiomentations.Compose(
        [
            audiomentations.Gain(-12, 0, p=1.0, output_type="dict"),
            audiomentations.PolarityInversion(p=0.5, output_type="dict"),
        ],
        output_type="dict",
    )
    function = TorchAugment(transform)
    found = [levels(manifest, function), levels(manifest, function, epoch=1)]
    assert len({peak for one in found for peak in one.values()}) == 2 * len(manifest)
    dataset = AudioDataset(manifest, augment=function, seed=SEED)
    for num_workers in (0, 2):
        assert peaks(make_loader(dataset, num_workers=num_workers)) == found[0]


def test_a_transform_may_return_the_tensor_itself(manifest):
    def halved(samples, sample_rate):
        assert samples.shape == (1, 1, samples.shape[2])
        return samples / 2 * (sample_rate == 32_000)

    plain = {item.recording.id: item.recording.peak for item in AudioDataset(manifest)}
    found = levels(manifest, TorchAugment(halved))
    assert found == {name: peak / 2 for name, peak in plain.items()}


def test_an_augmentation_returns_float32_in_one_piece():
    samples = np.ones(10, np.float32)
    halved = Augmentation(lambda samples, *_: samples[::2].astype(np.float64), 0)
    found = halved(samples, 32_000, "a", "a")
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    assert found.shape == (5,)
