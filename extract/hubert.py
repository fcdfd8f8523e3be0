"""HuBERT's forward of our own: exact for every utterance whatever shares its batch, and fast.

Utterances travel *packed*: their valid frames end to end, so that no linear layer computes
padding and none can leak. The convolutions are matrix products over strided views of
channels-last rows; the first layer's GroupNorm is folded into its weights, so that nothing in
the conv stack needs the whole time axis at once and it runs in chunks of bounded memory.
Inference only. Nothing here imports transformers: weights are read from the module tree.

Shapes: B utterances, S samples, T frames of the longest, N frames of all, C conv channels,
D hidden size, H heads.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from extract.frames import CONV_LAYERS, HOP_SAMPLES, num_frames

CPU_CHUNK_FRAMES = 100  # of the conv stack: its widest rows (13 MB) stay in the last-level cache
CUDA_CHUNK_FRAMES = 3000  # over the whole batch: about 0.6 GB
CPU_SPAN_ROWS = 512  # utterances that share one pass through a layer on the CPU, in frames
FEED_FORWARD_ROWS = 1024  # per block on the CPU: an hour's intermediate activations stay small

STATISTICS_WINDOWS = 200_000  # at a time: 16 MB in float64
GROUP_NORM_EPS = 1e-5  # torch's default, which transformers leaves as it is

Affine = tuple[Tensor, Tensor]  # weight, bias


log = logging.getLogger(__name__)


class Packing:
    """Where each utterance's frames lie when packed (N, ...) and when padded (B, T, ...)."""

    def __init__(self, lengths: Sequence[int], device: torch.device, start: int = 0) -> None:
        self.lengths = list(lengths)
        self.longest = max(lengths)
        self.offsets = [0, *accumulate(lengths)]
        self.rows = slice(start, start + self.offsets[-1])  # of the batch this is a span of
        self.device = device

    def slices(self) -> list[slice]:
        """Every utterance's rows."""
        return [slice(*ends) for ends in pairwise(self.offsets)]

    def spans(self, rows: int) -> Iterator["Packing"]:
        """The same utterances in order, whole, in groups of about `rows` frames."""
        group: list[int] = []
        start = 0
        for length in self.lengths:
            if group and sum(group) + length > rows:
                yield Packing(group, self.device, start)
                start, group = start + sum(group), []
            group.append(length)
        yield Packing(group, self.device, start)

    def send(self, tensor: Tensor) -> Tensor:
        """A small CPU tensor on the device, without waiting for it."""
        if self.device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)

    @cached_property
    def cumulative(self) -> Tensor:
        """(B + 1,) where each utterance starts, and the end."""
        return self.send(torch.tensor(self.offsets, dtype=torch.int32))

    @cached_property
    def mask(self) -> Tensor | None:
        """(B, 1, 1, T), True where there is a frame to attend to; None where all lengths agree."""
        valid = torch.arange(self.longest) < torch.tensor(self.lengths)[:, None]
        return None if bool(valid.all()) else self.send(valid)[:, None, None, :]

    @cached_property
    def index(self) -> Tensor:
        """(N,) rows of the packed frames among the B T padded ones."""
        valid = torch.arange(self.longest) < torch.tensor(self.lengths)[:, None]
        return self.send(valid.flatten().nonzero()[:, 0])

    def pad(self, packed: Tensor) -> Tensor:
        """(N, ...) -> (B, T, ...), zeros past each utterance's end."""
        batch = len(self.lengths)
        if self.mask is not None:
            padded = packed.new_zeros(batch * self.longest, *packed.shape[1:])
            packed = padded.index_copy_(0, self.index, packed)
        return packed.view(batch, self.longest, *packed.shape[1:])

    def unpad(self, padded: Tensor) -> Tensor:
        """(B, T, ...) -> (N, ...)."""
        flat = padded.flatten(0, 1)
        return flat if self.mask is None else flat.index_select(0, self.index)


Attention = Callable[[Tensor, Tensor, Tensor, Packing], Tensor]  # (N, H, Dh) three times -> same


def attend_each(query: Tensor, key: Tensor, value: Tensor, packing: Packing) -> Tensor:
    """Attention one utterance at a time: nothing to mask, nothing wasted."""
    contexts = []
    for rows in packing.slices():
        q, k, v = (x[rows].transpose(0, 1)[None] for x in (query, key, value))
        contexts.append(F.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1))
    return torch.cat(contexts) if len(contexts) > 1 else contexts[0]


def attend_padded(query: Tensor, key: Tensor, value: Tensor, packing: Packing) -> Tensor:
    """Attention over the padded batch, the padding masked out of the keys."""
    q, k, v = (packing.pad(x).transpose(1, 2) for x in (query, key, value))
    context = F.scaled_dot_product_attention(q, k, v, attn_mask=packing.mask)
    return packing.unpad(context.transpose(1, 2))


def attend_varlen(query: Tensor, key: Tensor, value: Tensor, packing: Packing) -> Tensor:
    """Attention over the packed batch in one kernel (CUDA, half precision)."""
    from torch.nn.attention.varlen import varlen_attn

    ends, longest = packing.cumulative, packing.longest
    context = varlen_attn(query, key, value, ends, ends, longest, longest)
    assert isinstance(context, Tensor)  # a pair only where the log-sum-exp is asked for
    return context


@torch.inference_mode()
def choose_attention(
    device: torch.device, dtype: torch.dtype, num_heads: int, head_size: int
) -> Attention:
    """The fastest attention that works here: tried once on a small input against the masked one."""
    if device.type != "cuda":
        return attend_each
    if dtype == torch.float32:
        return attend_padded
    packing = Packing([3, 70, 129], device)
    qkv = torch.randn(packing.offsets[-1], 3, num_heads, head_size, device=device, dtype=dtype)
    try:
        q, k, v = qkv.unbind(1)
        error = attend_varlen(q, k, v, packing) - attend_padded(q, k, v, packing)
        worst = float(error.abs().max())
    except (ImportError, RuntimeError) as failure:
        log.warning("variable-length attention does not work here, using a mask: %s", failure)
        return attend_padded
    if not worst <= 2e-2:  # NaN included
        log.warning("variable-length attention is off by %.1e here, using a mask", worst)
        return attend_padded
    return attend_varlen


class Scratch:
    """Buffers used again from call to call on the CPU, where a fresh one costs its page faults.

    Measured: 16 % of a matrix product. CUDA's caching allocator does this by itself.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.buffers: dict[tuple[str, torch.dtype], Tensor] = {}

    def take(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """An uninitialised tensor of `shape`; on the CPU valid until `name` is taken again."""
        if self.device.type != "cpu":
            return torch.empty(shape, dtype=dtype, device=self.device)
        size = prod(shape)
        buffer = self.buffers.get((name, dtype))
        if buffer is None or buffer.numel() < size:
            buffer = self.buffers[name, dtype] = torch.empty(size, dtype=dtype)
        return buffer[:size].view(shape)


@dataclass
class ConvLayer:
    """One convolution as `ceil(kernel / stride)` matrix products, with what follows it."""

    stride: int
    parts: list[Tensor]  # each (taps * C_in, C_out), taps in order; all but the last `stride` taps
    bias: Tensor | None
    norm: Affine | None  # LayerNorm over channels


@dataclass
class TransformerLayer:
    """One transformer layer; every weight (in, out), query, key and value in one."""

    attention_norm: Affine
    qkv: Affine
    out: Affine
    feed_forward_norm: Affine
    up: Affine
    down: Affine


class ExactHubert:
    """A HubertModel's weights on one device in one dtype, and its forward over a batch.

    `layer` counts from 1; None (or the last) is `last_hidden_state`, a smaller one transformers'
    `hidden_states[layer]`; layers past it are not kept. The first convolution and its norm stay
    float32: 0.2 % of the arithmetic, and where half precision would overflow.
    Raises ValueError for a variant of the architecture that is not covered.
    """

    def __init__(
        self, model: Any, device: torch.device, dtype: torch.dtype, layer: int | None = None
    ) -> None:
        config = model.config
        require_supported(config)
        self.device, self.dtype = device, dtype
        self.eps = config.layer_norm_eps
        self.group_norm = config.feat_extract_norm == "group"
        self.pre_norm = config.do_stable_layer_norm
        self.num_heads = config.num_attention_heads
        self.num_layers = config.num_hidden_layers if layer is None else layer
        self.scratch = Scratch(device)
        head_size = config.hidden_size // self.num_heads
        self.attend = choose_attention(device, dtype, self.num_heads, head_size)
        with torch.no_grad():
            self._load_conv_stack(model.feature_extractor)
            self._load_transformer(model.feature_projection, model.encoder, config)

    # ------------------------------------------------------------------ weights

    def _tensor(self, tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        return tensor.detach().to(self.device, dtype or self.dtype).contiguous()

    def _affine(self, module: Any, dtype: torch.dtype | None = None) -> Affine:
        """A norm's weight and bias, or a linear layer's with the weight as (in, out)."""
        weight = module.weight.t() if module.weight.dim() == 2 else module.weight
        return self._tensor(weight, dtype), self._tensor(module.bias, dtype)

    def _load_conv_stack(self, extractor: Any) -> None:
        self.convs: list[ConvLayer] = []
        for position, module in enumerate(extractor.conv_layers):
            stride = CONV_LAYERS[position][1]
            dtype = torch.float32 if position == 0 else self.dtype
            taps = module.conv.weight.permute(2, 1, 0)  # (kernel, C_in, C_out)
            parts = [self._tensor(part.flatten(0, 1), dtype) for part in taps.split(stride)]
            bias = None if module.conv.bias is None else self._tensor(module.conv.bias, dtype)
            has_norm = hasattr(module, "layer_norm")
            norm = self._affine(module.layer_norm, dtype) if has_norm else None
            self.convs.append(ConvLayer(stride, parts, bias, norm))

    def _load_transformer(self, projection: Any, encoder: Any, config: Any) -> None:
        self.projection_norm = (
            self._affine(projection.layer_norm) if config.feat_proj_layer_norm else None
        )
        self.projection = self._affine(projection.projection)
        position = encoder.pos_conv_embed.conv  # reading .weight folds the weight norm
        self.position = self._tensor(position.weight), self._tensor(position.bias)
        self.position_groups = position.groups
        self.encoder_norm = self._affine(encoder.layer_norm)
        self.layers = [self._layer(layer) for layer in encoder.layers[: self.num_layers]]
        self.final_norm = self.pre_norm and self.num_layers == config.num_hidden_layers

    def _layer(self, layer: Any) -> TransformerLayer:
        attention = layer.attention
        projections = [attention.q_proj, attention.k_proj, attention.v_proj]
        weight = torch.cat([projection.weight for projection in projections]).t()
        bias = torch.cat([projection.bias for projection in projections])
        return TransformerLayer(
            attention_norm=self._affine(layer.layer_norm),
            qkv=(self._tensor(weight), self._tensor(bias)),
            out=self._affine(attention.out_proj),
            feed_forward_norm=self._affine(layer.final_layer_norm),
            up=self._affine(layer.feed_forward.intermediate_dense),
            down=self._affine(layer.feed_forward.output_dense),
        )

    # ------------------------------------------------------------------ forward

    @torch.inference_mode()
    def forward(self, waveforms: Tensor, lengths: Sequence[int]) -> Tensor:
        """(B, S) float32 waveforms on the device, lengths in samples -> packed (N, D) features.

        Utterance i has `num_frames(lengths[i])` rows. What lies past its length is never read
        by them. Each length must be at least `min_samples()`.
        """
        packing = Packing([num_frames(length) for length in lengths], self.device)
        hidden = self._project(self._conv_features(waveforms, lengths, packing))
        hidden = self._add_positions(hidden, packing)
        if not self.pre_norm:
            hidden = self._norm(hidden, self.encoder_norm)
        spans = list(packing.spans(CPU_SPAN_ROWS)) if hidden.is_cpu else [packing]
        rows = [hidden[span.rows] for span in spans]
        for layer in self.layers:
            rows = [self._transform(x, layer, span) for x, span in zip(rows, spans, strict=True)]
        hidden = torch.cat(rows) if len(rows) > 1 else rows[0]
        return self._norm(hidden, self.encoder_norm) if self.final_norm else hidden

    def _norm(self, x: Tensor, affine: Affine) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], *affine, self.eps)

    def _linear(self, x: Tensor, affine: Affine, name: str) -> Tensor:
        weight, bias = affine
        out = self.scratch.take(name, (x.shape[0], weight.shape[1]), self.dtype)
        return torch.addmm(bias, x, weight, out=out)

    def _project(self, features: Tensor) -> Tensor:
        if self.projection_norm is not None:
            features = self._norm(features, self.projection_norm)
        return self._linear(features, self.projection, "hidden")

    def _add_positions(self, hidden: Tensor, packing: Packing) -> Tensor:
        """Frames plus their positional convolution (N, D), which sees zeros around an utterance."""
        if not hidden.is_cpu:
            return hidden + packing.unpad(self._positions(packing.pad(hidden)))
        out = torch.empty_like(hidden)
        for rows in packing.slices():  # one by one: no padding computed
            torch.add(hidden[rows], self._positions(hidden[rows][None])[0], out=out[rows])
        return out

    def _positions(self, padded: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        weight, bias = self.position
        kernel, groups = weight.shape[-1], self.position_groups
        x = F.conv1d(padded.transpose(1, 2), weight, bias, padding=kernel // 2, groups=groups)
        x = x[..., : padded.shape[1]]  # an even kernel gives one frame too many
        return F.gelu(x).transpose(1, 2)

    def _transform(self, hidden: Tensor, layer: TransformerLayer, packing: Packing) -> Tensor:
        """One transformer layer on the rows (N, D) of whole utterances."""
        x = self._norm(hidden, layer.attention_norm) if self.pre_norm else hidden
        qkv = self._linear(x, layer.qkv, "qkv").view(len(hidden), 3, self.num_heads, -1)
        context = self.attend(qkv[:, 0], qkv[:, 1], qkv[:, 2], packing).flatten(1)
        hidden = residual(hidden, context, layer.out)
        if not self.pre_norm:
            hidden = self._norm(hidden, layer.attention_norm)
        if not hidden.is_cpu or len(hidden) <= FEED_FORWARD_ROWS:
            return self._feed_forward(hidden, layer)
        blocks = torch.split(hidden, FEED_FORWARD_ROWS)
        return torch.cat([self._feed_forward(block, layer) for block in blocks])

    def _feed_forward(self, hidden: Tensor, layer: TransformerLayer) -> Tensor:
        x = self._norm(hidden, layer.feed_forward_norm) if self.pre_norm else hidden
        up = torch.ops.aten.gelu_(self._linear(x, layer.up, "up"))
        hidden = residual(hidden, up, layer.down)
        return hidden if self.pre_norm else self._norm(hidden, layer.feed_forward_norm)

    # ------------------------------------------------------------------ conv stack

    def _conv_features(self, waveforms: Tensor, lengths: Sequence[int], packing: Packing) -> Tensor:
        """Packed (N, C) features of the last convolution."""
        channels = self.convs[-1].parts[0].shape[1]
        out = self.scratch.take("features", (packing.offsets[-1], channels), self.dtype)
        if waveforms.is_cpu:  # one by one: no padding computed, bitwise the same in any batch
            for waveform, length, rows in zip(waveforms, lengths, packing.slices(), strict=True):
                self._conv_stack(waveform[None, :length], [length], out[rows][None])
            return out
        padded = out.new_empty(len(lengths), packing.longest, channels)
        self._conv_stack(waveforms, lengths, padded)
        return packing.unpad(padded)

    def _conv_stack(self, waveforms: Tensor, lengths: Sequence[int], out: Tensor) -> None:
        """Fill `out` (B, T, C) chunk by chunk; rows past an utterance's end hold garbage.

        Every utterance gets an equal slot, a multiple of the hop, so that after each layer the
        slots still have equal lengths and the batch is one matrix of rows. A window that reaches
        over its slot's end reads its neighbour and gives garbage, but no valid frame needs one:
        frame t reads samples [320 t, 320 t + 400) of its own utterance, and those are inside.
        """
        batch, frames = out.shape[:2]
        chunk = CPU_CHUNK_FRAMES if out.is_cpu else max(1, CUDA_CHUNK_FRAMES // batch)
        kernel, stride = CONV_LAYERS[0]
        samples, weight, bias = self._first_layer(waveforms, lengths)
        size = (frames + 1) * HOP_SAMPLES + kernel - stride
        samples = F.pad(samples, (0, max(0, size - samples.shape[1])))
        for start in range(0, frames, chunk):
            stop = min(start + chunk, frames)
            end = (stop + 1) * HOP_SAMPLES + kernel - stride
            windows = samples[:, start * HOP_SAMPLES : end].unfold(1, kernel, stride)
            rows = self._first_convolution(windows, weight, bias)
            for position in range(1, len(CONV_LAYERS)):
                rows = self._convolution(rows, position, batch, stop - start)
            out[:, start:stop] = rows.view(batch, stop - start + 1, -1)[:, :-1]

    def _first_layer(
        self, waveforms: Tensor, lengths: Sequence[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Samples (B, S), weight (B, kernel, C) and bias (B, 1, C) of the first convolution.

        A group-norm model's GroupNorm is folded in. The convolution is linear, so a channel's
        statistics over time follow from those of the utterance's windows: with the windows' mean
        m and covariance K, a channel of weight w has mean w.m and variance w'Kw (its bias
        cancels). Float64, of samples centred first: an offset costs no digits.
        """
        layer = self.convs[0]
        batch = len(lengths)
        weight = torch.cat(layer.parts)
        if not self.group_norm:
            bias = weight.new_zeros(weight.shape[1]) if layer.bias is None else layer.bias
            return waveforms, weight.expand(batch, -1, -1), bias.expand(batch, 1, -1)
        assert layer.norm is not None
        gamma, beta = layer.norm
        ends = Packing(lengths, self.device).send(torch.tensor(lengths))[:, None]
        past = torch.arange(waveforms.shape[1], device=self.device) >= ends
        offset = waveforms.masked_fill(past, 0).sum(1, True, dtype=torch.float64) / ends
        centred = (waveforms - offset.float()).masked_fill_(past, 0)
        mean, covariance = window_statistics(centred, ends)
        exact = weight.double()
        variance = torch.einsum("kc,bkl,lc->bc", exact, covariance, exact).clamp_(min=0)
        scale = gamma / torch.sqrt(variance + GROUP_NORM_EPS)  # (B, C)
        folded = exact * scale[:, None]
        bias = beta - mean[:, None] @ folded
        return centred, folded.float(), bias.float()

    def _first_convolution(self, windows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """(B, R, kernel) windows -> (B R, C) activations; float32 inside."""
        shape = (*windows.shape[:2], weight.shape[2])
        rows = self.scratch.take("conv0", shape, torch.float32)
        torch.baddbmm(bias, windows, weight, out=rows)
        norm = self.convs[0].norm
        if norm is not None and not self.group_norm:
            rows = F.layer_norm(rows, rows.shape[-1:], *norm)
        rows = torch.ops.aten.gelu_(rows)
        if self.dtype != torch.float32:
            rows = self.scratch.take("conv0", shape, self.dtype).copy_(rows)
        return rows.flatten(0, 1)

    def _convolution(self, rows: Tensor, position: int, batch: int, frames: int) -> Tensor:
        """One later convolution: (B R, C_in) -> (B R / stride, C_out).

        Of the last slot only what `frames` valid frames need is computed; the rest stays unset.
        """
        layer = self.convs[position]
        blocks = rows.view(len(rows) // layer.stride, -1)  # a row: `stride` taps side by side
        slot = len(blocks) // batch
        needed = frames
        for kernel, stride in reversed(CONV_LAYERS[position + 1 :]):
            needed = (needed - 1) * stride + kernel
        count = (batch - 1) * slot + needed
        shape = (len(blocks), layer.parts[0].shape[1])
        out = self.scratch.take(f"conv{position}", shape, self.dtype)
        valid = out[:count]
        for shift, part in enumerate(layer.parts):
            taps = blocks[shift : shift + count, : len(part)]
            if shift > 0:
                valid.addmm_(taps, part)
            elif layer.bias is not None:
                torch.addmm(layer.bias, taps, part, out=valid)
            else:
                torch.mm(taps, part, out=valid)
        if layer.norm is not None:
            valid.copy_(F.layer_norm(valid, valid.shape[-1:], *layer.norm))
        torch.ops.aten.gelu_(valid)
        return out


def residual(x: Tensor, branch: Tensor, affine: Affine) -> Tensor:
    """The sum of `x` and `branch @ weight + bias`, the product added where the rest stands."""
    weight, bias = affine
    return torch.add(x, bias).addmm_(branch, weight)


def window_statistics(samples: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (B, kernel) and covariance (B, kernel, kernel) of the first layer's valid windows.

    `samples` (B, S) are centred, `ends` (B, 1) the lengths. All windows inside an utterance count,
    also the last few that no frame reads: that is what GroupNorm averages over.
    """
    kernel, stride = CONV_LAYERS[0]
    counts = (ends - kernel) // stride + 1
    windows = samples.unfold(1, kernel, stride)
    total = samples.new_zeros(len(samples), kernel, dtype=torch.float64)
    products = samples.new_zeros(len(samples), kernel, kernel, dtype=torch.float64)
    numbers = torch.arange(windows.shape[1], device=samples.device)
    step = max(1, STATISTICS_WINDOWS // len(samples))
    for start in range(0, windows.shape[1], step):
        past = numbers[start : start + step] >= counts
        part = windows[:, start : start + step].double().masked_fill(past[..., None], 0)
        total += part.sum(1)
        products += part.transpose(1, 2) @ part
    mean = total / counts
    return mean, products / counts[..., None] - mean[:, :, None] * mean[:, None, :]


def require_supported(config: Any) -> None:
    """Raise ValueError, naming setting and value, where a model is not the HuBERT computed here."""
    convolutions = tuple(zip(config.conv_kernel, config.conv_stride, strict=True))
    expected = {
        "conv_kernel and conv_stride": (convolutions, CONV_LAYERS),
        "feat_extract_activation": (config.feat_extract_activation, "gelu"),
        "hidden_act": (config.hidden_act, "gelu"),
        "conv_pos_batch_norm": (getattr(config, "conv_pos_batch_norm", False), False),
        "adapter_attn_dim": (getattr(config, "adapter_attn_dim", None), None),
    }
    for name, (found, needed) in expected.items():
        if found != needed:
            raise ValueError(f"model: {name} is {found}; this encoder computes {needed}")
