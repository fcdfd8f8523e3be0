"""The schema of every option: one dataclass per config group. Values and types only, no logic.

`conf/` holds the options themselves; Hydra checks them against these types, so that a wrong key,
type or choice stops before any work. `extract/options.py` checks numbers against their ranges here.
Field comments are the documentation of the options.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

from extract.choices import Group
from extract.encoder.quantizer import QuantizerOptions
from extract.fields import MISSING, checked, location, number
from extract.manifest.source import SourceOptions
from extract.models.wanted import LAYER, PROJECTION, FinalNorm, is_layer, is_projection
from extract.shard import Shard
from extract.store.layout import LayoutOptions
from extract.values import AudioSettings, Gain, Resampler

MAX_SEED = 2**64 - 1  # torch.Generator.manual_seed takes no larger one


class Precision(Enum):
    """Number format of the encoder's arithmetic. `auto`: fp16 on a GPU, fp32 on a CPU.

    A CPU that cannot multiply in half precision computes in fp32 and rounds the features.
    """

    auto = "auto"
    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"


class InputNorm(Enum):
    """Whether a waveform is brought to zero mean and unit variance before the encoder.

    `auto`: with `audio.gain=none` as the model was trained, else `none`, as GPT-SoVITS has it.
    """

    auto = "auto"
    none = "none"
    unit_variance = "unit_variance"


class StartMethod(Enum):
    """How workers start. `auto`: on Linux fork, or forkserver beside a GPU; elsewhere spawn."""

    auto = "auto"
    fork = "fork"
    forkserver = "forkserver"
    spawn = "spawn"


@dataclass
class ModelConfig:
    """Which encoder."""

    name: str = MISSING  # names the output folder
    path: str = location()  # a folder, a model hub's id, or `tiny_random`
    input_norm: InputNorm = InputNorm.auto
    revision: str | None = None  # commit or tag on the hub
    # Features of this layer, or of several in one pass; those past it are not computed. null = the
    # last
    layer: Any = field(default=None, metadata=checked(LAYER, is_layer))
    # The model's own `final_proj`, as RVC v1 applies it to ContentVec's layer 9; auto = false
    projection: bool | str = field(default="auto", metadata=checked(PROJECTION, is_projection))
    final_norm: FinalNorm = FinalNorm.transformers


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
    # In a sweep: megabytes of memory for decoded recordings, which later jobs then need not decode;
    # 0 = none, auto = a quarter of what is free
    decoded_mb: int | float | str = number("auto", at_least=0)
    # Runs at work on this machine at once, this one among them: each takes its share of the cores
    # and, for `batch_seconds=auto`, of the free memory of the GPU
    side_by_side: int = number(1, at_least=1, at_most=1024)


@dataclass
class EngineOptions:
    """What runs the shards. An engine's own `Options` add to these."""

    kind: str = "local"  # a module of `extract/run/engines/`, or what an installed package adds


class Page(Enum):
    """What is made of a store to look at and to listen to: nothing, or `report.html` in it.

    `html`: at the end of the command, in a process of its own at low priority; a page that cannot
    be made ends no run. `live`: the same, and while the run is at work the page is written anew
    every minute. `python -m extract report STORE` makes the page of any store at any time.
    """

    html = "html"
    none = "none"
    live = "live"


@dataclass
class ReportConfig:
    """What shows a run and its store. Nothing here changes a feature."""

    # The environment variable `EXTRACT_REPORT` chooses the group's default: `none` for no page.
    page: Page = Page.html
    # Also note the run's speed, waiting, memory and outcomes for TensorBoard, in
    # `.extract/tensorboard` of the store
    tensorboard: bool = False


PREFLIGHT = "true, false or json"


def is_preflight(value: Any) -> bool:
    """Whether a value is one of `PREFLIGHT`."""
    return isinstance(value, bool) or value == "json"


@dataclass
class Config:
    """All options. `conf/config.yaml` is its table of contents."""

    dataset: SourceOptions = field(default_factory=SourceOptions)
    model: ModelConfig = field(default_factory=ModelConfig)
    audio: AudioSettings = field(default_factory=AudioSettings)
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    quantizer: QuantizerOptions = field(default_factory=QuantizerOptions)
    store: LayoutOptions = field(default_factory=LayoutOptions)
    shard: Shard = field(default_factory=Shard)
    engine: EngineOptions = field(default_factory=EngineOptions)
    report: ReportConfig = field(default_factory=ReportConfig)
    # `auto`, `cpu`, `cuda`, `cuda:1`, ...; `auto:1` is `cuda:1`, or `cpu` where there is no CUDA
    device: str = "auto"
    precision: Precision = Precision.auto
    features: bool = True  # false keeps the quantizer's units alone: no features, no training audio
    cpu_fallback: bool = True  # a recording too large for the GPU alone is encoded on the CPU
    # In a sweep: take features from an earlier job's store where only the gain differs and does not
    # change them; false computes all
    share_features: bool = True
    seed: int = number(0, at_least=0, at_most=MAX_SEED)  # of the weights of `tiny_random`
    retry_failed: bool = True  # try what failed in an earlier run again
    overwrite: bool = False  # replace a store that was made with other settings
    # Read headers alone, print what a run would find, and write nothing; json = for programs
    preflight: bool | str = field(default=False, metadata=checked(PREFLIGHT, is_preflight))


SCHEMAS: dict[str, Any] = {
    "config": Config,
    "model": ModelConfig,
}


class ModuleGroup(NamedTuple):
    """A group whose choices are modules, each with a schema of its own, `Options`."""

    modules: Group
    key: str  # the option that holds the choice's name


MODULE_GROUPS = {
    "dataset": ModuleGroup("sources", "kind"),
    "quantizer": ModuleGroup("quantizers", "kind"),
    "store": ModuleGroup("layouts", "layout"),
    "engine": ModuleGroup("engines", "kind"),
}

PRESET = "preset"  # the group whose choices make those of all other groups: files in `conf/preset/`

# Pairs of options in an order: the smaller, the test, the larger, and the rule in words.
ORDERED: tuple[tuple[str, Callable[[Any, Any], bool], str, str], ...] = (
    ("shard.index", operator.lt, "shard.count", "0 <= index < count"),
    ("audio.min_duration_s", operator.le, "audio.max_duration_s", "min <= max"),
)

# Options that change nothing without another's value: then they are left as they are.
ONLY_WITH: tuple[tuple[str, str, Enum], ...] = (
    ("audio.maxx", "audio.gain", Gain.peak_blend),
    ("audio.alpha", "audio.gain", Gain.peak_blend),
    ("audio.resampler_width", "audio.resampler", Resampler.torchaudio),
)
