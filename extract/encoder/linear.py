"""Linear layers fused with what follows the product: a bias, a GELU, a sum.

On a CPU oneDNN does all of it in one pass, by operations that `torch.compile` generates. Their
names are private to torch, so a release may change them. Each dtype is therefore tried once on a
small input against torch's public operations, which are used instead if the results differ.

Shapes: N rows, I numbers in, O numbers out.
"""

import logging
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

log = logging.getLogger(__name__)

# dtype: largest error allowed in the trial. float16 is left out: few processors multiply in it.
FUSED_DTYPES = {torch.float32: 1e-4, torch.bfloat16: 1e-1}
_TRIAL = slice(0, 32), slice(32, 64), slice(64, 128), slice(128, 136)  # x, other, weight, bias
PACKED_ROWS = 1024  # rows that oneDNN's layout of the weights is tuned for; others work too


class Linear:
    """`x @ weight.T + bias`, (N, I) -> (N, O); `weight` (O, I), `bias` (O,) or none.

    If `fused`, the weight is copied into oneDNN's own layout. That saves 5 % of the encoder's time
    in float32 and 12 % in bfloat16 (HuBERT-base, AMD Zen 4).
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None = None, fused: bool | None = None
    ) -> None:
        self.weight, self.bias = weight, bias
        self.fused = weight.is_cpu and can_fuse(weight.dtype) if fused is None else fused
        if self.fused:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, PACKED_ROWS)

    def __call__(self, x: Tensor) -> Tensor:
        """The product with the bias."""
        out: Tensor
        if self.fused:
            out = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        else:
            out = F.linear(x, self.weight, self.bias)
        return out

    def gelu(self, x: Tensor) -> Tensor:
        """GELU (by the error function) of the product with the bias."""
        out: Tensor
        if self.fused:
            out = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "gelu", [], "none")
        else:
            out = torch.ops.aten.gelu_(F.linear(x, self.weight, self.bias))
        return out

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """The product with the bias, plus `other` (N, O), which may be overwritten."""
        if self.fused:
            fused = torch.ops.mkldnn._linear_pointwise.binary
            out: Tensor = fused(x, other, self.weight, self.bias, "add")
            return out
        if self.bias is not None:
            other = other + self.bias
        return other.addmm_(x, self.weight.t())


def can_fuse(dtype: torch.dtype) -> bool:
    """Whether oneDNN's fused operations work for `dtype` on this machine."""
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return dtype in FUSED_DTYPES and available and _fusing_works(dtype)


@cache
@torch.inference_mode()
def _fusing_works(dtype: torch.dtype) -> bool:
    """Whether oneDNN's fused operations agree with torch's public ones on a small input."""
    numbers = torch.linspace(0, 60, 136).sin().to(dtype)
    x, other, weight, bias = (numbers[rows] for rows in _TRIAL)
    operands = x.view(4, 8), other.view(4, 8)
    weight = weight.view(8, 8)
    try:
        fused, plain = (Linear(weight, bias, fused=way) for way in (True, False))
        pairs = zip(_all_products(fused, *operands), _all_products(plain, *operands), strict=True)
        worst = max(float((found.float() - public.float()).abs().max()) for found, public in pairs)
    except (AttributeError, RuntimeError, TypeError) as failure:
        log.warning("oneDNN's fused products do not work with this torch: %s", failure)
        return False
    if not worst <= FUSED_DTYPES[dtype]:  # NaN included
        log.warning("oneDNN's fused products are off by %.1e with this torch, not used", worst)
        return False
    return True


def _all_products(linear: Linear, x: Tensor, other: Tensor) -> list[Tensor]:
    return [linear(x), linear.gelu(x), linear.plus(x, other.clone())]
