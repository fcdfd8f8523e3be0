"""`engine=ray` on a cluster of three nodes on this machine, of which things are taken away."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from extract import __version__
from extract.app import main
from extract.config import Config, LoaderConfig, ModelConfig, Precision
from extract.manifest.sources import folder
from extract.run import cluster as cluster_of
from extract.run.engines import ray as engine
from extract.run.observer import Silent
from extract.run.signals import Stop
from extract.shard import Shard
from extract.store.layouts import gpt_sovits
from support.cluster import slow_shard
from support.recordings import write_wav

ray = pytest.importorskip("ray", reason="no wheel of it for this Python")
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="Ray's processes are found in /proc"),
    pytest.mark.timeout(280),
]

NUM = 120
NUM_SHARDS = 5


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    folder_ = tmp_path_factory.mktemp("clips")
    for number in range(NUM):
        write_wav(folder_ / f"{number}.wav", 0.2 + number % 5 / 20, number)
    return folder_


@pytest.fixture(scope="module")
def cluster():
    """Three nodes of one core each."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # where nodes find `support`
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        for _ in range(2):
            made.add_node(num_cpus=1)
        yield made
        made.shutdown()


@pytest.fixture
def config(clips, cluster, tmp_path) -> Config:
    return Config(
        folder.Options(path=str(clips), name="clips"),
        ModelConfig("tiny_random", "tiny_random"),
        loader=LoaderConfig(num_workers=1, batch_seconds=2.0),
        store=gpt_sovits.Options(str(tmp_path / "store"), fsync=False, num_writers=1),
        shard=Shard(0, NUM_SHARDS),
        engine=engine.Options(address=cluster.address, num_cpus=1),
        device="cpu",
        precision=Precision.fp32,
    )


class Watch(Silent):
    def __init__(self):
        self.lines, self.summaries = [], []

    def progress(self, text):
        self.lines.append(text)

    def said(self, text):
        self.lines.append(text)

    def ended(self, summary):
        self.summaries.append(summary)


def run(config, stop=None):
    watch = Watch()
    parts = engine.shards(config)
    [summary] = engine.run(config, parts, slow_shard, watch, stop or Stop())
    return summary, watch


def records(config) -> list[dict]:
    ledgers = Path(config.store.dir).glob("ledger*.jsonl")
    lines = [line for path in ledgers for line in path.read_text().splitlines()]
    return [json.loads(line) for line in lines if line.endswith("}")]


def until(is_so, seconds=120.0, said=None):
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, said.read_text() if said else "it did not happen"
        time.sleep(0.05)


def whole(config):
    found = records(config)
    assert Counter(one["status"] for one in found) == {"saved": NUM}
    assert len({one["id"] for one in found}) == NUM
    assert len(list((Path(config.store.dir) / "4-cnhubert").iterdir())) == NUM


def tasks() -> list[psutil.Process]:
    """The processes that do shards, without the workers that they forked."""
    every = psutil.process_iter(["pid", "ppid", "cmdline"])
    found = {one.info["pid"]: one for one in every if "ray::_shard" in _words(one)}
    return [one for one in found.values() if one.info["ppid"] not in found]


def saving() -> list[psutil.Process]:
    """Those that have begun to save: each has its shard's ledger open."""
    found = []
    for process in tasks():
        with suppress(psutil.Error):
            if any("/ledger." in file.path for file in process.open_files()):
                found.append(process)
    return found


def _words(process) -> str:
    return " ".join(process.info["cmdline"] or ())


class Running:
    """A run in a thread of its own, since Ray adds nodes in the main one only."""

    def __init__(self, config, stop=None):
        self._pool = ThreadPoolExecutor(1)
        self._run = self._pool.submit(run, config, stop)

    def result(self):
        return self._run.result(240)


def test_a_killed_task_and_a_lost_node_cost_only_what_was_in_flight(config, cluster):
    running = Running(config)
    until(lambda: [one.kill() for one in saving()[:1]])
    until(lambda: len(records(config)) > 20)
    mine = ray.get_runtime_context().get_node_id()  # of the command, which its death would end
    lost = next(node for node in cluster.worker_nodes if node.node_id != mine)
    cluster.remove_node(lost, allow_graceful=False)
    cluster.add_node(num_cpus=1)
    summary, watch = running.result()
    assert (summary.left, summary.stopped, summary.interrupted) == (0, "", "")
    whole(config)
    assert any("started again" in line for line in watch.lines), "\n".join(watch.lines)
    assert watch.summaries == [summary]


def test_a_killed_driver_and_the_same_command_again(config, clips, cluster, tmp_path):
    """With other shards than before: what is saved is not done again."""
    words = [
        *("dataset=folder", f"dataset.path={clips}", f"store.dir={config.store.dir}"),
        *("model=tiny_random", "device=cpu", "loader.num_workers=1", "loader.batch_seconds=2"),
        *("store.num_writers=1", "engine=ray", f"engine.address={cluster.address}"),
        *("engine.num_cpus=1", "report=none"),
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with (tmp_path / "said").open("w") as said:
        driver = subprocess.Popen(
            [sys.executable, "-m", "extract", *words, "shard.count=4"],
            env=environment,
            stdout=said,
            stderr=said,
        )
    until(lambda: len(records(config)) > 5, said=tmp_path / "said")
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert main([*words, "shard.count=3"]) == 0
    whole(config)


def test_a_signal_ends_the_shards_in_order(config):
    stop = Stop()
    running = Running(config, stop)
    until(lambda: len(records(config)) > 10)
    stop.signal_name = "SIGINT"
    summary, watch = running.result()
    assert summary.interrupted == "SIGINT"
    assert 10 < len(records(config)) < NUM
    assert len({one["id"] for one in records(config)}) == len(records(config))
    assert any("the same command goes on from here" in line for line in watch.lines)


# --- without a cluster ----------------------------------------------------------------------------


class FakeRay:
    def __init__(self, *nodes):
        self._nodes = [{"Alive": True, "Resources": node} for node in nodes]
        self._nodes.append({"Alive": False, "Resources": {"CPU": 1000.0, "GPU": 1000.0}})

    def nodes(self):
        return self._nodes


BIG, SMALL, CPUS = {"CPU": 64.0, "GPU": 8.0}, {"CPU": 16.0, "GPU": 1.0}, {"CPU": 10.0}


@pytest.mark.parametrize(
    ("nodes", "options", "device", "expected"),
    [
        ([BIG, SMALL], {}, "auto", (1, 8, 9)),
        ([BIG, SMALL], {}, "cpu", (0, 4, 20)),
        ([CPUS, CPUS], {}, "auto", (0, 4, 4)),
        ([{"CPU": 2.0}], {}, "auto", (0, 2, 1)),
        ([BIG], {"num_gpus": 0.5}, "cuda", (0.5, 4, 16)),
        ([BIG], {"num_gpus": 2, "num_cpus": 4}, "cuda", (2, 4, 4)),
    ],
)
def test_what_a_task_takes(nodes, options, device, expected):
    config = Config(engine=engine.Options(**options), device=device)
    found = engine._resources(config, FakeRay(*nodes))
    assert (found.num_gpus, found.num_cpus, found.places) == expected


def test_more_than_any_node_has_is_refused_with_what_they_have():
    config = Config(engine=engine.Options(num_gpus=4))
    with pytest.raises(ValueError, match="no node of the cluster has as much; they have 2 x 16"):
        engine._resources(config, FakeRay(SMALL, SMALL))


def test_a_node_says_what_is_wrong_with_it(tmp_path):
    says, missing = cluster_of.node_says, str(tmp_path / "no")
    assert "does not see the store" in says(str(tmp_path / "store" / ".extract" / "token"), "")
    with cluster_of.token_in(tmp_path / "store") as token:
        assert says(str(token), "") == ""
        assert says(str(token), str(tmp_path)) == ""
        assert says(str(token), missing) == f"does not see the recordings: {missing}"
        token.write_text("9.9")
        assert says(str(token), "") == f"has extract {__version__}, and this process 9.9"
    assert list((tmp_path / "store" / ".extract").iterdir()) == []


def test_paths_become_absolute_but_for_urls_and_hubs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    config = Config(
        folder.Options(path="in"),
        ModelConfig("hub", "owner/model"),
        store=gpt_sovits.Options("out"),
    )
    found = engine._with_absolute_paths(config)
    assert (found.dataset.path, found.store.dir) == (f"{tmp_path}/in", f"{tmp_path}/out")
    assert found.model.path == "owner/model"
    other = replace(config, dataset=folder.Options(path="s3://bucket/in"))
    assert engine._with_absolute_paths(other).dataset.path == "s3://bucket/in"


def test_that_there_is_no_cluster_is_said(monkeypatch):
    def init(**_options):
        raise ConnectionError("nothing answers")

    monkeypatch.setattr(ray, "init", init)
    config = Config(engine=engine.Options(address="auto"))
    with pytest.raises(ValueError, match=r"engine.address=auto: no cluster there: nothing answers"):
        engine.shards(config)
