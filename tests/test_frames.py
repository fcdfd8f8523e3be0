"""Samples and frames against torch's own convolution."""

import pytest
import torch

from extract.frames import HUBERT_STACK, ConvStack, num_frames

STACKS = [
    HUBERT_STACK,
    ConvStack((*HUBERT_STACK.layers, (2, 2))),
    ConvStack(((10, 8), (8, 4), (4, 2))),
    ConvStack(((3, 5), (2, 3))),
    ConvStack(((16, 8),)),
]


def frames_of_torch(stack: ConvStack, num_samples: int) -> int:
    hidden = torch.zeros(1, 1, num_samples)
    for kernel, stride in stack.layers:
        if hidden.shape[2] < kernel:
            return 0
        hidden = torch.conv1d(hidden, torch.zeros(1, 1, kernel), stride=stride)
    return hidden.shape[2]


@pytest.mark.parametrize("stack", STACKS)
def test_frames_are_those_of_the_convolutions(stack: ConvStack) -> None:
    for num_samples in range(1, 1_800):
        assert stack.num_frames(num_samples) == frames_of_torch(stack, num_samples)


@pytest.mark.parametrize("stack", STACKS)
def test_the_shortest_input_of_some_frames_is_one_sample_from_fewer(stack: ConvStack) -> None:
    for frames in range(1, 40):
        shortest = stack.min_samples(frames)
        assert stack.num_frames(shortest) == frames
        assert stack.num_frames(shortest - 1) == frames - 1
        assert shortest == stack.min_samples() + (frames - 1) * stack.hop


def test_huberts_frames_are_a_fiftieth_of_a_second_apart_and_need_400_samples() -> None:
    assert (HUBERT_STACK.hop, HUBERT_STACK.frame_rate) == (320, 50)
    assert (HUBERT_STACK.min_samples(), num_frames(399), num_frames(400)) == (400, 0, 1)
    assert (STACKS[1].hop, STACKS[1].frame_rate) == (640, 25)
