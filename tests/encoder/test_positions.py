"""The positional convolution through the Fourier transform against torch's direct one."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from extract.encoder import positions
from extract.encoder.packing import Packing
from extract.encoder.positions import PositionalConvolution

CPU = torch.device("cpu")


def weights(channels: int, groups: int, kernel: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(channels, channels // groups, kernel, generator=generator)
    return weight / (kernel * channels // groups) ** 0.5, torch.randn(channels, generator=generator)


def direct(hidden: Tensor, lengths: list[int], weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """Every utterance alone, in float64, as transformers computes it."""
    kernel = weight.shape[2]
    found = []
    for utterance in hidden.double().split(lengths):
        x = utterance.t()[None]
        y = F.conv1d(x, weight.double(), bias.double(), padding=kernel // 2, groups=groups)
        found.append(F.gelu(y[0, :, : len(utterance)]).t())
    return torch.cat(found)


# Around a block's K + 1 frames and the K // 2 that it reads before its first, one frame included.
@pytest.mark.parametrize(
    ("kernel", "lengths"),
    [
        (128, [1, 63, 64, 65, 128, 129, 130, 257, 258, 259, 400]),
        (32, [33, 1, 32, 34, 600]),
        (5, [1, 2, 5, 6, 7, 12]),
        (128, [2100]),  # more blocks than are transformed at once
    ],
)
def test_it_is_the_direct_convolution(kernel: int, lengths: list[int]) -> None:
    weight, bias = weights(24, 4, kernel)
    hidden = torch.randn(sum(lengths), 24, generator=torch.Generator().manual_seed(1))
    before = hidden.clone()
    found = PositionalConvolution(weight, bias, 4, CPU)(hidden, Packing(lengths, CPU))
    assert (found - direct(hidden, lengths, weight, bias, 4)).abs().max() <= 2e-6
    assert torch.equal(hidden, before)


def test_half_precision_rounds_only_what_comes_out() -> None:
    weight, bias = weights(24, 4, 128)
    lengths = [50, 300]
    hidden = torch.randn(350, 24, generator=torch.Generator().manual_seed(1)).half()
    found = PositionalConvolution(weight, bias, 4, CPU)(hidden, Packing(lengths, CPU))
    expected = direct(hidden, lengths, weight, bias, 4)
    assert found.dtype == torch.float16
    assert ((found - expected).abs() <= 2**-11 * expected.abs() + 2e-6).all()


def test_neighbours_and_the_number_of_blocks_at_once_change_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weight, bias = weights(24, 4, 32)
    convolve = PositionalConvolution(weight, bias, 4, CPU)
    hidden = torch.randn(500, 24, generator=torch.Generator().manual_seed(1))
    alone = convolve(hidden[100:250], Packing([150], CPU))
    hidden[:100] = torch.nan
    hidden[250:] = 1e30
    for at_once in (1, 3, 100):
        monkeypatch.setattr(positions, "CPU_BLOCKS", at_once)
        found = convolve(hidden, Packing([100, 150, 250], CPU))[100:250]
        torch.testing.assert_close(found, alone, atol=2e-6, rtol=0)
