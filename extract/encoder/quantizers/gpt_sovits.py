"""GPT-SoVITS's semantic tokens: quantizer=gpt_sovits quantizer.path=s2G.pth

Two frames become one token: a convolution of kernel and stride 2, then the nearest row of a
codebook. Both are in any s2G file, whichever version it is of.

Source: GPT_SoVITS/prepare_datasets/3-get-semantic.py and module/core_vq.py, `EuclideanCodebook`.

torch is imported where it is needed: `--help` reads the options without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from extract.encoder.quantizer import Quantizer, QuantizerOptions
from extract.fields import location
from extract.text import printable, shortened

if TYPE_CHECKING:
    from torch import Tensor

STRIDE = 2  # frames of a token: 25 tokens a second
WEIGHT, BIAS = "ssl_proj.weight", "ssl_proj.bias"
CODEBOOK = "quantizer.vq.layers.0._codebook.embed"

# Its classes in such files, and what stands for the zip archive's `PK` in files of v3 and later.
STUBBED = ("utils.HParams",)
HEADS = (b"03", b"04", b"05", b"06")

_NEEDED = (
    "a generator (s2G) of GPT-SoVITS is needed, such as pretrained_models/s2Gv3.pth or what its "
    "SoVITS training saved; s2D, GPT (s1) and LoRA files hold no tokens' weights"
)


@dataclass
class Options(QuantizerOptions):
    """The semantic tokens that GPT-SoVITS trains on, in `6-name2semantic-<shard>.tsv`."""

    kind: str = "gpt_sovits"
    format: str = "gpt_sovits"
    path: str = location()  # any s2G file, such as pretrained_models/s2G488k.pth


def load(options: Options, width: int) -> Quantizer:
    """The quantizer in an s2G file; no code of the file is run.

    Raises:
        ValueError: it is no such file, or for features of another width; names it.
    """
    from extract.models.formats.files import read_tensors

    try:
        found = read_tensors(Path(options.path), stubbed=STUBBED, heads=HEADS)
        return _quantizer(_weights(found), width)
    except ValueError as error:
        raise ValueError(f"{printable(options.path)}: {error}") from None


def _weights(found: Mapping[Any, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Weight and bias of the convolution, and the codebook, in float32."""
    from torch import Tensor

    held = found.get("weight")
    if not isinstance(held, Mapping):
        keys = shortened(", ".join(map(str, list(found)[:5])))
        raise ValueError(f"it has no `weight` with tensors in it ({keys}); {_NEEDED}")
    for name in (WEIGHT, BIAS, CODEBOOK):
        tensor = held.get(name)
        if not isinstance(tensor, Tensor):
            raise ValueError(f"it has no tensor {name}; {_NEEDED}")
        if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
            raise ValueError(f"{name} is not made of finite numbers: a damaged file; {_NEEDED}")
    return held[WEIGHT].float(), held[BIAS].float(), held[CODEBOOK].float()


def _quantizer(tensors: tuple[Tensor, Tensor, Tensor], width: int) -> Quantizer:
    weight, bias, codebook = tensors
    shapes = tuple(weight.shape), tuple(bias.shape), tuple(codebook.shape)
    size = len(bias) if bias.dim() else 0
    fits = codebook.dim() == 2 and codebook.shape[1] == size and len(codebook)
    if not fits or weight.dim() != 3 or weight.shape[::2] != (size, STRIDE):
        raise ValueError(
            f"{WEIGHT}, {BIAS} and {CODEBOOK} have the shapes {shapes}; needed (P, D, {STRIDE}), "
            f"(P,) and (codes, P)"
        )
    if weight.shape[1] != width:
        raise ValueError(
            f"made for features of {weight.shape[1]} numbers a frame, and this model gives "
            f"{width}; needed the model that it was trained with (chinese-hubert-base)"
        )
    return semantic(weight, bias, codebook)


def semantic(weight: Tensor, bias: Tensor, codebook: Tensor) -> Quantizer:
    """The quantizer of a convolution (P, D, 2), (P,) and a codebook (codes, P), in float32."""
    from extract.encoder.nearest import Nearest, fingerprint

    name = fingerprint("gpt_sovits", weight, bias, codebook)
    return Quantizer(name, Nearest(codebook, (weight, bias)))
