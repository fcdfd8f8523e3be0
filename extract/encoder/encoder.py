"""Exact batched features of waveforms.

An utterance's features depend on that utterance alone, never on what shared its batch.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from extract.encoder.copies import Copies
from extract.encoder.forward import ExactForward
from extract.frames import ConvStack
from extract.models.family import Model, as_checkpoint
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
        self.copies = Copies(self.device) if self.device.type == "cuda" else None

    @torch.inference_mode()
    def submit(self, waveforms: Tensor, lengths: Sequence[int]) -> "Pending":
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
            return Pending(self, waveforms, [], nothing, _finite(nothing))
        if self.copies is None:
            values, finite = self._compute(waveforms, lengths)
            return Pending(self, waveforms, list(lengths), values, finite)
        values, finite = self._compute(self.copies.upload(waveforms), lengths)
        (values, finite), done = self.copies.download(values, finite)
        return Pending(self, waveforms, list(lengths), values, finite, done)

    def _compute(self, waveforms: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Packed (L, D, N) features and whether each frame is finite (N,), on the device."""
        with exact_float32(self.device):
            values = self.exact.forward(waveforms, lengths, self.dtype)
            return values, _finite(values)

    def on_cpu(self) -> "Encoder":
        """The encoder of the same features on the CPU, in float32; not of one that is there."""
        assert self.model is not None
        layer, projection, final_norm = self._asked
        return Encoder(
            self.model,
            device="cpu",
            precision="fp32",
            layer=layer,
            projection=projection,
            final_norm=final_norm,
        )

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


@dataclass
class Pending:
    """A submitted batch; `result` waits for its features."""

    encoder: Encoder
    waveforms: Tensor
    lengths: list[int]
    values: Tensor  # packed (L, D, N)
    finite: Tensor  # (N,) of every frame
    done: "torch.cuda.Event | None" = None  # occurs when the download is done; None on a CPU
    features: list[Features] = field(default_factory=list)

    def result(self) -> list[Features]:
        """Features of each utterance; those with NaN or Inf are computed again in float32."""
        if not self.features:
            if self.done is not None:
                self.done.synchronize()
            self.features = self._split()
        return self.features

    @torch.no_grad()
    def _split(self) -> list[Features]:
        """Copies each utterance's features: `backward` refuses views of inference tensors."""
        stack = self.encoder.architecture.stack
        sizes = [stack.num_frames(length) for length in self.lengths]
        finite = [bool(rows.all()) for rows in torch.split(self.finite, sizes)]
        values = [_copied(columns) for columns in torch.split(self.values, sizes, dim=2)]
        retried = [not ok and self.encoder.dtype != torch.float32 for ok in finite]
        again = [index for index, retry in enumerate(retried) if retry]
        alone = [self.waveforms[index, : self.lengths[index]] for index in again]
        for index, exact in zip(again, self.encoder.redo(alone) if alone else [], strict=True):
            finite[index] = bool(exact.isfinite().all())
            rounded = exact.to(self.encoder.dtype)
            values[index] = _copied(rounded if rounded.isfinite().all() else exact)
        return [Features(*parts) for parts in zip(values, finite, retried, strict=True)]


def _copied(columns: Tensor) -> Tensor:
    """(L, D, T) -> (L, T, D) in memory of its own, which lies as it was."""
    return columns.clone(memory_format=torch.contiguous_format).mT


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
