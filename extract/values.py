"""The values that pass from stage to stage, on one page.

    source      -> Entry      a recording's id and path, as a list or folder names it
    AudioDataset -> Utterance  its samples, ready for the encoder and for the disk
    encoder     -> Encoded    its features, with the training audio
    any of them -> Failure    why a recording gave no features
    store       -> a line of the ledger, which says the `Status` and the `Reason`

No torch at run time: lists, recordings and `extract show` are read without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from extract.fields import number
from extract.urls import redacted

if TYPE_CHECKING:
    from torch import Tensor

Status = Literal["saved", "rejected", "failed"]
SAVED: Final = "saved"
REJECTED: Final = "rejected"
FAILED: Final = "failed"
STATUSES: Final[tuple[Status, ...]] = (SAVED, REJECTED, FAILED)

Reason = Literal[
    "peak_above_gate",
    "too_short",
    "too_long",
    "silent",
    "empty",
    "missing",
    "undecodable",
    "non_finite_audio",
    "non_finite_features",
    "out_of_memory",
    "worker_crashed",
    "write_failed",
    "internal_error",
    "bad_line",
    "bad_id",
    "unreadable_folder",
    "duplicate_name",
]

# Why a recording gave no features. Rejected: it is outside a limit of the options. Failed: the
# recording, its list, the machine or this program is at fault.
STATUS_OF: Final[dict[Reason, Status]] = {
    "peak_above_gate": REJECTED,
    "too_short": REJECTED,
    "too_long": REJECTED,
    "silent": REJECTED,
    "empty": REJECTED,
    "missing": FAILED,
    "undecodable": FAILED,
    "non_finite_audio": FAILED,
    "non_finite_features": FAILED,
    "out_of_memory": FAILED,
    "worker_crashed": FAILED,
    "write_failed": FAILED,
    "internal_error": FAILED,  # a fault of this program
    "bad_line": FAILED,  # a line of a list that names no recording
    "bad_id": FAILED,  # a name that cannot be a file of the store
    "unreadable_folder": FAILED,  # a folder below the dataset's that cannot be listed
    "duplicate_name": FAILED,  # a recording whose files another one of the source has
}
OF_A_SOURCE: Final[frozenset[Reason]] = frozenset(
    {"bad_line", "bad_id", "unreadable_folder", "duplicate_name"}
)

NO_INDEX = -1  # of a line, folder or name in a source that is no entry of the manifest


class RatePath(Enum):
    """How a recording gets to the encoder's 16 kHz.

    `via_32k`: decoded to 32 kHz, which is the training audio's rate, and halved, as GPT-SoVITS has
    it. `direct`: decoded at its own rate and resampled once; no training audio is made. `via_44k`:
    as `direct`, but first resampled to 44.1 kHz as librosa does it, the rate at which so-vits-svc
    and DDSP-SVC load recordings.
    """

    via_32k = "via_32k"
    direct = "direct"
    via_44k = "via_44k"


class Mix(Enum):
    """How several channels become one: FFmpeg's 0.7071 * (left + right), or their mean."""

    ffmpeg = "ffmpeg"
    mean = "mean"


class Gain(Enum):
    """What levels a recording: `maxx`, `alpha` and its peak, or nothing."""

    peak_blend = "peak_blend"
    none = "none"


class Resampler(Enum):
    """Resampler to 16 kHz: `soxr` is librosa's default and the reference's."""

    soxr = "soxr"
    torchaudio = "torchaudio"


@dataclass
class AudioSettings:
    """How a waveform is prepared for the encoder: gates, gain, resampling.

    These numbers and nothing else decide the result. The schema of the group `audio`.
    """

    maxx: float = number(0.95, above=0, at_most=1)  # the level that `alpha` pulls peaks towards
    alpha: float = number(0.5, at_least=0, at_most=1)  # 0 = leave the level, 1 = peaks at `maxx`
    resampler: Resampler = Resampler.soxr
    # Louder recordings are rejected (`peak_above_gate`); full scale is 1. null = no gate
    max_peak: float | None = number(2.2, above=0)
    min_duration_s: float = number(0.0, at_least=0)  # shorter ones are rejected (`too_short`)
    max_duration_s: float = number(600.0, above=0)  # longer ones are rejected (`too_long`)
    rate_path: RatePath = RatePath.via_32k
    mix: Mix = Mix.ffmpeg
    gain: Gain = Gain.peak_blend
    scale: float = number(1145.14, above=0)  # the encoder's input is multiplied by this
    # torchaudio's `lowpass_filter_width`, with all else as torchaudio has it; null = the filter of
    # resampy's `kaiser_best`
    resampler_width: int | None = number(None, at_least=1, at_most=1000)
    # Zeros before and after the waveform, in samples at 16 kHz
    pad_samples: tuple[int, int] = number((0, 0), at_least=0, at_most=16000)
    # A waveform of fewer samples at 16 kHz is padded with zeros to so many
    min_samples: int = number(0, at_least=0, at_most=16000)
    # Added to the variance where a waveform is brought to unit variance: transformers' 1e-7, or
    # 1e-5 as in torch's `layer_norm`, which fairseq and RVC use
    norm_eps: float = number(1e-7, above=0, at_most=1)

    def __post_init__(self) -> None:
        for name, kind in _CHOICES.items():
            setattr(self, name, _choice(kind, name, getattr(self, name)))
        if len(self.pad_samples) != 2:
            found = f"audio.pad_samples: {list(self.pad_samples)}"
            raise ValueError(f"{found}; needed two numbers, before and after")
        self.pad_samples = self.pad_samples[0], self.pad_samples[1]  # of a config it is a list

    @property
    def has_training_audio(self) -> bool:
        """Whether the 32 kHz copy is made that GPT-SoVITS trains on."""
        return self.rate_path is RatePath.via_32k


_CHOICES: dict[str, type[Enum]] = {
    "resampler": Resampler,
    "rate_path": RatePath,
    "mix": Mix,
    "gain": Gain,
}


def _choice(kind: type[Enum], name: str, value: Enum | str) -> Enum:
    if isinstance(value, kind):
        return value
    try:
        return kind[str(value)]
    except KeyError:
        choices = " or ".join(choice.name for choice in kind)
        raise ValueError(f"audio.{name}: {value!r}; needed {choices}") from None


class Entry(NamedTuple):
    """One recording of a source, or a cut of one.

    `id` names its files in the store, "/" between folders; `path` is the recording's own.
    """

    id: str
    path: str
    offset_s: float = 0.0  # where a cut begins
    duration_s: float | None = None  # of a cut; None goes on to the recording's end
    # What else the list says of it: the JSON text that `extract.manifest.extra.extra_of` makes
    extra: str | None = None


@dataclass(frozen=True)
class Recording:
    """One recording without its samples: where it is, its stamp, and what decoding measured."""

    index: int  # position in the manifest, or NO_INDEX
    id: str
    path: str
    size: int = -1  # bytes, -1 where there is no file
    mtime_ns: int = -1
    peak: float | None = None  # largest magnitude as decoded; full scale is 1
    duration_s: float | None = None
    clipped_samples: int | None = None  # samples of the training audio held at full scale
    extra: str | None = None  # its entry's


@dataclass(frozen=True)
class Failure:
    """One recording that gave nothing, and why, in one printable line."""

    recording: Recording
    reason: Reason
    detail: str

    @classmethod
    def of_source(cls, id: str, path: str, reason: Reason, detail: str) -> Failure:  # noqa: A002
        """The failure of a line, folder or name in a source, of which no `Entry` can be made.

        `id` is printable and belongs to this failure alone in its manifest; it names no file.
        """
        return cls(Recording(NO_INDEX, id, redacted(path)), reason, redacted(detail))


@dataclass(frozen=True)
class Utterance:
    """One recording, ready for the encoder and for the disk."""

    recording: Recording
    waveform: Tensor  # (num_samples,) float32, 16 kHz, at the encoder's gain
    # (num_samples,) int16, 32 kHz, at the training audio's gain; empty where none is wanted
    wav32k: Tensor


@dataclass(frozen=True)
class Features:
    """One utterance's features: `values` (layers, num_frames, hidden_size) on the CPU.

    `layers` is 1 unless the encoder was asked for several. They lie as in a file, layer by layer
    and channel by channel, in memory of their own: `values.mT` is contiguous. They have the
    encoder's dtype; float32 where a redo in float32 does not fit into float16. `values` is an
    ordinary tensor that requires no gradient: a model may be trained on it.
    """

    values: Tensor
    finite: bool
    retried_fp32: bool
    units: Tensor | None = None  # (num_units,) int64 on the CPU; None where no quantizer makes any
    # How far they are from what no gain changes, relative, at the first norm: in sweeps, where the
    # model has a norm over time (`extract.encoder.first_layer.gain_sensitivity`)
    gain_sensitivity: float | None = None


@dataclass(frozen=True)
class Encoded:
    """One utterance with its features."""

    recording: Recording
    features: Features
    wav32k: Tensor  # (num_samples,) int16; a view of its batch; empty where none is wanted

    @property
    def units(self) -> Tensor | None:
        """(num_units,) int64 on the CPU; None where no quantizer makes any."""
        return self.features.units
