"""A product with what follows it, however it is computed, against the formula."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from extract.encoder import linear as module
from extract.encoder.linear import Linear, can_fuse

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


@pytest.fixture
def tried_again():
    """Whether oneDNN's operations work is found out anew in this test, and after it."""
    module._fusing_works.cache_clear()
    yield
    module._fusing_works.cache_clear()


def wrong(*operands: object) -> Tensor:
    return 1.5 * F.linear(*operands[:3])


wrong.binary = lambda x, other, weight, bias, _: other + wrong(x, weight, bias)


class Operations:
    """torch's operations for oneDNN, of which some are gone or changed."""

    def __init__(self, changed: dict[str, object]) -> None:
        self.changed = changed

    def __getattr__(self, name: str) -> object:
        if name not in self.changed:
            return getattr(mkldnn, name)
        if self.changed[name] is None:
            raise AttributeError(name)
        return self.changed[name]


mkldnn = torch.ops.mkldnn
CHANGES = {
    "no products": {"_linear_pointwise": None},
    "no layout": {"_reorder_linear_weight": None},
    "other arguments": {"_linear_pointwise": lambda x: x},
    "refused": {"_reorder_linear_weight": lambda *_: torch.zeros(2) @ torch.zeros(3)},
    "wrong numbers": {
        "_linear_pointwise": wrong,
        "_reorder_linear_weight": lambda weight, _: weight,
    },
}


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="no oneDNN")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("change", CHANGES)
def test_a_torch_without_these_operations_takes_the_public_ones(
    change, dtype, tried_again, monkeypatch, caplog
):
    x, weight, bias, other = operands(dtype)
    fused = Linear(weight, bias)
    assert fused.fused
    expected = fused(x), fused.gelu(x), fused.plus(x, other.clone())
    module._fusing_works.cache_clear()
    monkeypatch.setattr(torch.ops, "mkldnn", Operations(CHANGES[change]))
    assert not can_fuse(dtype)
    assert len(caplog.messages) == 1
    plain = Linear(weight, bias)
    assert not plain.fused
    found = plain(x), plain.gelu(x), plain.plus(x, other.clone())
    for one, other_one in zip(found, expected, strict=True):
        torch.testing.assert_close(
            one, other_one, atol=1e-5 if dtype == torch.float32 else 5e-2, rtol=1e-2
        )
    assert len(caplog.messages) == 1, "it is tried, and said, once"
