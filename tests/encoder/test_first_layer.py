"""The first layer in one kernel is the first layer in steps; proven by Triton's interpreter.

That it compiles for a card is shown here too; how fast it is, only by one.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from extract.encoder import first_layer
from extract.encoder.first_layer import EPS, FirstLayer, agrees
from extract.frames import HUBERT_STACK
from extract.models.families import hubert
from extract.models.weights import random_checkpoint

CPU = torch.device("cpu")
KERNEL, STRIDE = HUBERT_STACK.layers[0]
SOURCE = Path(first_layer.__file__)


def layer(norm: str, dtype: torch.dtype, channels: int = 64) -> FirstLayer:
    settings: dict[str, Any] = {"feat_extract_norm": norm, "conv_bias": norm == "layer"}
    sizes = {"num_hidden_layers": 1, "conv_dim": (channels,) * 7}
    architecture = hubert.architecture({**sizes, **settings})
    weights = random_checkpoint(architecture, seed=0).weights
    generator = torch.Generator().manual_seed(1)
    for name in ("conv.bias", "layer_norm.weight", "layer_norm.bias"):
        weight = weights.get(f"feature_extractor.conv_layers.0.{name}")
        if weight is not None:
            weight += torch.randn(weight.shape, generator=generator)
    return FirstLayer(architecture, weights, CPU, dtype)


def off_by(found: Tensor, expected: Tensor) -> float:
    return float(((found - expected) / (1 + expected.abs())).abs().max())


DTYPES = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}


def call(norm: str, dtype: torch.dtype) -> tuple[tuple[Any, ...], Tensor]:
    """The kernel's arguments for a chunk of two utterances, and what the steps give."""
    steps = layer(norm, dtype)
    waveforms = 300 * torch.randn(2, 3_000, generator=torch.Generator().manual_seed(0))
    waveforms[1, 2_500:] = 0
    batch = steps.fold(waveforms, [3_000, 2_500], 9)
    norms = None if norm == "group" else steps.norm
    arguments = batch.windows(1, 6), batch.weight, batch.bias, norms, EPS, dtype
    return arguments, steps(batch, 1, 5).clone()


@pytest.fixture(scope="module")
def cases() -> dict[str, tuple[tuple[Any, ...], Tensor]]:
    found = {
        f"{norm} {dtype}": call(norm, dtype) for norm in ("group", "layer") for dtype in DTYPES
    }
    steps = layer("group", torch.float32)
    windows = torch.randn(3, 200).unfold(1, KERNEL, STRIDE)
    assert windows.shape[1] % 16, "a last block of rows that is not full"
    weight, bias = steps.weight.expand(3, -1, -1), torch.randn(3, 1, 64)
    rest = windows, weight, bias, None, EPS, torch.float32
    return {**found, "rest": (rest, steps.in_steps(windows, weight, bias).clone())}


@pytest.fixture(scope="module")
def interpreted(cases, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """What the kernel gives for each case."""
    pytest.importorskip("triton", reason="no Triton for this platform")
    folder = tmp_path_factory.mktemp("interpreted")
    calls, results = folder / "calls.pt", folder / "results.pt"
    torch.save({name: arguments for name, (arguments, _) in cases.items()}, calls)
    script = Path(__file__).with_name("interpreted.py")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(SOURCE.parents[2])}
    subprocess.run([sys.executable, script, calls, results], check=True, env=environment)
    return torch.load(results, weights_only=True)


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_one_kernel_gives_what_the_steps_give(cases, interpreted, norm, dtype):
    name = f"{norm} {dtype}"
    found, expected = interpreted[name], cases[name][1]
    assert (found.shape, found.dtype) == (expected.shape, dtype)
    assert expected.abs().max() > 1
    assert off_by(found.float(), expected.float()) <= DTYPES[dtype]


def test_a_last_block_of_rows_that_is_not_full(cases, interpreted):
    assert off_by(interpreted["rest"], cases["rest"][1]) <= 1e-5


@pytest.mark.filterwarnings("ignore:AnnAssign:DeprecationWarning")  # Triton 3.8's, on Python 3.13
@pytest.mark.parametrize("card", [75, 80, 90])
@pytest.mark.parametrize("norm", [False, True])
def test_it_compiles_for_a_card_and_spills_nothing(card, norm, tmp_path):
    triton = pytest.importorskip("triton", reason="no Triton for this platform")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from extract.encoder import first_layer_kernel as kernel

    tensors = dict.fromkeys(("windows", "weight", "bias", "gamma", "beta"), "*fp32")
    numbers = dict.fromkeys(("num_rows", "window_step", "weight_step", "bias_step"), "i32")
    constants = {"STRIDE": STRIDE, "KERNEL": KERNEL, "CHANNELS": 512, "ROWS": kernel.ROWS}
    constants |= {"NORM": norm, "EPS": EPS}
    signature = {**tensors, "out": "*fp16", **numbers, **dict.fromkeys(constants, "constexpr")}
    names = list(signature)
    source = ASTSource(
        fn=kernel._kernel,
        signature=signature,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in (*tensors, "out")},
    )
    compiled = triton.compile(
        source, target=GPUTarget("cuda", card, 32), options={"num_warps": kernel.WARPS}
    )
    assert "st.global.v" in compiled.asm["ptx"], "rows are written in whole vectors"
    binary = tmp_path / "kernel.cubin"
    binary.write_bytes(compiled.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    said = subprocess.run(
        [tool, "--dump-resource-usage", binary], capture_output=True, text=True, check=True
    ).stdout
    assert "STACK:0 " in said
    assert "LOCAL:0 " in said


def test_a_kernel_that_works_is_taken():
    steps = layer("group", torch.float32)

    def kernel(windows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return steps.in_steps(windows, weight, bias).clone()

    assert agrees(steps, kernel)


@pytest.mark.parametrize("fault", ["wrong", "nan", "raises"])
def test_a_kernel_that_does_not_is_left_with_a_word(fault, caplog):
    steps = layer("layer", torch.float32)

    def kernel(windows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if fault == "raises":
            raise RuntimeError("no compiler")
        return steps.in_steps(windows, weight, bias) + (0.1 if fault == "wrong" else torch.nan)

    assert not agrees(steps, kernel)
    assert "first layer's kernel" in caplog.text
