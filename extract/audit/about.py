"""What a store's metadata say that its files are held against."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extract.audit.findings import Findings
from extract.frames import (
    ENCODER_RATE_HZ,
    HUBERT_STACK,
    RECORDING_RATE_HZ,
    SINGING_RATE_HZ,
    ConvStack,
)

DDSP_HOP = 512  # samples at 44.1 kHz of one frame in DDSP-SVC's files
SLACK = 16  # samples at 16 kHz by which resampling may change a length


@dataclass(frozen=True)
class About:
    """The settings of a store on which the form of its files depends."""

    layout: str
    stack: ConvStack
    layers: int
    identity: Mapping[str, Any]

    @property
    def has_files(self) -> bool:
        """Whether features are saved, and not units alone."""
        return self.identity.get("features") is not False

    @property
    def has_audio(self) -> bool:
        """Whether training audio is saved with each utterance."""
        saved, made = self.identity.get("store.audio"), self.identity.get("audio.rate_path")
        keeps = self.layout in ("gpt_sovits", "npy", "webdataset")
        return keeps and saved in (None, "wav32k") and made in (None, "via_32k")

    def dtypes(self) -> set[str]:
        """Dtypes that features may have: the store's, or float32 where that cannot hold them."""
        precision = self.identity.get("precision", "float32")
        saved = self.identity.get("store.dtype", precision)
        if self.layout in ("rvc", "applio", "so_vits_svc", "ddsp_svc", "kaldi"):
            return {"float32"}
        return {"float32", str(saved)}

    def frames(self, duration_s: float) -> range:
        """The numbers of frames that the encoder can give for so many seconds."""
        audio = self.identity
        added = sum(audio.get("audio.pad_samples", (0, 0)))
        samples = round(duration_s * ENCODER_RATE_HZ) + added
        samples = max(samples, audio.get("audio.min_samples", 0))
        count = self.stack.num_frames
        return range(count(max(0, samples - SLACK)), count(samples + SLACK) + 1)

    def frames_in_file(self, num_frames: int, duration_s: float) -> range:
        """The numbers of frames that a file can have for an utterance of `num_frames`."""
        if self.layout != "ddsp_svc":
            return range(num_frames, num_frames + 1)
        samples = round(duration_s * SINGING_RATE_HZ)
        slack = SLACK * SINGING_RATE_HZ // ENCODER_RATE_HZ
        return range(max(0, samples - slack) // DDSP_HOP + 1, (samples + slack) // DDSP_HOP + 2)

    def samples(self, duration_s: float) -> range:
        """The numbers of samples that training audio can have."""
        exact = duration_s * RECORDING_RATE_HZ
        return range(int(exact) - 1, int(exact) + 3)


def about(directory: Path, findings: Findings) -> About | None:
    """Reads `metadata.json`; None, and a finding, where it says nothing."""
    path = directory / "metadata.json"
    try:
        data = json.loads(path.read_bytes())
        identity = data["identity"]
        if data["format"] != 1:
            raise ValueError(f"format {data['format']!r}; needed 1")
        return About(str(identity["layout"]), _stack(data), _layers(identity), identity)
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        findings.add("bad_metadata", "metadata.json", f"{type(error).__name__}: {error}")
        return None


def _stack(data: Mapping[str, Any]) -> ConvStack:
    if "frames" not in data:
        return HUBERT_STACK
    layers = tuple((int(kernel), int(stride)) for kernel, stride in data["frames"]["conv_layers"])
    return ConvStack(layers, int(data["frames"]["sample_rate"]))


def _layers(identity: Mapping[str, Any]) -> int:
    layer = identity.get("model.layer")
    return len(layer) if isinstance(layer, list) else 1
