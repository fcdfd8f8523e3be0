"""A cluster of Ray whose nodes are in network namespaces of their own, joined by a bridge."""

import ctypes
import itertools
import subprocess
import sys
import time
from pathlib import Path

import psutil

from support.cluster import NODES

BRIDGE, FIRST, HEAD = "extract-br", "extract-1", "10.77.0.1"
PORT = 6379
HEAD_OPTIONS = ["--head", "--port", str(PORT), "--include-dashboard=false"]
NAMESPACE_ENVIRONMENT = {"RAY_AUTH_MODE": "disabled"}  # all nodes need one token otherwise
CLONE_NEWNET = 0x40000000


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def enter(namespace: str) -> None:
    """Moves this thread, and what it starts, into a network namespace."""
    with Path("/run/netns", namespace).open() as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")


class NamespaceNodes:
    """As `support.cluster.Nodes`; a node is lost by its network link, and its processes live on."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._nodes: list[subprocess.Popen] = []
        self._number_of: dict[int, int] = {}  # of each raylet that can be reached
        ip("link", "add", BRIDGE, "type", "bridge")
        ip("link", "set", BRIDGE, "up")
        try:
            for _ in range(NODES):
                self.add()
        except BaseException:
            self.end()
            raise

    def made(self) -> str:
        """The cluster's address."""
        return f"{HEAD}:{PORT}"

    def add(self) -> int:
        """Starts a node; the first one is the head."""
        number = next(self._numbers)
        namespace, address = f"extract-{number}", f"10.77.0.{number}"
        ip("netns", "add", namespace)
        ip("link", "add", f"ex{number}", "type", "veth", "peer", "eth0", "netns", namespace)
        ip("link", "set", f"ex{number}", "master", BRIDGE, "up")
        ip("-n", namespace, "address", "add", f"{address}/24", "dev", "eth0")
        for link in ("eth0", "lo"):
            ip("-n", namespace, "link", "set", link, "up")
        where = ["--address", self.made()] if number > 1 else HEAD_OPTIONS
        words = ["--node-ip-address", address, "--num-cpus=1", "--object-store-memory=150000000"]
        start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--disable-usage-stats"]
        node = subprocess.Popen(
            ["ip", "netns", "exec", namespace, *start, *where, *words, "--block"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._nodes.append(node)
        raylet = _raylet(node.pid)
        self._number_of[raylet] = number
        return raylet

    def raylets(self) -> list[int]:
        """All nodes that can be reached, the head first."""
        return list(self._number_of)

    def remove(self, raylet: int) -> None:
        """Cuts a node's link."""
        ip("link", "set", f"ex{self._number_of.pop(raylet)}", "down")

    def end(self) -> None:
        for node in self._nodes:
            family = [psutil.Process(node.pid), *psutil.Process(node.pid).children(recursive=True)]
            for process in family:
                process.kill()
            node.wait()
        for number in range(1, next(self._numbers)):
            ip("link", "delete", f"ex{number}")
            ip("netns", "delete", f"extract-{number}")
        ip("link", "delete", BRIDGE)


def _raylet(pid: int) -> int:
    """The raylet that a node's process has started; waits for it."""
    for _ in range(600):
        for child in psutil.Process(pid).children(recursive=True):
            if child.name() == "raylet":
                return child.pid
        time.sleep(0.1)
    raise TimeoutError("no raylet")
