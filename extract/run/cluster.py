"""A cluster of Ray: which nodes it has, how many tasks fit them, and whether they fit the job."""

from __future__ import annotations

import logging
import os
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extract import __version__
from extract.extras import missing
from extract.run.observer import Observer
from extract.run.signals import kept_handlers
from extract.store.held import LEASE_S
from extract.store.lock import PRIVATE
from extract.text import count
from extract.urls import is_url

CPUS_WITHOUT_CARD = 4  # cores of a task that computes on them
ANSWER_S = 2 * LEASE_S  # for a node to start a process and answer
# A node whose network is cut closes no connection. Ray marks the node dead after a minute, and yet
# waits for its tasks until a keepalive fails, of which it sends one in five minutes by default. Its
# servers end the connection, and the task with it, of a client that asks more than once a minute
# (src/ray/rpc/grpc_server.cc), unless they were started with the same setting.
KEEPALIVE = {
    "RAY_grpc_client_keepalive_time_ms": "70000",
    "RAY_grpc_client_keepalive_timeout_ms": "60000",
}


@dataclass(frozen=True)
class Resources:
    """What each task needs, and how many fit the cluster at once."""

    num_gpus: float
    num_cpus: int
    places: int


def connect(address: str) -> Any:
    """The package, connected.

    Raises:
        ValueError: it is not installed, or no cluster is at the address.
    """
    for name, value in KEEPALIVE.items():
        os.environ.setdefault(name, value)  # read as the package is imported
    try:
        import ray
    except ModuleNotFoundError:
        raise ValueError(missing("ray")) from None
    if not ray.is_initialized():
        try:
            with kept_handlers():  # Ray's of SIGTERM ends the process with a traceback
                ray.init(
                    address=address,
                    log_to_driver=False,
                    include_dashboard=False if address == "local" else None,
                    logging_level=logging.ERROR,
                )
        except (ConnectionError, RuntimeError) as error:
            raise ValueError(f"engine.address={address}: no cluster there: {error}") from None
    return ray


def resources(ray: Any, num_gpus: float | str, num_cpus: int | str, *, on_cpu: bool) -> Resources:
    """What a task takes of the cluster as it is now.

    Args:
        ray: the package, connected.
        num_gpus: cards of a task; `auto` is 1, or 0 without any and for `on_cpu`.
        num_cpus: cores of a task; `auto` is its cards' share of a node's.
        on_cpu: whether tasks compute on cores.

    Raises:
        ValueError: no node has as much.
    """
    nodes = [node["Resources"] for node in _nodes(ray)]
    cards = max((node.get("GPU", 0) for node in nodes), default=0)
    if num_gpus == "auto":
        num_gpus = 1 if cards and not on_cpu else 0
    num_gpus = float(num_gpus)
    if num_cpus == "auto":
        largest = max((int(node.get("CPU", 0)) for node in nodes), default=1)
        share = int(largest * num_gpus / cards) if num_gpus else CPUS_WITHOUT_CARD
        num_cpus = max(1, min(share, largest))
    places = sum(_places(node, num_gpus, int(num_cpus)) for node in nodes)
    if not places:
        raise ValueError(
            f"engine.num_gpus={num_gpus:g} engine.num_cpus={num_cpus}: no node of the cluster has "
            f"as much; they have {_shown(nodes)}"
        )
    return Resources(num_gpus, int(num_cpus), places)


def _places(node: Mapping[str, float], num_gpus: float, num_cpus: int) -> int:
    by_cpus = int(node.get("CPU", 0)) // num_cpus
    return min(by_cpus, int(node.get("GPU", 0) / num_gpus)) if num_gpus else by_cpus


def _shown(nodes: Sequence[Mapping[str, float]]) -> str:
    of_each = Counter(
        f"{node.get('CPU', 0):g} cores and {node.get('GPU', 0):g} cards" for node in nodes
    )
    return ", ".join(f"{number} x {what}" for what, number in of_each.items())


def _nodes(ray: Any) -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def check_nodes(ray: Any, store: Path, recordings: str, watch: Observer) -> None:
    """Asks each node for its version of this package and whether it sees store and recordings.

    Args:
        ray: the package, connected.
        store: its folder.
        recordings: the folder or list of the dataset; nothing is asked of it if it is not here.
        watch: told how many nodes there are.

    Raises:
        ValueError: names the nodes that differ.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if is_url(recordings) or not Path(recordings).exists():
        recordings = ""
    with token_in(store) as token:
        asked = {}
        for node in _nodes(ray):
            here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ask = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=here)(node_says)
            name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
            asked[ask.remote(str(token), recordings)] = name
        problems, gone = [], 0
        for reference, name in asked.items():
            try:
                problem = ray.get(reference, timeout=ANSWER_S)
            except (ray.exceptions.TaskUnschedulableError, ray.exceptions.NodeDiedError):
                gone += 1  # Ray takes some seconds to notice that a node has died
                continue
            except ray.exceptions.RayError as error:
                problem = f"{error}".strip().splitlines()[-1]
            if problem:
                problems.append(f"{name}: {problem}")
    if problems:
        raise ValueError("; ".join(sorted(problems)))
    watch.said(f"Ray: {count(len(asked) - gone, 'node')}{f', {gone} gone' if gone else ''}")


@contextmanager
def token_in(store: Path) -> Iterator[Path]:
    """A file in the store for the time of the block, by which a node tells that it sees it."""
    folder = store / PRIVATE
    folder.mkdir(parents=True, exist_ok=True)
    token = folder / f".tmp-ray-{uuid.uuid4().hex}"
    token.write_text(__version__)
    try:
        yield token
    finally:
        token.unlink(missing_ok=True)


def node_says(token: str, recordings: str) -> str:
    """What is wrong with a node; "" if nothing is. Runs there."""
    from extract import __version__ as version

    try:
        expected = Path(token).read_text()
    except OSError as error:
        return f"does not see the store: {Path(token).parents[1]}: {error.strerror}"
    if version != expected:
        return f"has extract {version}, and this process {expected}"
    if recordings and not Path(recordings).exists():
        return f"does not see the recordings: {recordings}"
    return ""
