"""`engine.kind=local`: shards one after the other, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from extract.config import Config, EngineOptions
from extract.run.observer import Observer, Unit
from extract.run.signals import Stop
from extract.run.summary import Summary
from extract.shard import Shard
from extract.urls import redacted


@dataclass
class Options(EngineOptions):
    """One process."""

    kind: str = "local"


def shards(config: Config) -> Sequence[Shard]:
    """The shard that the options name: other processes do the others."""
    return [config.shard]


def run(
    config: Config, shards: Sequence[Shard], unit: Unit, watch: Observer, stop: Stop
) -> list[Summary]:
    """Runs the shards in order; returns their summaries. Begins no other once `stop` is set."""
    summaries: list[Summary] = []
    for shard in shards:
        if summaries and stop():
            summaries.append(_not_begun(config, stop))
        else:
            summaries.append(unit(config, shard, watch, stop))
    return summaries


def _not_begun(config: Config, stop: Stop) -> Summary:
    return Summary(Path(redacted(config.store.dir)), interrupted=stop.signal_name or "", left=None)
