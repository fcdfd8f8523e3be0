"""The schema of every option: one dataclass per config group. Values and types only, no logic.

`conf/` holds the options themselves; Hydra checks them against these types, so that a wrong key,
type or choice stops before any work. Field comments are the documentation of the options.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING, OmegaConf


class Precision(Enum):
    """Number format of the encoder's arithmetic. `auto`: fp16 on a GPU, fp32 on a CPU."""

    auto = "auto"
    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"


class Kind(Enum):
    """How a dataset lists its recordings."""

    folder = "folder"
    gpt_sovits = "gpt_sovits"


class Resampler(Enum):
    """Who turns 32 kHz into 16 kHz: `soxr` is librosa's default and the reference."""

    soxr = "soxr"
    torchaudio = "torchaudio"


class StartMethod(Enum):
    """How workers start. `auto`: fork on a CPU run, forkserver once CUDA may be in use."""

    auto = "auto"
    fork = "fork"
    forkserver = "forkserver"
    spawn = "spawn"


class Verify(Enum):
    """How files of earlier runs are trusted: by their sizes, or by reading them whole."""

    size = "size"
    checksum = "checksum"


@dataclass
class DatasetConfig:
    """Which recordings."""

    name: str = MISSING  # names the output folder
    kind: Kind = Kind.folder
    path: str = MISSING  # the folder, or the .list file
    audio_dir: str | None = None  # gpt_sovits: look for the recordings' file names here instead
    extensions: list[str] | None = None  # folder: null = what audio files are called; [] = all


@dataclass
class ModelConfig:
    """Which encoder."""

    name: str = MISSING  # names the output folder
    path: str = MISSING  # a folder, a model hub's id, or tiny_random
    revision: str | None = None  # commit or tag on the hub
    layer: int | None = None  # 1 .. number of layers; null = the last


@dataclass
class AudioConfig:
    """What happens to a waveform before the encoder. See `extract.audio.AudioSettings`."""

    max_peak: float = 2.2  # louder recordings are rejected (`peak_above_gate`)
    maxx: float = 0.95  # the level that `alpha` pulls peaks towards
    alpha: float = 0.5  # 0 = leave the level, 1 = set every peak to `maxx`
    min_duration_s: float = 0.0  # shorter ones are rejected (`too_short`)
    max_duration_s: float = 600.0  # longer ones are rejected (`too_long`)
    resampler: Resampler = Resampler.soxr


@dataclass
class LoaderConfig:
    """How recordings reach the encoder. Nothing here changes a feature."""

    num_workers: int | str = "auto"  # processes that decode; auto = from the cores
    batch_seconds: int | float | str = "auto"  # padded seconds a batch; auto = from the memory
    prefetch: int = 2  # batches that each worker keeps ready
    timeout_s: float = 300.0  # one recording that takes longer has hung its worker
    start_method: StartMethod = StartMethod.auto


@dataclass
class StoreConfig:
    """Where features go and how they are kept."""

    dir: str = MISSING
    num_writers: int = 4  # threads
    fsync: bool = True  # survive a power cut, not only a killed process
    verify: Verify = Verify.size


@dataclass
class ShardConfig:
    """This process's part of a job that several processes or machines share."""

    index: int = 0
    count: int = 1


@dataclass
class Config:
    """Everything. `conf/config.yaml` is its table of contents."""

    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    audio: AudioConfig = field(default_factory=AudioConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    shard: ShardConfig = field(default_factory=ShardConfig)
    device: str = "auto"  # auto, cpu, cuda, cuda:1, ...
    precision: Precision = Precision.auto
    cpu_fallback: bool = True  # a recording too large for the GPU alone is encoded on the CPU
    seed: int = 0  # of tiny_random's weights
    retry_failed: bool = True  # try what failed in an earlier run again
    overwrite: bool = False  # replace a store that was made with other settings


SCHEMAS: dict[str, Any] = {
    "config": Config,
    "dataset": DatasetConfig,
    "model": ModelConfig,
    "audio": AudioConfig,
    "loader": LoaderConfig,
    "store": StoreConfig,
}


def run_name(config: Any) -> str:
    """Name of a run's folder: the model and every setting of its features that is not a default.

    `maxx` and `alpha` are always said, since they are what sweeps are about:
    `hubert_base-layer9-maxx0.95-alpha0.3`.
    """
    parts = [config.model.name]
    if config.model.layer is not None:
        parts.append(f"layer{config.model.layer}")
    if config.precision.name != "auto":
        parts.append(config.precision.name)
    parts += [f"maxx{config.audio.maxx:g}", f"alpha{config.audio.alpha:g}"]
    defaults = OmegaConf.structured(AudioConfig)
    for key in ("resampler", "max_peak", "min_duration_s", "max_duration_s"):
        value = config.audio[key]
        if value != defaults[key]:
            parts.append(value.name if isinstance(value, Enum) else f"{key}{value:g}")
    return "-".join(parts)
