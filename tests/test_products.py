"""A product with what follows it, however it is computed, against the formula."""

import pytest
import torch
from torch import Tensor

from extract.products import Linear

ROWS, INNER, OUTER = 37, 48, 80


@pytest.fixture(params=["onednn", "plain"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Fused by oneDNN, or as on a GPU and where torch was built without it."""
    if request.param == "plain":
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    return request.param


def operands(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (ROWS, INNER), (OUTER, INNER), (OUTER,), (ROWS, OUTER)
    x, weight, bias, other = (torch.randn(shape, generator=generator) for shape in shapes)
    return x.to(dtype), (weight * INNER**-0.5).to(dtype), bias.to(dtype), other.to(dtype)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 5e-2)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_a_product_with_what_follows_it(way, dtype, bound, with_bias):
    x, weight, bias, other = operands(dtype)
    linear = Linear(weight, bias if with_bias else None)
    assert linear.fused == (way == "onednn" and torch.backends.mkldnn.is_available())
    exact = x.double() @ weight.double().t() + (bias.double() if with_bias else 0)
    erf_gelu = exact * 0.5 * (1 + torch.erf(exact / 2**0.5))
    for found, expected in [
        (linear(x), exact),
        (linear.gelu(x), erf_gelu),
        (linear.plus(x, other.clone()), exact + other.double()),
    ]:
        assert found.dtype == dtype
        assert (found.double() - expected).abs().max() <= bound


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_may_overlap(way, dtype):
    """As a convolution's windows do."""
    x, weight, bias, _ = operands(dtype)
    windows = x.as_strided((ROWS - 1, INNER), (INNER // 2, 1), 5)
    linear = Linear(weight, bias)
    assert torch.equal(linear.gelu(windows), linear.gelu(windows.clone()))
