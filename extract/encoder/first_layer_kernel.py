"""The first convolution with its norm and GELU as one Triton kernel.

As separate torch operations this layer moves 24 MB through a card's memory for a second of audio,
of 94 MB for the whole HuBERT-base in float16. The kernel reads and writes each value once: 3.3 MB
(both counted by `benchmarks/counted.py`). Imported only if there is a card
(`extract.encoder.first_layer`).

Shapes: B utterances, R rows (windows), C channels, a power of two.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, WARPS = 16, 4  # of one program, which computes all channels


def activations(
    windows: Tensor,
    weight: Tensor,
    bias: Tensor,
    norm: tuple[Tensor, Tensor] | None,
    eps: float,
    dtype: torch.dtype,
) -> Tensor:
    """Activations (B R, C) in `dtype`.

    Takes (B, R, kernel) windows, which may overlap in memory, (B, kernel, C) weights and (B, 1, C)
    bias. `norm` is the weight and bias of a LayerNorm over channels. All arithmetic is float32.
    """
    assert weight[0].is_contiguous()
    assert bias[0].is_contiguous()
    batch, num_rows, kernel = windows.shape
    channels = weight.shape[2]
    gamma, beta = norm or (bias, bias)
    out = torch.empty(batch, num_rows, channels, dtype=dtype, device=windows.device)
    _kernel[triton.cdiv(num_rows, ROWS), batch](
        windows,
        weight,
        bias,
        gamma,
        beta,
        out,
        num_rows,
        windows.stride(0),
        weight.stride(0),
        bias.stride(0),
        STRIDE=windows.stride(1),
        KERNEL=kernel,
        CHANNELS=channels,
        ROWS=ROWS,
        NORM=norm is not None,
        EPS=eps,
        num_warps=WARPS,
    )
    return out.flatten(0, 1)


@triton.jit  # type: ignore[untyped-decorator]
def _kernel(  # type: ignore[no-untyped-def]
    windows,
    weight,
    bias,
    gamma,
    beta,
    out,
    num_rows,
    window_step,  # numbers from one utterance to the next
    weight_step,
    bias_step,
    STRIDE: tl.constexpr,  # noqa: N803 - constants in Triton's way
    KERNEL: tl.constexpr,  # noqa: N803
    CHANNELS: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    NORM: tl.constexpr,  # noqa: N803
    EPS: tl.constexpr,  # noqa: N803
):
    """Computes ROWS rows of one utterance, all channels."""
    utterance = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, CHANNELS)
    inside = row < num_rows
    samples = windows + utterance * window_step + row * STRIDE
    weights = weight + utterance * weight_step + channel
    x = tl.zeros((ROWS, CHANNELS), tl.float32)
    x += tl.load(bias + utterance * bias_step + channel)[None, :]
    for tap in tl.static_range(KERNEL):
        sample = tl.load(samples + tap, mask=inside, other=0.0)
        x += sample[:, None] * tl.load(weights + tap * CHANNELS)[None, :]
    if NORM:
        x -= tl.sum(x, 1)[:, None] / CHANNELS
        x *= tl.rsqrt(tl.sum(x * x, 1) / CHANNELS + EPS)[:, None]
        x = x * tl.load(gamma + channel)[None, :] + tl.load(beta + channel)[None, :]
    x = 0.5 * x * (1 + tl.erf(x * 0.7071067811865476))
    places = out + (utterance * num_rows + row)[:, None] * CHANNELS + channel[None, :]
    tl.store(places, x.to(out.dtype.element_ty), mask=inside[:, None])
