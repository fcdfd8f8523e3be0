"""Measures the share of padding in planned batches: `python -m benchmarks.padding`.

Durations are log-normal as in speech corpora, with a median of 5 s, cut to 1 to 20 s.
"""

import numpy as np

from benchmarks.common import Row, run_alone
from extract.data.plan import padding_share, plan_batches
from extract.run.auto import CPU_BATCH_SECONDS, MAX_BATCH_SECONDS


def clip_durations_s(count: int, low: float = 1.0, high: float = 20.0, seed: int = 0) -> np.ndarray:
    """Random durations in seconds, (count,)."""
    drawn = np.random.default_rng(seed).lognormal(np.log(5), 0.6, size=4 * count)
    return drawn[(drawn >= low) & (drawn <= high)][:count]


def measure() -> list[Row]:
    """Rows for a small and a large corpus, in batches of a CPU and of a GPU."""
    rows = []
    for count in (1000, 10_000):
        durations_s = clip_durations_s(count)
        for device, budget_s in (("CPU", CPU_BATCH_SECONDS), ("GPU", MAX_BATCH_SECONDS)):
            share = 100 * padding_share(durations_s, plan_batches(durations_s, budget_s))
            what = f"padding, {count:,} clips of 1 to 20 s, {device} batches of {budget_s:g} s"
            rows.append(Row.at_most(what, share, 5, " %"))
    return rows


if __name__ == "__main__":
    run_alone(__doc__, measure)
