"""`engine=ray`: shards as tasks of Ray, on the cards of one machine or of a cluster.

Ray places the tasks, and starts one again whose process, card or node died; it is given no other
work. A shard skips what is finished, so a task that is started again loses what was in flight. An
exception of a task is a mistake that would come again, and is not retried.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from extract.config import Config, EngineOptions
from extract.fields import number
from extract.machine import cores
from extract.options import options_of
from extract.run.board import Board, Progress, Reporter
from extract.run.cluster import Resources, check_nodes, connect, resources
from extract.run.observer import Observer, Unit
from extract.run.signals import Stop
from extract.run.summary import Summary, merged, not_begun
from extract.shard import Shard
from extract.store.held import LEASE_S
from extract.store.lock import StoreBusy
from extract.store.store import no_url
from extract.text import count
from extract.urls import is_url

SHARDS_PER_PLACE = 4  # so that a slow one does not hold the end
POLL_S = 0.5
BUSY_S = 2 * LEASE_S  # how long the owner of a shard's lock may take to be found dead


@dataclass
class Options(EngineOptions):
    """Tasks of Ray, one a shard; `shard.count` is their number, 1 = four for each that fits."""

    kind: str = "ray"
    # `local` starts Ray on this machine for this run; `auto` takes the cluster that stands (`ray
    # start`, KubeRay), or name its address
    address: str = "local"
    # Cards of a task; auto = 1, or 0 with `device=cpu` or where the cluster has none
    num_gpus: int | float | str = number("auto", at_least=0, at_most=64)
    # Cores of a task; auto = those of a node, divided by its cards; 4 without a card
    num_cpus: int | str = number("auto", at_least=1, at_most=1024)
    # How often a task is started again whose process, card or node died
    max_retries: int = number(3, at_least=0, at_most=1000)


def shards(config: Config) -> Sequence[Shard]:
    """All shards: as many as `shard.count`, or four for each task that fits the cluster at once.

    Raises:
        ValueError: Ray is not installed, or there is no such cluster, or the options ask for more
            than it has, or the store is at a URL.
    """
    if is_url(config.store.dir):
        raise ValueError(no_url(config.store.dir, "engine=ray"))
    ray = connect(_options(config).address)
    total = config.shard.count
    if total == 1:
        total = SHARDS_PER_PLACE * _resources(config, ray).places
    return Shard(0, total).all()


def run(
    config: Config, shards: Sequence[Shard], unit: Unit, watch: Observer, stop: Stop
) -> list[Summary]:
    """Runs the shards as tasks; returns one summary of all.

    Raises:
        ValueError: a node does not see the storage or has another version of this package, or the
            options cannot be carried out; nothing was done.
    """
    options = _options(config)
    ray, start = connect(options.address), time.monotonic()
    try:
        config = _with_absolute_paths(config)
        needed = _resources(config, ray)
        recordings = str(getattr(config.dataset, "path", "") or "")
        check_nodes(ray, Path(config.store.dir), recordings, watch)
        watch.said(
            f"{count(len(shards), 'shard')} on {count(needed.places, 'place')}, "
            f"each of {count(needed.num_cpus, 'core')} and {needed.num_gpus:g} cards"
        )
        summaries = _run(config, shards, unit, watch, stop, needed, ray)
    finally:
        ray.shutdown()
    summary = merged(summaries, time.monotonic() - start)
    watch.ended(summary)
    if num := sum(one.left is None for one in summaries):
        watch.said(f"{count(num, 'shard')} not ended; the same command goes on from here")
    return [summary]


def _run(
    config: Config,
    shards: Sequence[Shard],
    unit: Unit,
    watch: Observer,
    stop: Stop,
    needed: Resources,
    ray: Any,
) -> list[Summary]:
    """Submits all shards; shows their progress until each has ended."""
    board = _board(ray)
    task = ray.remote(
        num_gpus=needed.num_gpus,
        num_cpus=needed.num_cpus,
        max_retries=_options(config).max_retries,
        retry_exceptions=False,
        max_calls=1,
    )(_shard)
    waiting = {task.remote(config, shard, unit, board, needed.num_cpus): shard for shard in shards}
    progress, summaries, error = Progress(len(shards)), list[Summary](), None
    while waiting:
        ended, _others = ray.wait(list(waiting), timeout=POLL_S)
        for reference in ended:
            shard = waiting.pop(reference)
            try:
                summaries.append(_result(ray, reference, shard, config, stop))
            except ValueError as found:
                error = error or found
        if stop() or error is not None:
            _stop(ray, board, waiting, stop, again=progress.stopping)
            progress.stopping = True
        with suppress(ray.exceptions.RayError):  # the actor is being started again
            progress.update(ray.get(board.state.remote()), len(waiting))
        watch.progress(progress.line())
    if error is not None:
        raise error
    return summaries


def _board(ray: Any) -> Any:
    """The actor that counts, on the driver's node, where the driver's death ends it anyway."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    made = ray.remote(num_cpus=0, max_restarts=-1, scheduling_strategy=here)(Board)
    return made.remote()


def _stop(ray: Any, board: Any, waiting: Mapping[Any, Shard], stop: Stop, *, again: bool) -> None:
    """Asks the tasks at work to finish what is in flight, and takes back those not begun."""
    with suppress(ray.exceptions.RayError):
        ray.get(board.stop.remote(stop.signal_name or "SIGTERM"))
        running = ray.get(board.state.remote()).running
        for reference, shard in () if again else waiting.items():
            if shard.index not in running:
                ray.cancel(reference, force=False, recursive=False)


def _result(ray: Any, reference: Any, shard: Shard, config: Config, stop: Stop) -> Summary:
    """What became of a shard.

    Raises:
        ValueError: the shard's own: the options cannot be carried out.
    """
    try:
        summary: Summary = ray.get(reference)
        return summary
    except ray.exceptions.TaskCancelledError:
        return not_begun(config.store.dir, interrupted=stop.signal_name or "SIGTERM")
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, ValueError):
            raise ValueError(str(cause)) from None
        found = f"shard {shard.index} of {shard.count}: {cause or error}"
        return not_begun(config.store.dir, stopped=found)
    except ray.exceptions.RayError as error:
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        found = f"shard {shard.index} of {shard.count}: its process died too often ({said})"
        return not_begun(config.store.dir, stopped=found)


def _shard(config: Config, shard: Shard, unit: Unit, board: Any, num_cpus: int) -> Summary:
    """The task: one shard. Waits while the process that had it before is not yet found dead."""
    side_by_side = max(int(config.loader.side_by_side), cores() // num_cpus)
    config = replace(config, loader=replace(config.loader, side_by_side=side_by_side))
    stop, deadline = Stop(), time.monotonic() + BUSY_S
    with Reporter(board, shard, stop) as watch:
        while True:
            try:
                return unit(config, shard, watch, stop)
            except StoreBusy:
                if time.monotonic() > deadline or stop():
                    raise
                time.sleep(POLL_S)


def _options(config: Config) -> Options:
    assert isinstance(config.engine, Options)
    return config.engine


def _resources(config: Config, ray: Any) -> Resources:
    options = _options(config)
    return resources(ray, options.num_gpus, options.num_cpus, on_cpu=config.device == "cpu")


def _with_absolute_paths(config: Config) -> Config:
    """The config with absolute paths: tasks have working folders of their own."""
    for name, option in options_of(config).items():
        group, _, key = name.rpartition(".")
        value = attrgetter(name)(config)
        if option.metadata.get("path") and isinstance(value, str) and not is_url(value):
            with suppress(OSError, ValueError):
                if name == "store.dir" or Path(value).exists():
                    setattr(attrgetter(group)(config), key, str(Path(value).absolute()))
    return config
