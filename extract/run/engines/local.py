"""`engine.kind=local`: shards one after the other, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from extract.config import Config, EngineOptions
from extract.run.observer import Observer, Unit
from extract.run.signals import Stop
from extract.run.summary import Summary, not_begun
from extract.shard import Shard


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
            summaries.append(not_begun(config.store.dir, interrupted=stop.signal_name or ""))
        else:
            summaries.append(unit(config, shard, watch, stop))
    return summaries
