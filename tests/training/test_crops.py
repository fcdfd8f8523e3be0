"""`RandomCrops`: audio and features of the same frames; a click shows where it is."""

import numpy as np
import pytest
import torch

from extract.data.batch import collate
from extract.data.dataset import AudioDataset
from extract.encoder.encoder import Encoder
from extract.frames import HUBERT_STACK, ConvStack
from extract.manifest.sources.folder import read_folder
from extract.training.crops import RandomCrops
from extract.training.stream import stream_features
from extract.values import AudioSettings
from support.models import small_model
from support.recordings import speech_like, write_floats

RATE = 32_000
SETTINGS = AudioSettings(gain="none", scale=1.0)
CLICK_FRAME = 23


@pytest.fixture(scope="module")
def encoder():
    """What enters the first layer, in which a frame knows hardly anything of its neighbours."""
    model = small_model("layer", num_conv_pos_embeddings=2)
    return Encoder(model, layer=0)


def stream(folder, encoder, **settings):
    manifest = read_folder(folder)
    dataset = AudioDataset(manifest, AudioSettings(gain="none", scale=1.0, **settings))
    return stream_features([collate(list(dataset))], encoder)


def silent_and_clicked(folder, at: int):
    """The same noise twice, the second time with a click at sample `at`, 32 kHz."""
    noise = 0.01 * np.random.default_rng(0).standard_normal(RATE)
    write_floats(folder / "0.wav", noise)
    noise[at : at + 8] += 0.9
    write_floats(folder / "1.wav", noise)


def changed(batch) -> np.ndarray:
    """How much each frame differs between the two recordings."""
    plain, clicked = batch.features
    return (clicked - plain).norm(dim=-1).numpy()


@pytest.mark.parametrize(
    ("offset", "frames"), [(170, [0]), (400, [0]), (620, [0]), (60, [-1, 0]), (100, [-1, 0])]
)
def test_a_click_in_a_frames_piece_of_the_audio_shows_in_that_frame(
    tmp_path, encoder, offset, frames
):
    """In that one alone; in the first 160 samples of the piece also in the frame before."""
    silent_and_clicked(tmp_path, CLICK_FRAME * 640 + offset)
    [batch] = stream(tmp_path, encoder)
    by_change = np.argsort(-changed(batch))
    assert set(by_change[: len(frames)]) == {CLICK_FRAME + frame for frame in frames}


def test_a_crop_has_the_click_where_its_features_have_it(tmp_path, encoder):
    silent_and_clicked(tmp_path, CLICK_FRAME * 640 + 400)
    [batch] = stream(tmp_path, encoder)
    crops = RandomCrops(num_frames=9)
    seen = 0
    for start in range(49 - 9):
        audio = crops.audio(batch.wavs[1], start)
        features = [crops.features(one, start) for one in batch.features]
        assert audio.shape == (9 * 640,)
        assert torch.equal(audio, batch.wavs[1][start * 640 : (start + 9) * 640])
        change = (features[1] - features[0]).norm(dim=-1)
        if start <= CLICK_FRAME < start + 9:
            assert int(audio.abs().argmax()) // 640 == int(change.argmax()) == CLICK_FRAME - start
            seen += 1
    assert seen == 9


def test_crops_of_a_batch_are_those_of_its_utterances(tmp_path, encoder):
    for index, seconds in enumerate((1.0, 0.4, 0.1)):
        write_floats(tmp_path / f"{index}.wav", speech_like(seconds, index, RATE))
    [batch] = stream(tmp_path, encoder)
    crops = RandomCrops(12, seed=5)
    made = crops(batch, epoch=2)
    assert made.recordings == batch.recordings
    assert made.features.shape == (3, 12, encoder.hidden_size)
    assert made.audio.shape == (3, 12 * 640)
    assert made.lengths.tolist() == [12, 12, 4]
    for row, (start, length) in enumerate(zip(made.starts, made.lengths.tolist(), strict=True)):
        frames = batch.features[row, start : start + length]
        audio = batch.wavs[row][start * 640 : (start + 12) * 640].float() / 32768
        assert torch.equal(made.features[row, :length], frames)
        assert not made.features[row, length:].any()
        assert torch.equal(made.audio[row, : len(audio)], audio)
        assert not made.audio[row, len(audio) :].any()
        assert start == crops.start(batch.recordings[row].id, int(batch.feature_lengths[row]), 2)
    assert made.starts[2] == 0
    [empty] = stream_features([collate([])], encoder, keep_empty=True)
    nothing = crops(empty, epoch=0)
    assert nothing.features.shape == (0, 12, encoder.hidden_size)
    assert nothing.audio.shape == (0, 12 * 640)


def test_where_a_crop_begins_is_a_function_of_seed_epoch_and_id():
    crops = RandomCrops(10)
    assert crops.start("a", 1000, 0) == RandomCrops(10).start("a", 1000, 0)
    others = [
        crops.start("b", 1000, 0),
        crops.start("a", 1000, 1),
        RandomCrops(10, 1).start("a", 1000, 0),
    ]
    assert len({crops.start("a", 1000, 0), *others}) == 4
    starts = [crops.start("a", 14, epoch) for epoch in range(200)]
    assert set(starts) == set(range(5)), "also the last one"
    assert crops.start("a", 10, 0) == crops.start("a", 3, 0) == 0


def test_a_last_crop_reaches_no_further_than_the_audio():
    """The conv formula: T frames of S samples need 320 (T - 1) + 400 of them."""
    for num_samples in range(400, 2000):
        frames = HUBERT_STACK.num_frames(num_samples)
        assert frames * 640 <= 2 * num_samples - 1


def test_another_stack_has_another_hop():
    assert RandomCrops(4, stack=ConvStack(((10, 5), (8, 4)))).hop == 40
    assert RandomCrops(4).hop == 640


def test_zeros_before_the_waveform_move_the_frames(tmp_path, encoder):
    """With 640 zeros at 16 kHz before it, frame 2 is where frame 0 was."""
    silent_and_clicked(tmp_path, CLICK_FRAME * 640 + 400)
    [batch] = stream(tmp_path, encoder, pad_samples=(640, 0))
    frame = int(changed(batch).argmax())
    assert frame == CLICK_FRAME + 2
    crops = RandomCrops(1, pad_samples=640)
    assert int(crops.audio(batch.wavs[1], frame).abs().max()) > 20_000
    assert not crops.audio(batch.wavs[1], 1).any()
    assert torch.equal(crops.audio(batch.wavs[1], 2), batch.wavs[1][:640])


def test_a_crop_needs_a_frame():
    with pytest.raises(ValueError, match="num_frames=0"):
        RandomCrops(0)


def test_features_of_several_layers_are_cropped_alike(tmp_path):
    write_floats(tmp_path / "a.wav", speech_like(0.5, 0, RATE))
    encoder = Encoder(small_model("layer"), layer=[0, 3])
    [batch] = stream(tmp_path, encoder)
    made = RandomCrops(5)(batch, epoch=0)
    start = made.starts[0]
    assert torch.equal(made.features, batch.features[:, :, start : start + 5])
