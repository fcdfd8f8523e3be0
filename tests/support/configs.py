"""Configs for runs that no command line starts."""

from pathlib import Path

from extract.config import Config, DatasetConfig, LoaderConfig, ModelConfig
from extract.store.layout import LayoutOptions


def tiny_config(recordings: Path, store: Path) -> Config:
    """A folder of recordings into a store, with the smallest model, in small batches."""
    return Config(
        dataset=DatasetConfig("in", path=str(recordings)),
        model=ModelConfig("tiny_random", "tiny_random"),
        loader=LoaderConfig(num_workers=1, batch_seconds=4),
        store=LayoutOptions(str(store), num_writers=2),
        device="cpu",
    )
