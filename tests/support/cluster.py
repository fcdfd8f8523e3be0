"""What tests of engines run on a cluster's nodes: found there by its name."""

import time

from extract.run.job import run_shard
from extract.store.layouts import gpt_sovits

SLOW_S = 0.05  # of each utterance: long enough for something to happen meanwhile


def slow_shard(config, shard, watch, stop):
    """`run_shard` with a slow disk."""
    put = gpt_sovits.GptSovits.put

    def slow(self, item):
        time.sleep(SLOW_S)
        return put(self, item)

    gpt_sovits.GptSovits.put = slow
    return run_shard(config, shard, watch, stop)
