"""Configs for tests that call `run_shard` themselves."""

from pathlib import Path

from extract.config import Config, LoaderConfig, ModelConfig
from extract.manifest.sources import folder
from extract.store.layouts import gpt_sovits


def tiny_config(recordings: Path, store: Path) -> Config:
    """A folder of recordings into a store, with the smallest model, in small batches."""
    return Config(
        dataset=folder.Options(path=str(recordings)),
        model=ModelConfig("tiny_random", "tiny_random"),
        loader=LoaderConfig(num_workers=1, batch_seconds=4),
        store=gpt_sovits.Options(str(store), num_writers=2),
        device="cpu",
    )
