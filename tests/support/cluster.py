"""A cluster of Ray whose nodes come and go, and what a run's processes do slowly for the tests.

The nodes' processes find this module by its name.
"""

import os
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from extract.encoder.batches import BatchEncoder
from extract.run.job import run_shard
from extract.store import writers
from extract.store.layouts.gpt_sovits import GptSovits

NODES = 3


class Nodes:
    """A cluster of `NODES` nodes of one core; a node is named by the process id of its raylet."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        for _ in range(NODES - 1):
            self.add()

    def made(self) -> str:
        """The cluster's address."""
        return self._cluster.address

    def add(self) -> int:
        return _raylet(self._cluster.add_node(num_cpus=1))

    def raylets(self) -> list[int]:
        """All nodes, the head first."""
        return [_raylet(node) for node in [self._cluster.head_node, *self._cluster.worker_nodes]]

    def remove(self, raylet: int) -> None:
        """Kills a node's processes without grace."""
        [node] = [one for one in self._cluster.worker_nodes if _raylet(one) == raylet]
        self._cluster.remove_node(node, allow_graceful=False)

    def end(self) -> None:
        self._cluster.shutdown()


def _raylet(node) -> int:
    return node.all_processes["raylet"][0].process.pid


@dataclass(frozen=True)
class Unit:
    """`run_shard` with a slow disk, a short queue and notes of what it does; picklable.

    Three files of lines `process, its parent, what` grow beside the store: `.saves` by the id of
    each utterance that is saved, `.forwards` by that of each that is encoded, `.ended` by each
    shard that has returned. Nothing else tells what a process did that was killed since.
    """

    slow_s: float = 0.05  # of each save: long enough for something to happen meanwhile
    nan: str = "nan"  # recordings whose names begin so have features of NaN

    def __call__(self, config, shard, *rest, **options):
        store, put, submit = config.store.dir, GptSovits.put, BatchEncoder._submit

        def saving(layout, item):
            time.sleep(self.slow_s)
            kept = put(layout, item)
            _note(f"{store}.saves", [item.recording.id])
            while Path(f"{store}.hold").exists():
                time.sleep(0.01)
            return kept

        def encoding(encoder, batch):
            ids = [recording.id for recording in batch.recordings]
            _note(f"{store}.forwards", ids)
            for row, id_ in enumerate(ids):
                if id_.startswith(self.nan):
                    batch.waveforms[row] = float("nan")
            return submit(encoder, batch)

        with ExitStack() as patches:
            patches.enter_context(patch.object(GptSovits, "put", saving))
            patches.enter_context(patch.object(BatchEncoder, "_submit", encoding))
            patches.enter_context(patch.object(writers, "MAX_QUEUED_PER_WRITER", 1))
            summary = run_shard(config, shard, *rest, **options)
        _note(f"{store}.ended", [str(shard.index)])
        return summary


def _note(path: str, what: list[str]) -> None:
    lines = "".join(f"{os.getpid()} {os.getppid()} {one}\n" for one in what)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, lines.encode())
    os.close(descriptor)


def notes(path: Path) -> list[tuple[int, int, str]]:
    """What `Unit` noted: (process, its parent, id or shard)."""
    with suppress(FileNotFoundError):
        words = [line.split(" ", 2) for line in path.read_text().splitlines()]
        return [(int(pid), int(parent), what) for pid, parent, what in words]
    return []
