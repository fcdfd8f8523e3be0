"""Exact batched features of waveforms.

An utterance's features depend on that utterance alone, never on what shared its batch.
"""

import contextlib
import copy
import functools
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from extract.encoder.copies import Copies
from extract.encoder.forward import ExactForward
from extract.encoder.pending import Pending
from extract.encoder.quantizer import Assignment
from extract.frames import ConvStack
from extract.models.family import Model, as_checkpoint
from extract.models.fingerprint import fingerprint
from extract.models.wanted import Layer, wanted_of
from extract.text import count
from extract.values import Features

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

# A CPU multiplies in half precision if `torch.cpu.get_capabilities` names one of these.
CPU_ARITHMETIC = {
    torch.bfloat16: ("amx_bf16", "avx512_bf16", "bf16"),
    torch.float16: ("amx_fp16", "avx512_fp16", "fp16_arith"),
}


class Encoder:
    """Encodes padded batches exactly, on one device in one precision.

    A CPU that cannot multiply in half precision computes in float32 and rounds the features:
    torch's emulation would be slower, and its errors larger. Not thread-safe.

    Args:
        model: what `load_model` gives, or a model of transformers, such as HubertModel.
        device: cpu, cuda or cuda:N.
        precision: fp32, fp16, bf16, or auto: fp16 on CUDA, fp32 on the CPU.
        layer: which layers, in one pass: a number, a list of numbers, or `all`. 0 is what enters
            the first layer, -1 and None are the last. Layers past those are not computed.
        projection: true applies the model's `final_proj` to each layer; auto is false.
        final_norm: transformers, or fairseq, which leaves the norm behind the last layer of a
            pre-norm model out where that layer is named.

    Raises:
        ValueError: the model does not have what is asked for, or is not one that is computed here;
            the device is not there.
    """

    def __init__(
        self,
        model: Model,
        *,
        device: str | torch.device = "cpu",
        precision: str = "auto",
        layer: Layer = None,
        projection: bool | str = "auto",
        final_norm: str = "transformers",
    ) -> None:
        checkpoint = as_checkpoint(model)
        self.architecture = checkpoint.architecture
        has_projection = checkpoint.projection is not None
        asked = self._asked = layer, projection, final_norm
        self.wanted = wanted_of(self.architecture, *asked, has_projection=has_projection)
        self.device = _usable_device(device)
        self.dtype = _dtype(precision, self.device)
        # Of its model's training. Waveforms are taken as they come: the dataset normalises them.
        self.wants_unit_variance = checkpoint.wants_unit_variance
        with exact_float32(self.device):
            computed_in = arithmetic(self.dtype, self.device)
            self.exact = ExactForward(checkpoint, self.device, computed_in, self.wanted)
        self.hidden_size = self.exact.width  # numbers of a frame, in each layer's features
        # `redo` needs the float32 weights as loaded; on a CPU in float32 `exact` holds them.
        has_them = self.device.type == "cpu" and computed_in == torch.float32
        self.model = None if has_them else checkpoint
        # Computed once for all encoders with these weights; at once where they are let go.
        found = functools.cache(partial(fingerprint, checkpoint, projected=self.wanted.projected))
        self._fingerprint = partial(str, found()) if has_them else found
        self.copies = Copies(self.device) if self.device.type == "cuda" else None
        self.assign: Assignment | None = None
        self.saved_as = self.dtype  # what `assign` is given features in
        self.measures_gain = False  # whether features come with their `gain_sensitivity`
        self.stays = False  # whether features are left on the device

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the weights that its features are computed with."""
        return self._fingerprint()

    def quantized(self, assign: Assignment, dtype: torch.dtype | None = None) -> "Encoder":
        """The same encoder, with the same weights in memory, whose features come with units.

        Args:
            assign: gives features of one layer their units.
            dtype: that the features are saved in, and units are made of; None is the encoder's.
                An utterance that does not fit into it gives units as it is.

        Raises:
            ValueError: it has several layers.
        """
        layers = list(self.wanted.layers)
        if len(layers) != 1:
            raise ValueError(f"model.layer={layers}: a quantizer takes one layer; needed one")
        twin = copy.copy(self)
        twin.assign, twin.saved_as = assign, dtype or self.dtype
        return twin

    def measuring_gain(self) -> "Encoder":
        """The same encoder, with the same weights in memory, that measures `gain_sensitivity`.

        No effect with a model whose first convolution has no norm over time.
        """
        twin = copy.copy(self)
        twin.measures_gain = self.architecture.conv_norm == "group"
        return twin

    def staying(self) -> "Encoder":
        """The same encoder, with the same weights in memory, whose features stay on its device.

        They come without units.
        """
        twin = copy.copy(self)
        twin.stays, twin.assign = True, None
        return twin

    @torch.inference_mode()
    def submit(self, waveforms: Tensor, lengths: Sequence[int]) -> Pending:
        """Start to encode (B, time) float32 waveforms at 16 kHz, zero-padded, of `lengths` samples.

        On CUDA it returns before the features are computed, and a second batch may be submitted
        before the first one's `result()`. On the CPU it returns when they are. B may be 0.

        Raises:
            ValueError: a length exceeds the tensor, or gives no frame (HuBERT needs 400 samples).
            torch.OutOfMemoryError: the batch does not fit into the device's memory.
        """
        check_batch(waveforms, lengths, self.architecture.stack)
        if not lengths:
            nothing = torch.empty(len(self.wanted.layers), self.hidden_size, 0, dtype=self.dtype)
            return Pending(self, waveforms, [], [nothing, _finite(nothing)])
        if self.copies is None:
            return Pending(self, waveforms, list(lengths), self._compute(waveforms, lengths))
        computed = self._compute(self.copies.upload(waveforms), lengths)
        stay = computed[:1] if self.stays else []
        come, done = self.copies.download(*computed[len(stay) :])
        return Pending(self, waveforms, list(lengths), [*stay, *come], done)

    def _compute(self, waveforms: Tensor, lengths: Sequence[int]) -> list[Tensor]:
        """Packed (L, D, N) features and whether each frame is finite (N,), on the device.

        With `measures_gain` also each utterance's `gain_sensitivity` (B,) in float32. With a
        quantizer also the units that it proposes, (U,).
        """
        with exact_float32(self.device):
            sensitivity = torch.empty(len(lengths) * self.measures_gain, device=self.device)
            measured = [sensitivity] if self.measures_gain else []
            values = self.exact.forward(waveforms, lengths, self.dtype, *measured)
            computed = [values, _finite(values), *measured]
            if self.assign is not None:
                sizes = [self.architecture.stack.num_frames(length) for length in lengths]
                computed.append(self.assign.propose(values[0].to(self.saved_as), sizes))
            return computed

    def on_cpu(self) -> "Encoder":
        """The encoder of the same features on the CPU, in float32; not of one that is there."""
        assert self.model is not None
        layer, projection, final_norm = self._asked
        encoder = Encoder(
            self.model,
            device="cpu",
            precision="fp32",
            layer=layer,
            projection=projection,
            final_norm=final_norm,
        )
        encoder.measures_gain = self.measures_gain
        if self.assign is None:
            return encoder
        as_computed = self.saved_as == self.dtype
        return encoder.quantized(self.assign, None if as_computed else self.saved_as)

    def encode(self, waveforms: Tensor, lengths: Sequence[int]) -> list[Features]:
        """`submit(...)` and wait: one `Features` for each utterance, in order."""
        return self.submit(waveforms, lengths).result()

    @torch.inference_mode()
    def redo(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        """(L, D, T) of each waveform (samples,) alone, in float32 from the weights as loaded."""
        with exact_float32(self.device):
            exact = self.exact
            if self.model is not None:
                exact = ExactForward(self.model, self.device, torch.float32, self.wanted)
            return [
                exact.forward(waveform[None].to(self.device), [len(waveform)]).cpu()
                for waveform in waveforms
            ]


def _finite(values: Tensor) -> Tensor:
    """(L, D, N) -> (N,): whether all of a frame is finite. One layer at a time, to save memory."""
    return torch.stack([layer.isfinite().all(0) for layer in values]).all(0)


def check_batch(waveforms: Tensor, lengths: Sequence[int], stack: ConvStack) -> None:
    """Raise ValueError unless (B, time) float32 `waveforms` hold B utterances of `lengths`."""
    if waveforms.dim() != 2 or waveforms.dtype != torch.float32:
        found = f"{tuple(waveforms.shape)} {waveforms.dtype}"
        raise ValueError(f"waveforms: {found}; (batch, time) float32 is needed")
    if len(lengths) != len(waveforms):
        found = f"{len(lengths)} for {len(waveforms)} waveforms"
        raise ValueError(f"lengths: {found}; one for each is needed")
    least = stack.min_samples()
    if lengths and (min(lengths) < least or max(lengths) > waveforms.shape[1]):
        raise ValueError(
            f"lengths: {min(lengths)} to {max(lengths)} samples; the encoder needs at least "
            f"{least}, and the waveforms hold {waveforms.shape[1]}"
        )


def _usable_device(device: str | torch.device) -> torch.device:
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device={device}: not a device; use cpu, cuda or cuda:N") from None
    if found.type not in {"cpu", "cuda"}:
        raise ValueError(f"device={device}: only cpu, cuda and cuda:N are supported")
    if found.type == "cuda":
        num_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (found.index or 0) >= num_devices:
            raise ValueError(
                f"device={device}: this torch sees {count(num_devices, 'CUDA device')}; use "
                f"device=cpu, or install a torch built for this machine's driver"
            )
    return found


def _dtype(precision: str, device: torch.device) -> torch.dtype:
    if precision == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision}: use auto, {', '.join(PRECISIONS)}")
    return PRECISIONS[precision]


def arithmetic(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype that products of `dtype` run in: float32 on a CPU that cannot multiply in it."""
    if device.type != "cpu" or dtype not in CPU_ARITHMETIC:
        return dtype
    found = torch.cpu.get_capabilities()
    native = any(found.get(name) for name in CPU_ARITHMETIC[dtype])
    return dtype if native else torch.float32


@contextlib.contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """Switches TF32 off for CUDA's float32 products within the block; restores the settings."""
    if device.type != "cuda":
        yield
        return
    settings = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "ieee"
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.fp32_precision = value
