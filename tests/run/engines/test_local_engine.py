"""Shards one after the other, in this process."""

from pathlib import Path

import pytest

from extract import exits
from extract.run.engines import local
from extract.run.observer import Silent
from extract.run.signals import Stop
from extract.run.summary import Summary
from extract.shard import Shard
from support.configs import tiny_config


@pytest.fixture
def config(tmp_path):
    return tiny_config(tmp_path / "in", tmp_path / "out")


def test_it_runs_the_shard_that_the_options_name(config):
    config.shard = Shard(2, 5)
    assert local.shards(config) == [Shard(2, 5)]
    assert local.Options().kind == config.engine.kind == "local"


def test_shards_are_run_in_order_with_what_was_given(config):
    calls = []

    def unit(*given):
        calls.append(given)
        return Summary(Path(str(given[1])))

    watch, stop = Silent(), Stop()
    summaries = local.run(config, Shard(0, 3).all(), unit, watch, stop)
    assert [str(summary.directory) for summary in summaries] == ["0-of-3", "1-of-3", "2-of-3"]
    assert calls == [(config, shard, watch, stop) for shard in Shard(0, 3).all()]


def test_after_a_stop_no_other_shard_is_begun(config, tmp_path):
    begun = []

    def unit(_config, shard, _watch, stop):
        begun.append(shard.index)
        stop.signal_name = "SIGINT" if shard.index == 1 else None
        return Summary(tmp_path)

    summaries = local.run(config, Shard(0, 4).all(), unit, Silent(), Stop())
    assert begun == [0, 1]
    assert [(one.interrupted, one.left) for one in summaries[1:]] == [
        ("", 0),
        ("SIGINT", None),
        ("SIGINT", None),
    ]
    assert exits.of_run(summaries) == exits.INTERRUPTED


def test_a_shard_that_is_not_begun_says_the_url_of_its_store_without_its_secrets(config):
    config.store.dir = "s3://someone:secret@bucket/features"
    stop = Stop()

    def unit(*_):
        stop.signal_name = "SIGTERM"
        return Summary(Path("out"))

    _ended, not_begun = local.run(config, Shard(0, 2).all(), unit, Silent(), stop)
    assert not_begun.place == "s3://***@bucket/features"
    assert not not_begun.directory.exists()


def test_a_stop_before_the_first_shard_is_left_to_the_unit(config, tmp_path):
    stop = Stop()
    stop.signal_name = "SIGTERM"
    counted = Summary(tmp_path, interrupted="SIGTERM", left=24)
    assert local.run(config, [Shard()], lambda *_: counted, Silent(), stop) == [counted]
