"""The forward of our own against transformers' unpatched one, on the utterance alone."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import HubertConfig, HubertModel

from extract.encoder import convolutions, first_layer, forward
from extract.encoder import packing as packing_module
from extract.encoder.convolutions import ConvLayer, chunk_sizes, power_of_two
from extract.encoder.forward import ExactForward
from extract.encoder.linear import Linear
from extract.encoder.packing import Packing, attend_each, attend_padded, block_sizes, gathered
from extract.frames import num_frames
from extract.models.family import as_checkpoint
from extract.models.wanted import wanted_of
from support.models import small_model

CPU = torch.device("cpu")
REFERENCE_GAIN = 1145.14  # what the reference multiplies a waveform of full scale with


def alone(model: HubertModel, waveform: Tensor, layer: int | None = None) -> Tensor:
    """The yardstick: transformers' forward of one waveform (samples,)."""
    out = model(waveform[None], output_hidden_states=True)
    last = layer is None or layer == model.config.num_hidden_layers
    return (out.last_hidden_state if last else out.hidden_states[layer])[0]


def padded(waveforms: list[Tensor]) -> tuple[Tensor, list[int]]:
    batch = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True)
    return batch, [len(waveform) for waveform in waveforms]


def encode(exact: ExactForward, waveforms: list[Tensor]) -> list[Tensor]:
    batch, lengths = padded(waveforms)
    [features] = exact.forward(batch, lengths).mT
    return list(features.split([num_frames(size) for size in lengths]))


def exact_forward(
    model: HubertModel, dtype: torch.dtype = torch.float32, layer: int | None = None
) -> ExactForward:
    checkpoint = as_checkpoint(model)
    return ExactForward(checkpoint, CPU, dtype, wanted_of(checkpoint.architecture, layer))


def noise(lengths: list[int], seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scale = REFERENCE_GAIN * 0.5 / 3
    return [torch.randn(length, generator=generator) * scale for length in lengths]


def worst(found: list[Tensor], expected: list[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_batch_of_any_lengths_gives_what_each_utterance_gives_alone(norm: str, seed: int) -> None:
    model = small_model(norm, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    random = (400 * 800 ** torch.rand(6, generator=generator)).long().tolist()  # 25 ms to 20 s
    waveforms = noise([400, 320_000, 401, 719, 720, 16_000, *random])
    expected = [alone(model, waveform) for waveform in waveforms]
    assert worst(encode(exact_forward(model), waveforms), expected) <= 1e-5


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("layer", [1, 2, 3, None])
def test_a_layer_is_transformers_hidden_state_of_that_number(norm: str, layer: int | None) -> None:
    model = small_model(norm)
    exact = exact_forward(model, layer=layer)
    waveforms = noise([5_000, 9_000])
    expected = [alone(model, waveform, layer) for waveform in waveforms]
    assert worst(encode(exact, waveforms), expected) <= 1e-5
    assert len(exact.layers) == (layer or 3)


@pytest.mark.parametrize(
    "settings",
    [
        {"conv_bias": True},
        {"feat_extract_norm": "layer", "conv_bias": False},
        {"num_conv_pos_embeddings": 31},
        {"feat_proj_layer_norm": False},
        {"do_stable_layer_norm": True},
        {"layer_norm_eps": 1e-2},
        {"conv_dim": (16, 24, 32, 8, 16, 24, 32)},
        {"conv_pos_batch_norm": True},
    ],
    ids=str,
)
def test_other_settings_are_followed(settings: dict[str, Any]) -> None:
    model = small_model(**{"norm": settings.pop("feat_extract_norm", "group"), **settings})
    waveforms = noise([700, 12_345])
    expected = [alone(model, waveform) for waveform in waveforms]
    assert worst(encode(exact_forward(model), waveforms), expected) <= 1e-5


# (kernel, stride) of convolutions that are not HuBERT's.
STACKS = {
    "mhubert-base-25hz": ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2), (2, 2)),
    "a frame needs rows of many behind it": ((10, 5), (7, 2), (9, 2), (5, 1)),
    "windows end to end": ((4, 4), (3, 3), (2, 2)),
    "windows with gaps between": ((3, 5), (2, 3)),
    "one convolution": ((16, 8),),
}


def model_of(stack: str, norm: str) -> HubertModel:
    kernels, strides = zip(*STACKS[stack], strict=True)
    dims = (32,) * len(kernels)
    return small_model(norm, conv_kernel=kernels, conv_stride=strides, conv_dim=dims)


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("stack", STACKS)
def test_other_convolutions_are_data(stack: str, norm: str) -> None:
    model = model_of(stack, norm)
    exact = exact_forward(model)
    shortest = exact.stack.min_samples() + exact.stack.layers[0][1]  # GroupNorm refuses one window
    waveforms = noise([shortest, 8_000, 2_345, 2_346, shortest + 1, 5_000])
    expected = [alone(model, waveform) for waveform in waveforms]
    batch, lengths = padded(waveforms)
    frames = [exact.stack.num_frames(length) for length in lengths]
    assert frames == [len(features) for features in expected]
    assert worst(list(exact.forward(batch, lengths)[0].mT.split(frames)), expected) <= 1e-5


def special_waveforms() -> dict[str, Tensor]:
    [speech] = noise([8_000])
    time = torch.arange(8_000) / 16_000
    impulses = torch.zeros(8_000)
    impulses[::1_000] = REFERENCE_GAIN * 0.5
    return {
        "dc offset": speech + 3_000,
        "pure tone": 500 * torch.sin(2 * math.pi * 440 * time),
        "near silence": speech * 1e-6,
        "nearly constant": 100 + speech * 1e-3,
        "impulses": impulses,
        "a click after silence": torch.cat([torch.zeros(7_990), torch.full((10,), 500.0)]),
        "silence": torch.zeros(8_000),
        "full scale": speech * 30,
    }


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("name", special_waveforms())
def test_special_signals_are_as_near_to_the_truth_as_transformers_is(norm: str, name: str) -> None:
    waveform = special_waveforms()[name]
    model = small_model(norm)
    single = alone(model, waveform)
    [found] = encode(exact_forward(model), [waveform])
    truth = alone(model.double(), waveform.double())
    assert worst([found.double()], [truth]) <= max(1e-5, worst([single.double()], [truth]))


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_the_conv_stack_gives_the_same_bits_alone_and_in_a_batch(norm: str) -> None:
    exact = exact_forward(small_model(norm))

    def conv_features(waveforms: list[Tensor]) -> Tensor:
        batch, lengths = padded(waveforms)
        packing = Packing([num_frames(length) for length in lengths], CPU)
        return exact.convolutions.features(batch, lengths, packing).clone()

    waveforms = noise([90_000, 400, 5_555])
    together = conv_features(waveforms)
    assert torch.equal(together, torch.cat([conv_features([waveform]) for waveform in waveforms]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_utterances_of_many_lengths_need_products_of_few_sizes(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """oneDNN keeps 0.7 MB for every number of rows that it multiplied, up to 1,024 of them."""
    exact = exact_forward(small_model("group"), dtype, layer=1)
    sizes: set[tuple[object, ...]] = set()

    def noted(product: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def note(*operands: Any) -> Tensor:
            shapes = [x.shape for x in operands if isinstance(x, Tensor) and x.dtype == dtype]
            if shapes:
                sizes.add((id(operands[0]) if isinstance(operands[0], Linear) else 0, *shapes))
            return product(*operands)

        return note

    for name in ("__call__", "gelu", "plus"):
        monkeypatch.setattr(Linear, name, noted(getattr(Linear, name)))
    if dtype != torch.float32:  # MKL computes the others and keeps nothing
        monkeypatch.setattr(torch, "bmm", noted(torch.bmm))
    for frames in range(1, 800, 3):
        exact.forward(torch.zeros(1, 320 * frames + 80), [320 * frames + 80])
    rows, chunks = 5 * 23, 6 * 6  # products of a layer and before it; convolutions
    attention = 512 // 32 if dtype != torch.float32 else 0
    assert chunks < len(sizes) <= rows + chunks + attention


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("stack", ["hubert", *STACKS])
@pytest.mark.parametrize(("chunk", "least", "at_once"), [(1, 1, 1), (8, 1, 7), (64, 4, 50)])
def test_equal_slots_in_chunks_of_any_size_give_the_same(
    norm: str, stack: str, chunk: int, least: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way of a CUDA batch: all rows at once, taps where they lie, garbage in the padding."""
    model = small_model(norm) if stack == "hubert" else model_of(stack, norm)
    convolution = exact_forward(model).convolutions
    each = convolution.first.rows_per_frame
    monkeypatch.setattr(convolutions, "CPU_CHUNK_ROWS", each * chunk)
    monkeypatch.setattr(convolutions, "CPU_LEAST_ROWS", each * least)
    monkeypatch.setattr(convolutions, "CUDA_CHUNK_ROWS", 4 * each * at_once)
    monkeypatch.setattr(first_layer, "STATISTICS_WINDOWS", 1_000)
    sizes = [400, 16_000, 5_000, 719] if stack == "hubert" else [700, 4_000, 1_501, 720]
    batch, lengths = padded(noise(sizes))
    frames = [convolution.stack.num_frames(length) for length in lengths]
    batch[0, lengths[0] :] = torch.nan  # past an utterance's end nothing may be read
    packed = convolution.features(batch, lengths, Packing(frames, CPU))
    convolution.later = [
        ConvLayer(model.state_dict(), number, stride, CPU, torch.float32)
        for number, (_kernel, stride) in enumerate(convolution.stack.layers[1:], start=1)
    ]
    out = torch.empty(len(lengths), max(frames), 32)
    convolution.fill(batch, lengths, out)
    valid = torch.cat([rows[:size] for rows, size in zip(out, frames, strict=True)])
    assert (valid - packed).abs().max() <= 1e-5


def test_a_nan_stays_in_its_own_utterance() -> None:
    exact = exact_forward(small_model("group"))
    waveforms = noise([3_000, 4_000, 5_000])
    expected = encode(exact, waveforms)
    waveforms[1][2_000] = torch.nan
    found = encode(exact, waveforms)
    assert worst([found[0], found[2]], [expected[0], expected[2]]) == 0
    assert found[1].isnan().all()


@pytest.mark.parametrize("by_products", [512, 7, 0])
@pytest.mark.parametrize("lengths", [[5], [1, 30, 7], [6, 6, 6]])
def test_every_attention_gives_the_same(
    lengths: list[int], by_products: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing_module, "PRODUCTS_FRAMES", {2: by_products, 4: by_products})
    packing = Packing(lengths, CPU)
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, sum(lengths), 2, 8, generator=generator)
    qkv = torch.stack((query, key, value), 1)
    each = attend_each(qkv.split(4), packing)
    assert (each - attend_padded([qkv], packing)).abs().max() <= 1e-6
    rows = packing.slices()[-1]
    scores = torch.einsum("qhd,khd->hqk", query[rows], key[rows]) / math.sqrt(8)
    context = torch.einsum("hqk,khd->qhd", scores.softmax(-1), value[rows])
    assert (each[rows] - context).abs().max() <= 1e-6


@pytest.mark.parametrize("by_products", [512, 0])
def test_scores_are_float32_also_of_half_precision(
    by_products: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two keys with scores of 1,024 and 1,026: bfloat16 has no number between 1,024 and 1,032."""
    monkeypatch.setattr(packing_module, "PRODUCTS_FRAMES", {2: by_products, 4: by_products})
    query = torch.full((2, 1, 4), 512.0, dtype=torch.bfloat16)
    key, value = torch.ones_like(query), torch.zeros_like(query)
    key[1, 0, 0] += 2**-7
    value[1] = 1
    context = attend_each([torch.stack((query, key, value), 1)], Packing([2], CPU))
    assert (context.float() - 1 / (1 + math.exp(-2))).abs().max() <= 4e-3


def test_packing_pads_with_zeros_and_unpads() -> None:
    packing = Packing([2, 4, 1], CPU)
    packed = torch.arange(1.0, 15).view(7, 2)
    batch = packing.pad(packed)
    assert batch[0].tolist() == [[1, 2], [3, 4], [0, 0], [0, 0]]
    assert torch.equal(packing.unpad(batch), packed)
    assert packing.cumulative.tolist() == [0, 2, 6, 7]


@pytest.mark.parametrize(
    ("total", "sizes"),
    [(1, [4]), (12, [8, 4]), (13, [16]), (16, [16]), (17, [16, 4]), (60, [16, 16, 16, 8, 4])],
)
def test_chunks_are_of_few_sizes_and_hold_all_frames(total: int, sizes: list[int]) -> None:
    assert chunk_sizes(total, largest=16, smallest=4) == sizes


@pytest.mark.parametrize(
    ("number", "power"), [(0, 1), (1, 1), (2, 2), (3, 2), (256, 256), (2_730, 2_048)]
)
def test_chunks_of_other_convolutions_are_powers_of_two_as_well(number: int, power: int) -> None:
    assert power_of_two(number) == power


@pytest.mark.parametrize(
    ("total", "sizes"),
    [(1, [4]), (12, [12]), (20, [20]), (21, [16, 8]), (24, [16, 8]), (55, [16, 16, 16, 8])],
)
def test_blocks_are_of_few_sizes_none_small_behind_another(total: int, sizes: list[int]) -> None:
    assert block_sizes(total, block=16, step=4) == sizes


def test_blocks_hold_all_rows_in_23_sizes() -> None:
    blocks = [block_sizes(total, block=512, step=32) for total in range(1, 5_000)]
    assert all(0 <= sum(sizes) - total < 32 for total, sizes in enumerate(blocks, start=1))
    assert len({size for sizes in blocks for size in sizes}) == 23


def test_rows_are_gathered_from_blocks_and_copied_only_where_two_hold_them() -> None:
    rows = torch.arange(9)
    blocks = rows.split([4, 4, 1])
    for start in range(9):
        for stop in range(start + 1, 10):
            found = gathered(blocks, slice(start, stop))
            assert torch.equal(found, rows[start:stop])
    assert gathered(blocks, slice(5, 8)).data_ptr() == rows[5:].data_ptr()


@pytest.mark.parametrize(("block", "step"), [(8, 8), (16, 1), (4096, 1), (4096, 4096)])
def test_the_size_of_blocks_does_not_change_features(
    block: int, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = exact_forward(small_model("layer"))
    waveforms = noise([16_000, 32_000, 400])
    expected = encode(exact, waveforms)
    monkeypatch.setattr(forward, "CPU_BLOCK_ROWS", block)
    monkeypatch.setattr(forward, "CPU_ROWS_STEP", step)
    assert worst(encode(exact, waveforms), expected) <= 1e-5


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"conv_stride": (5, 2, 2, 2, 2, 2, 400)}, "conv_stride is .* and .*400"),
        ({"hidden_act": "relu"}, "hidden_act is relu"),
        ({"adapter_attn_dim": 8}, "adapter_attn_dim"),
    ],
)
def test_a_variant_that_is_not_covered_is_refused(settings: dict[str, Any], words: str) -> None:
    model = small_model("group", **settings)
    with pytest.raises(ValueError, match=words):
        exact_forward(model)


@pytest.mark.slow
def test_hubert_base_gives_what_transformers_gives() -> None:
    torch.manual_seed(0)
    model = HubertModel(HubertConfig()).eval().requires_grad_(False)
    waveforms = noise([400, 12_000, 20_001])
    expected = [alone(model, waveform) for waveform in waveforms]
    assert worst(encode(exact_forward(model), waveforms), expected) <= 1e-5
