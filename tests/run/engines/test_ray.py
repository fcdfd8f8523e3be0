"""What `engine=ray` decides. `tests/whole/test_protocol.py` runs it on a cluster."""

import os
import signal
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest

from extract import __version__
from extract.config import Config, ModelConfig
from extract.manifest.sources import folder
from extract.run import board
from extract.run import cluster as cluster_of
from extract.run.engines import ray as engine
from extract.run.signals import Stop
from extract.shard import Shard
from extract.store.layouts import gpt_sovits

ray = pytest.importorskip("ray", reason="no wheel of it for this Python")


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


def test_signals_keep_the_handlers_that_they_had_before_ray(monkeypatch):
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        mine = signal.getsignal(signal.SIGTERM)
        monkeypatch.setattr(
            ray, "init", lambda **_options: signal.signal(signal.SIGTERM, signal.SIG_DFL)
        )
        cluster_of.connect("auto")
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_task_waits_for_the_board_in_another_thread_than_its_own(monkeypatch):
    """Ray takes the cores of a task whose main thread waits: others would begin on them."""
    calls = []

    def method(name):
        return SimpleNamespace(remote=lambda *_: calls.append((name, threading.current_thread())))

    fake = SimpleNamespace(**{name: method(name) for name in ("begin", "report", "end")})
    monkeypatch.setattr(ray, "get", lambda _reference: "SIGTERM")
    monkeypatch.setattr(board, "REPORT_S", 0.001)
    stop, told = Stop(), threading.Event()
    fake.report = SimpleNamespace(remote=lambda *_: told.set())
    with board.Reporter(fake, Shard(0, 2), stop):
        assert told.wait(60)
    assert [name for name, _thread in calls] == ["begin", "end"]
    assert threading.main_thread() not in {thread for _name, thread in calls}
    assert stop.signal_name == "SIGTERM"


def test_keepalives_are_asked_for_and_those_of_the_user_stay(monkeypatch):
    time, timeout = cluster_of.KEEPALIVE
    monkeypatch.setenv(time, "7")
    monkeypatch.setenv(timeout, "")  # so that it is as before after the test
    monkeypatch.delenv(timeout)
    monkeypatch.setattr(ray, "init", lambda **_options: None)
    cluster_of.connect("auto")
    assert (os.environ[time], os.environ[timeout]) == ("7", "60000")


def test_keepalives_are_no_more_frequent_than_the_servers_of_a_cluster_bear():
    """More than one a minute, and they end the connection: Ray's `grpc_server.cc`."""
    assert int(cluster_of.KEEPALIVE["RAY_grpc_client_keepalive_time_ms"]) > 60_000
