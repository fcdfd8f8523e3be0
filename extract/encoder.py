"""The SSL model: loading it, and exact batched features of waveforms.

The only module that imports transformers, and only where a model is loaded.
An utterance's features depend on that utterance alone, never on what shared its batch.
"""

import contextlib
import hashlib
import json
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from extract.frames import CONV_LAYERS, min_samples, num_frames
from extract.hubert import ExactHubert, require_supported

if TYPE_CHECKING:
    from transformers import HubertModel

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
UNUSED_WEIGHTS = {"masked_spec_embed"}  # masks spans in training; never part of a feature
# What changes features beside the weights; the rest of a config is training or shows in a shape.
FEATURE_SETTINGS = (
    "conv_kernel",
    "conv_stride",
    "do_stable_layer_norm",
    "feat_extract_activation",
    "feat_extract_norm",
    "feat_proj_layer_norm",
    "hidden_act",
    "layer_norm_eps",
    "num_attention_heads",
    "num_conv_pos_embedding_groups",
)


@dataclass(frozen=True)
class Features:
    """One utterance's features: `values` (num_frames, hidden_size) on the CPU, memory of its own.

    `values` has the encoder's dtype; float32 where a redo in float32 does not fit into float16.
    """

    values: Tensor
    finite: bool
    retried_fp32: bool


# ---------------------------------------------------------------------- loading


def load_model(
    source: str,
    *,
    revision: str | None = None,
    seed: int = 0,
    cache_dir: str | Path | None = None,
) -> "HubertModel":
    """A HubertModel in float32, in evaluation mode, from a model hub id or a local folder.

    `tiny_random` is built on the spot from `seed`: its features mean nothing. Weights come from
    safetensors or a weights-only unpickler; no code of a file is ever run.
    Raises ValueError, with the remedy, where nothing can be loaded, a weight is missing, or the
    model is not one that `ExactHubert` computes.
    """
    with _quiet_transformers():
        if source == "tiny_random":
            model = _tiny_random(seed)
        else:
            model = _pretrained(source, revision, cache_dir)
    try:
        require_supported(model.config)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    model.requires_grad_(False)
    return model


def _tiny_random(seed: int) -> "HubertModel":
    from transformers import HubertConfig, HubertModel

    config = HubertConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        conv_dim=(16,) * len(CONV_LAYERS),
        conv_kernel=tuple(kernel for kernel, _ in CONV_LAYERS),
        conv_stride=tuple(stride for _, stride in CONV_LAYERS),
        num_conv_pos_embeddings=32,
        num_conv_pos_embedding_groups=4,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = HubertModel(config)
    tiny: HubertModel = model.eval()
    return tiny


def _pretrained(source: str, revision: str | None, cache_dir: str | Path | None) -> "HubertModel":
    """From a folder, else the hub's cache, else the hub; the cache first needs no network."""
    where: dict[str, Any] = {"revision": revision or "main", "cache_dir": cache_dir}
    try:
        return _read(source, {**where, "local_files_only": True})
    except OSError as error:
        failure: Exception = error
    if not Path(source).is_dir():
        try:
            _probe_hub(source, where["revision"])
            return _read(source, where)
        except OSError as error:
            failure = error
    first_line = str(failure).strip().partition("\n")[0]
    raise ValueError(
        f"{source}: no model found; looked for config.json with model.safetensors or "
        f"pytorch_model.bin in a folder of that name, in the model hub's cache and on the hub "
        f"({first_line}). Get it where there is a network with `hf download {source}`, or take "
        f"the folder chinese-hubert-base that GPT-SoVITS ships under "
        f"GPT_SoVITS/pretrained_models, and name it: model=local model.path=DIR"
    ) from None


def _probe_hub(source: str, revision: str) -> None:
    """Raise OSError where hub or model is out of reach: one request, where a load tries many."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    try:
        get_hf_file_metadata(hf_hub_url(source, "config.json", revision=revision), timeout=5)
    except Exception as error:  # its HTTP library's own kinds, which change with its releases
        raise OSError(f"{type(error).__name__}: {error}") from error


def _read(source: str, where: dict[str, Any]) -> "HubertModel":
    from safetensors import SafetensorError
    from transformers import HubertConfig, HubertModel

    settings, _ = HubertConfig.get_config_dict(source, **where)
    if settings.get("model_type") != "hubert":
        found = settings.get("model_type")
        raise ValueError(f"{source}: config.json says model_type {found}; 'hubert' is needed")
    loader: Any = HubertModel
    try:
        model, info = loader.from_pretrained(
            source, **where, dtype=torch.float32, weights_only=True, output_loading_info=True
        )
    except pickle.UnpicklingError:
        raise ValueError(
            f"{source}: its weights are a pickle with more in it than tensors, and running a "
            f"file's code is refused; convert it to safetensors where it can be trusted"
        ) from None
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{source}: its weights do not load, get them again: {error}") from error
    missing = sorted(set(info["missing_keys"]) - UNUSED_WEIGHTS)
    if missing:
        names = ", ".join(missing[:3])
        raise ValueError(f"{source}: {len(missing)} weights are missing, first {names}")
    loaded: HubertModel = model.eval()
    return loaded


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No progress bars, and no false alarms such as weight norm's "newly initialized"."""
    from logging import CRITICAL

    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def fingerprint(model: "HubertModel") -> str:
    """SHA-256, in hex, of all that decides features: float32 weights and the settings that matter.

    The same for the same weights whatever file format they came from.
    """
    settings = {name: getattr(model.config, name) for name in FEATURE_SETTINGS}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, weight in sorted(model.state_dict().items()):
        if name not in UNUSED_WEIGHTS:
            digest.update(f"{name} {tuple(weight.shape)}".encode())
            digest.update(weight.detach().cpu().float().contiguous().numpy().data)
    return digest.hexdigest()


# ---------------------------------------------------------------------- encoding


class Encoder:
    """Exact batched features of waveforms, on one device in one precision.

    `precision` is fp32, fp16, bf16, or auto: fp16 on CUDA, fp32 on the CPU. `layer` counts from 1;
    None, and the last, mean `last_hidden_state`. Not for several threads at once.
    """

    def __init__(
        self,
        model: "HubertModel",
        *,
        device: str | torch.device = "cpu",
        precision: str = "auto",
        layer: int | None = None,
    ) -> None:
        num_layers = model.config.num_hidden_layers
        if layer is not None and not 1 <= layer <= num_layers:
            raise ValueError(f"layer={layer}: this model has layers 1 to {num_layers}")
        self.device = _usable_device(device)
        self.dtype = _dtype(precision, self.device)
        self.hidden_size = int(model.config.hidden_size)
        self.layer = layer
        self.model = model  # the float32 weights as they were loaded, for a redo
        with exact_float32(self.device):
            self.hubert = ExactHubert(model, self.device, self.dtype, layer)

    @torch.inference_mode()
    def submit(self, waveforms: Tensor, lengths: Sequence[int]) -> "Pending":
        """Start on (B, time) float32 waveforms, zero-padded at 16 kHz, of `lengths` samples.

        Returns at once on CUDA, where a second batch may be submitted before the first's
        `result()`; on the CPU the features are ready on return.
        Raises ValueError for a length below 400 or past the tensor; torch.OutOfMemoryError.
        """
        check_batch(waveforms, lengths)
        with exact_float32(self.device):
            on_device = waveforms.to(self.device, non_blocking=True)
            packed = self.hubert.forward(on_device, lengths)
            finite = packed.isfinite().all(1)
        return Pending(self, waveforms, list(lengths), *self._fetch(packed, finite))

    def encode(self, waveforms: Tensor, lengths: Sequence[int]) -> list[Features]:
        """`submit(...)` and wait: one `Features` an utterance, in order."""
        return self.submit(waveforms, lengths).result()

    def _fetch(
        self, packed: Tensor, finite: Tensor
    ) -> tuple[Tensor, Tensor, "torch.cuda.Event | None"]:
        """Features and flags on the CPU once the event has come; pinned, so nothing waits here."""
        if self.device.type == "cpu":
            return packed, finite, None
        hosts = [torch.empty(x.shape, dtype=x.dtype, pin_memory=True) for x in (packed, finite)]
        for host, source in zip(hosts, (packed, finite), strict=True):
            host.copy_(source, non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record(torch.cuda.current_stream(self.device))
        return hosts[0], hosts[1], done

    @torch.inference_mode()
    def redo(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        """Features of each waveform (samples,) alone, in float32 from the weights as loaded."""
        with exact_float32(self.device):
            exact = ExactHubert(self.model, self.device, torch.float32, self.layer)
            return [
                exact.forward(waveform[None].to(self.device), [len(waveform)]).cpu()
                for waveform in waveforms
            ]


@dataclass
class Pending:
    """A batch under way."""

    encoder: Encoder
    waveforms: Tensor
    lengths: list[int]
    values: Tensor  # packed (N, D)
    finite: Tensor  # (N,) of every frame
    done: "torch.cuda.Event | None"
    features: list[Features] = field(default_factory=list)

    def result(self) -> list[Features]:
        """Wait, take the batch apart, and repeat what is not finite in float32, one by one."""
        if not self.features:
            if self.done is not None:
                self.done.synchronize()
            self.features = self._split()
        return self.features

    @torch.inference_mode()
    def _split(self) -> list[Features]:
        sizes = [num_frames(length) for length in self.lengths]
        finite = [bool(rows.all()) for rows in torch.split(self.finite, sizes)]
        values = [rows.clone() for rows in torch.split(self.values, sizes)]
        retried = [not ok and self.encoder.dtype != torch.float32 for ok in finite]
        again = [index for index, retry in enumerate(retried) if retry]
        alone = [self.waveforms[index, : self.lengths[index]] for index in again]
        for index, exact in zip(again, self.encoder.redo(alone) if alone else [], strict=True):
            finite[index] = bool(exact.isfinite().all())
            rounded = exact.to(self.encoder.dtype)
            values[index] = exact if not rounded.isfinite().all() else rounded
        return [Features(*parts) for parts in zip(values, finite, retried, strict=True)]


def check_batch(waveforms: Tensor, lengths: Sequence[int]) -> None:
    """Raise ValueError unless (B, time) float32 `waveforms` hold B utterances of `lengths`."""
    if waveforms.dim() != 2 or waveforms.dtype != torch.float32:
        found = f"{tuple(waveforms.shape)} {waveforms.dtype}"
        raise ValueError(f"waveforms: {found}; (batch, time) float32 is needed")
    if len(lengths) != len(waveforms) or not lengths:
        raise ValueError(f"lengths: {len(lengths)} for {len(waveforms)} waveforms; one each")
    if min(lengths) < min_samples() or max(lengths) > waveforms.shape[1]:
        raise ValueError(
            f"lengths: {min(lengths)} to {max(lengths)} samples; the encoder needs at least "
            f"{min_samples()}, and the waveforms hold {waveforms.shape[1]}"
        )


def _usable_device(device: str | torch.device) -> torch.device:
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device={device}: not a device; use cpu, cuda or cuda:N") from None
    if found.type not in {"cpu", "cuda"}:
        raise ValueError(f"device={device}: only cpu, cuda and cuda:N are supported")
    if found.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (found.index or 0) >= count:
            raise ValueError(
                f"device={device}: this torch sees {count} CUDA devices; use device=cpu, or "
                f"install a torch built for this machine's driver"
            )
    return found


def _dtype(precision: str, device: torch.device) -> torch.dtype:
    if precision == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision}: use auto, {', '.join(PRECISIONS)}")
    return PRECISIONS[precision]


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
