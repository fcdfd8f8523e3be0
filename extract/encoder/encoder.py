"""Exact batched features of waveforms.

An utterance's features depend on that utterance alone, never on what shared its batch.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from extract.encoder.forward import ExactForward
from extract.frames import ConvStack
from extract.models.family import Model, as_checkpoint
from extract.text import count
from extract.values import Features

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

# What a processor must have to multiply in half precision, in `torch.cpu.get_capabilities`'s words.
CPU_ARITHMETIC = {
    torch.bfloat16: ("amx_bf16", "avx512_bf16", "bf16"),
    torch.float16: ("amx_fp16", "avx512_fp16", "fp16_arith"),
}


class Encoder:
    """Exact batched features of waveforms, on one device in one precision.

    `model` is what `load_model` gives, or transformers' own HubertModel.

    `precision` is fp32, fp16, bf16, or auto: fp16 on CUDA, fp32 on the CPU. A CPU without half
    precision's arithmetic computes in float32 and rounds what comes out: faster than torch's
    emulation, and nearer. `layer` counts from 1; None, and the last, mean `last_hidden_state`.
    Not for several threads at once.
    """

    def __init__(
        self,
        model: Model,
        *,
        device: str | torch.device = "cpu",
        precision: str = "auto",
        layer: int | None = None,
    ) -> None:
        checkpoint = as_checkpoint(model)
        self.architecture = checkpoint.architecture
        self.num_layers = self.architecture.layers
        if layer is not None and not 1 <= layer <= self.num_layers:
            raise ValueError(f"layer={layer}: this model has layers 1 to {self.num_layers}")
        self.device = _usable_device(device)
        self.dtype = _dtype(precision, self.device)
        self.hidden_size = self.architecture.width
        # Of its model's training. Waveforms are taken as they come: the dataset normalises them.
        self.wants_unit_variance = checkpoint.wants_unit_variance
        self.layer = layer
        with exact_float32(self.device):
            computed_in = arithmetic(self.dtype, self.device)
            self.exact = ExactForward(checkpoint, self.device, computed_in, layer)
        # The float32 weights as they were loaded, for a redo; let go where `exact` has them.
        has_them = self.device.type == "cpu" and computed_in == torch.float32
        self.model = None if has_them else checkpoint
        self.copies = _Copies(self.device) if self.device.type == "cuda" else None

    @torch.inference_mode()
    def submit(self, waveforms: Tensor, lengths: Sequence[int]) -> "Pending":
        """Start on (B, time) float32 waveforms, zero-padded at 16 kHz, of `lengths` samples.

        Returns at once on CUDA, where a second batch may be submitted before the first's
        `result()`; on the CPU the features are ready on return. B may be 0: no features then.
        Raises ValueError for a length past the tensor or too short for a frame (400 samples give
        one with HuBERT's convolutions); torch.OutOfMemoryError.
        """
        check_batch(waveforms, lengths, self.architecture.stack)
        if not lengths:
            nothing = torch.empty(self.hidden_size, 0, dtype=self.dtype)
            return Pending(self, waveforms, [], nothing, nothing.isfinite().all(0))
        if self.copies is None:
            values, finite = self._compute(waveforms, lengths)
            return Pending(self, waveforms, list(lengths), values, finite)
        values, finite = self._compute(self.copies.upload(waveforms), lengths)
        (values, finite), done = self.copies.download(values, finite)
        return Pending(self, waveforms, list(lengths), values, finite, done)

    def _compute(self, waveforms: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Packed (D, N) features and whether each frame is finite (N,), on the device."""
        with exact_float32(self.device):
            packed = self.exact.forward(waveforms, lengths).to(self.dtype)
            # As a file has them: transposed here it costs next to nothing.
            return packed.t().contiguous(), packed.isfinite().all(1)

    def encode(self, waveforms: Tensor, lengths: Sequence[int]) -> list[Features]:
        """`submit(...)` and wait: one `Features` an utterance, in order."""
        return self.submit(waveforms, lengths).result()

    @torch.inference_mode()
    def redo(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        """Features of each waveform (samples,) alone, in float32 from the weights as loaded."""
        with exact_float32(self.device):
            exact = self.exact
            if self.model is not None:
                exact = ExactForward(self.model, self.device, torch.float32, self.layer)
            return [
                exact.forward(waveform[None].to(self.device), [len(waveform)]).cpu()
                for waveform in waveforms
            ]


class _Copies:
    """Copies to and from a CUDA device on streams of their own, beside the arithmetic.

    Batch n + 1 goes up and batch n - 1 comes down while batch n is computed.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.up, self.down = (
            torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            for _ in range(2)
        )

    def upload(self, host: Tensor) -> Tensor:
        """The tensor on the device, for the current stream's use; asynchronous if it is pinned."""
        compute = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self.up):
            tensor = host.to(self.device, non_blocking=True)
        compute.wait_stream(self.up)
        tensor.record_stream(compute)  # its memory is not given away before that stream is done
        return tensor

    def download(self, *tensors: Tensor) -> tuple[list[Tensor], torch.cuda.Event]:
        """Pinned copies of what the current stream computes; whole once the event has come."""
        hosts = [torch.empty(x.shape, dtype=x.dtype, pin_memory=True) for x in tensors]
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self.down.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.down):
            for host, tensor in zip(hosts, tensors, strict=True):
                host.copy_(tensor, non_blocking=True)
                tensor.record_stream(self.down)
            done.record(self.down)
        return hosts, done


@dataclass
class Pending:
    """A batch under way."""

    encoder: Encoder
    waveforms: Tensor
    lengths: list[int]
    values: Tensor  # packed (D, N)
    finite: Tensor  # (N,) of every frame
    done: "torch.cuda.Event | None" = None  # what to wait for
    features: list[Features] = field(default_factory=list)

    def result(self) -> list[Features]:
        """Wait, take the batch apart, and repeat what is not finite in float32, one by one."""
        if not self.features:
            if self.done is not None:
                self.done.synchronize()
            self.features = self._split()
        return self.features

    @torch.no_grad()
    def _split(self) -> list[Features]:
        """Copies of each utterance's part; no inference tensors, which `backward` would refuse."""
        stack = self.encoder.architecture.stack
        sizes = [stack.num_frames(length) for length in self.lengths]
        finite = [bool(rows.all()) for rows in torch.split(self.finite, sizes)]
        values = [_copied(columns) for columns in torch.split(self.values, sizes, dim=1)]
        retried = [not ok and self.encoder.dtype != torch.float32 for ok in finite]
        again = [index for index, retry in enumerate(retried) if retry]
        alone = [self.waveforms[index, : self.lengths[index]] for index in again]
        for index, exact in zip(again, self.encoder.redo(alone) if alone else [], strict=True):
            finite[index] = bool(exact.isfinite().all())
            rounded = exact.to(self.encoder.dtype)
            values[index] = _copied((rounded if rounded.isfinite().all() else exact).t())
        return [Features(*parts) for parts in zip(values, finite, retried, strict=True)]


def _copied(columns: Tensor) -> Tensor:
    """(D, T) -> (T, D) in memory of its own, whose transpose is contiguous."""
    return columns.clone(memory_format=torch.contiguous_format).t()


def check_batch(waveforms: Tensor, lengths: Sequence[int], stack: ConvStack) -> None:
    """Raise ValueError unless (B, time) float32 `waveforms` hold B utterances of `lengths`."""
    if waveforms.dim() != 2 or waveforms.dtype != torch.float32:
        found = f"{tuple(waveforms.shape)} {waveforms.dtype}"
        raise ValueError(f"waveforms: {found}; (batch, time) float32 is needed")
    if len(lengths) != len(waveforms):
        raise ValueError(f"lengths: {len(lengths)} for {len(waveforms)} waveforms; one each")
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
    """What `dtype` is computed in: float32 on a CPU that cannot multiply in `dtype`."""
    if device.type != "cpu" or dtype not in CPU_ARITHMETIC:
        return dtype
    found = torch.cpu.get_capabilities()
    native = any(found.get(name) for name in CPU_ARITHMETIC[dtype])
    return dtype if native else torch.float32


@contextlib.contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """CUDA's float32 products in float32 rather than TF32, the caller's settings put back after."""
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
