"""`store=ddsp_svc`: the encoder's frames in step with the audio, as DDSP-SVC aligns them."""

import numpy as np
import pytest
import torch

from extract.frames import HUBERT_STACK
from extract.store.layouts.ddsp_svc import Options, nearest
from extract.store.store import Store
from extract.values import Encoded, Features, Recording


def aligned(num_frames: int, num_samples: int) -> list[int]:
    """`Units_Encoder.encode` of DDSP-SVC's `ddsp/vocoder.py`."""
    n_frames = num_samples // 512 + 1
    ratio = (512 / 44_100) / (320 / 16_000)
    index = torch.clamp(torch.round(ratio * torch.arange(n_frames)).long(), max=num_frames - 1)
    return index.tolist()


@pytest.mark.parametrize("num_samples", [1, 511, 512, 1103, 44_100, 441_000, 44_100 * 3600])
def test_a_hop_has_the_frame_that_ddsp_svc_gives_it(num_samples):
    """An hour too: in float64 some of its hops would have a neighbour of that frame."""
    num_frames = HUBERT_STACK.num_frames(max(400, -(-num_samples * 160 // 441)))
    found = nearest(num_frames, num_samples)
    assert found.tolist() == aligned(num_frames, num_samples)


def test_what_is_kept_has_a_frame_for_each_hop_of_what_was_decoded(tmp_path):
    store = Store(tmp_path, options=Options(str(tmp_path)))
    store.create()
    values = torch.randn(1, 5, 49).mT  # channel by channel, as the encoder gives them
    for num_samples in (
        30_720,
        44_031,
        44_100,
    ):  # the first is less in float64, divided and multiplied
        recording = Recording(0, "a/b.wav", "/b.wav", duration_s=num_samples / 44_100)
        item = Encoded(recording, Features(values, True, False), torch.empty(0, dtype=torch.int16))
        [kept] = store.layout.put(item)
        found = np.load(tmp_path / "units" / "a" / "b.wav.npy")
        assert found.dtype == np.float32
        assert found.flags.c_contiguous
        assert found.shape == (num_samples // 512 + 1, 5)
        assert np.array_equal(found, values[0].numpy()[aligned(49, num_samples)])
        assert np.array_equal(store.layout.read(kept)[0].numpy(), found)
    assert [path.name for path in tmp_path.iterdir()] == ["units"]
