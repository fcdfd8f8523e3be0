"""Turn recordings into SSL features and 32 kHz training audio: exactly, fast, losing none.

What is named here is the library; each name is imported when it is first used, so that the command
can answer `--help` without waiting for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from extract.config import Config
    from extract.data.augment import TorchAugment
    from extract.data.batch import Batch, collate
    from extract.data.dataset import AudioDataset
    from extract.data.plan import plan_batches
    from extract.encoder.encoder import Encoder
    from extract.frames import num_frames
    from extract.manifest.manifest import Manifest
    from extract.manifest.sources.csv import read_csv
    from extract.manifest.sources.folder import read_folder
    from extract.manifest.sources.gpt_sovits import read_gpt_sovits_list
    from extract.manifest.sources.hf import read_hf
    from extract.manifest.sources.jsonl import read_jsonl
    from extract.manifest.sources.kaldi import read_kaldi
    from extract.manifest.sources.tsv import read_tsv
    from extract.models.load import load_model
    from extract.run.job import run_shard
    from extract.run.summary import Summary
    from extract.shard import Shard
    from extract.training.batch import FeatureBatch
    from extract.training.collating import collate_features
    from extract.training.crops import Crops, RandomCrops
    from extract.training.features import FeatureDataset
    from extract.training.kmeans import fit_kmeans
    from extract.training.loader import Loader, make_loader
    from extract.training.reading import StoredUtterance
    from extract.training.sampler import LengthBatchSampler
    from extract.training.stream import FeatureStream, stream_features
    from extract.training.writing import FeatureStore
    from extract.values import AudioSettings, Encoded, Failure, Features, Utterance

__version__ = "0.1.0"  # pyproject.toml reads it here

__all__ = [
    "AudioDataset",
    "AudioSettings",
    "Batch",
    "Config",
    "Crops",
    "Encoded",
    "Encoder",
    "Failure",
    "FeatureBatch",
    "FeatureDataset",
    "FeatureStore",
    "FeatureStream",
    "Features",
    "LengthBatchSampler",
    "Loader",
    "Manifest",
    "RandomCrops",
    "Shard",
    "StoredUtterance",
    "Summary",
    "TorchAugment",
    "Utterance",
    "collate",
    "collate_features",
    "fit_kmeans",
    "load_model",
    "make_loader",
    "num_frames",
    "plan_batches",
    "read_csv",
    "read_folder",
    "read_gpt_sovits_list",
    "read_hf",
    "read_jsonl",
    "read_kaldi",
    "read_tsv",
    "run_shard",
    "stream_features",
]

_MODULES = {
    "config": "Config",
    "data.augment": "TorchAugment",
    "data.batch": "Batch collate",
    "data.dataset": "AudioDataset",
    "encoder.encoder": "Encoder",
    "frames": "num_frames",
    "manifest.manifest": "Manifest",
    "manifest.sources.csv": "read_csv",
    "manifest.sources.folder": "read_folder",
    "manifest.sources.gpt_sovits": "read_gpt_sovits_list",
    "manifest.sources.hf": "read_hf",
    "manifest.sources.jsonl": "read_jsonl",
    "manifest.sources.kaldi": "read_kaldi",
    "manifest.sources.tsv": "read_tsv",
    "models.load": "load_model",
    "data.plan": "plan_batches",
    "run.job": "run_shard",
    "run.summary": "Summary",
    "shard": "Shard",
    "training.batch": "FeatureBatch",
    "training.collating": "collate_features",
    "training.crops": "Crops RandomCrops",
    "training.features": "FeatureDataset",
    "training.kmeans": "fit_kmeans",
    "training.loader": "Loader make_loader",
    "training.reading": "StoredUtterance",
    "training.sampler": "LengthBatchSampler",
    "training.stream": "FeatureStream stream_features",
    "training.writing": "FeatureStore",
    "values": "AudioSettings Encoded Failure Features Utterance",
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    """Imports a name of `__all__` from its module when it is first used (PEP 562)."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"extract.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
