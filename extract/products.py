"""Matrix products with what follows them: a bias, a GELU, a sum.

On a CPU oneDNN does all of it in one pass. Its operations are those that `torch.compile` writes
there; they have no public name, and the pin on torch's version is what makes them safe to call.

Shapes: N rows, I numbers in, O numbers out.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

FUSED_DTYPES = (torch.float32, torch.bfloat16)  # float16 multiplies on few processors: untried
PACKED_ROWS = 1024  # what packed weights are laid out for; any number of rows may come

_onednn = torch.ops.mkldnn._linear_pointwise


class Linear:
    """`x @ weight.T + bias`, (N, I) -> (N, O); `weight` (O, I), `bias` (O,) or none.

    For oneDNN the weight is copied into its own layout: 5 % of the encoder's time in float32, 12 %
    in bfloat16.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight, self.bias = weight, bias
        self.fused = (
            weight.is_cpu and weight.dtype in FUSED_DTYPES and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        )
        if self.fused:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, PACKED_ROWS)

    def __call__(self, x: Tensor) -> Tensor:
        """The product."""
        out: Tensor
        if self.fused:
            out = _onednn(x, self.weight, self.bias, "none", [], "")
        else:
            out = F.linear(x, self.weight, self.bias)
        return out

    def gelu(self, x: Tensor) -> Tensor:
        """The product's GELU, by the error function."""
        out: Tensor
        if self.fused:
            out = _onednn(x, self.weight, self.bias, "gelu", [], "none")
        else:
            out = torch.ops.aten.gelu_(F.linear(x, self.weight, self.bias))
        return out

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """The product and `other` (N, O), which may be overwritten."""
        if self.fused:
            out: Tensor = _onednn.binary(x, other, self.weight, self.bias, "add")
            return out
        if self.bias is not None:
            other = other + self.bias
        return other.addmm_(x, self.weight.t())
