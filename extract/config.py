"""The schema of every option: one dataclass per config group. Values and types only, no logic.

`conf/` holds the options themselves; Hydra checks them against these types, so that a wrong key,
type or choice stops before any work. `extract/options.py` checks numbers against their ranges here.
Field comments are the documentation of the options.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING

MAX_SEED = 2**64 - 1  # torch.Generator.manual_seed takes no larger one


@dataclass(frozen=True)
class Range:
    """Which numbers a run can mean: finite ones between the bounds that are given."""

    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None

    def __contains__(self, number: float) -> bool:
        return (
            abs(number) < float("inf")
            and (self.at_least is None or number >= self.at_least)
            and (self.at_most is None or number <= self.at_most)
            and (self.above is None or number > self.above)
        )

    def __str__(self) -> str:
        if self.at_least is not None and self.at_most is not None:
            return f"{self.at_least} to {self.at_most}"
        bounds = {"more than": self.above, "at least": self.at_least, "at most": self.at_most}
        said = ", ".join(f"{word} {bound}" for word, bound in bounds.items() if bound is not None)
        return f"{said}, and finite" if self.at_most is None else said


def number(
    default: Any,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    above: float | None = None,
) -> Any:
    """An option with a range."""
    return field(default=default, metadata={"range": Range(at_least, at_most, above)})


def location(default: Any = MISSING) -> Any:
    """An option that names a file or folder: `~` stands for the home folder."""
    return field(default=default, metadata={"path": True})


class Precision(Enum):
    """Number format of the encoder's arithmetic. `auto`: fp16 on a GPU, fp32 on a CPU.

    A CPU that cannot multiply in half precision computes in fp32 and rounds the features.
    """

    auto = "auto"
    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"


class Kind(Enum):
    """How a dataset lists its recordings: a folder, or a GPT-SoVITS list."""

    folder = "folder"
    gpt_sovits = "gpt_sovits"


class Resampler(Enum):
    """What turns 32 kHz into 16 kHz: `soxr` is librosa's default and the reference."""

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
    path: str = location()  # the folder, or the list
    audio_dir: str | None = location(None)  # `gpt_sovits`: look for the file names here instead
    # `folder`: endings of the files to take, `[wav,flac]`; null = what audio files are called, [] =
    # every file
    extensions: list[str] | None = None


@dataclass
class ModelConfig:
    """Which encoder."""

    name: str = MISSING  # names the output folder
    path: str = location()  # a folder, a model hub's id, or `tiny_random`
    revision: str | None = None  # commit or tag on the hub
    # Features of this layer, counted from 1; later ones are not computed. null = the last
    layer: int | None = number(None, at_least=1)


@dataclass
class AudioConfig:
    """What happens to a waveform before the encoder. See `extract.audio.prepare.AudioSettings`."""

    maxx: float = number(0.95, above=0, at_most=1)  # the level that `alpha` pulls peaks towards
    alpha: float = number(0.5, at_least=0, at_most=1)  # 0 = leave the level, 1 = peaks at `maxx`
    resampler: Resampler = Resampler.soxr
    # Louder recordings are rejected (`peak_above_gate`); full scale is 1
    max_peak: float = number(2.2, above=0)
    min_duration_s: float = number(0.0, at_least=0)  # shorter ones are rejected (`too_short`)
    max_duration_s: float = number(600.0, above=0)  # longer ones are rejected (`too_long`)


@dataclass
class LoaderConfig:
    """How recordings reach the encoder. Nothing here changes a feature."""

    # Processes that decode; auto = from the cores. The choice is printed
    num_workers: int | str = number("auto", at_least=0, at_most=1024)
    # Padded seconds of a batch; auto = 60 on a CPU, from a GPU's free memory
    batch_seconds: int | float | str = number("auto", at_least=0.1)
    prefetch: int = number(2, at_least=1, at_most=1000)  # batches that each worker keeps ready
    timeout_s: float = number(300.0, above=0)  # a recording that takes longer has hung its worker
    start_method: StartMethod = StartMethod.auto


@dataclass
class StoreConfig:
    """Where features go and how they are kept."""

    dir: str = location()  # the output folder
    num_writers: int = number(4, at_least=1, at_most=1024)  # threads that write
    # What is saved survives a power cut, not only a killed process; the ledger's lines of the last
    # 5 s aside, whose recordings are then done again
    fsync: bool = True
    verify: Verify = Verify.size


@dataclass
class ShardConfig:
    """This process's part of a job that several processes or machines share."""

    index: int = number(0, at_least=0)  # which part, from 0
    count: int = number(1, at_least=1, at_most=1_000_000)  # how many parts


@dataclass
class Config:
    """Everything. `conf/config.yaml` is its table of contents."""

    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    audio: AudioConfig = field(default_factory=AudioConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    shard: ShardConfig = field(default_factory=ShardConfig)
    device: str = "auto"  # `auto`, `cpu`, `cuda`, `cuda:1`, ...
    precision: Precision = Precision.auto
    cpu_fallback: bool = True  # a recording too large for the GPU alone is encoded on the CPU
    seed: int = number(0, at_least=0, at_most=MAX_SEED)  # of the weights of `tiny_random`
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

# Options that bound each other, and how the message says it.
ORDERED: tuple[tuple[str, Callable[[Any, Any], bool], str, str], ...] = (
    ("shard.index", operator.lt, "shard.count", "0 <= index < count"),
    ("audio.min_duration_s", operator.le, "audio.max_duration_s", "min <= max"),
)
