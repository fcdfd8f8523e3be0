"""How often each fault was tried under each engine, what it cost, and what that proves."""

import random
from collections import Counter, defaultdict
from dataclasses import dataclass


@dataclass
class Trial:
    """One trial of a fault; a test counts in it what became of it."""

    fault: str
    engine: str
    seed: int
    faults: int = 0  # how often the fault was injected
    lost: int = 0  # utterances without a line, or without their files
    again: int = 0  # encoded more than once

    def add(self, faults: int) -> int:
        """Counts faults; returns how many there are now."""
        self.faults += faults
        return self.faults

    def rng(self) -> random.Random:
        """The same moments and victims for the same seed, as far as a machine repeats them."""
        return random.Random(f"{self.fault} {self.seed}")


_tried: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
_most: Counter[tuple[str, str]] = Counter()


def count(trial: dict, *, failed: bool) -> None:
    """Adds a trial, as a dictionary, to the table."""
    key = trial["fault"], trial["engine"]
    found = {"n": trial["faults"], "lost": trial["lost"], "failed": int(failed)}
    _tried[key].update(found)
    _most[key] = max(_most[key], trial["again"])


def table() -> list[str]:
    """The lines of a table: with no loss in n trials, 3/n bounds the loss a fault, at 95 %."""
    lines = [
        "| fault | engine | n | lost | bound 3/n | encoded again, most |",
        "|---|---|---|---|---|---|",
    ]
    for (fault, engine), counts in sorted(_tried.items()):
        n, lost = counts["n"], counts["lost"]
        bound = f"{min(1, 3 / n):.2f}" if n and not lost and not counts["failed"] else ""
        failed = f" ({counts['failed']} trials failed)" if counts["failed"] else ""
        lines.append(
            f"| {fault} | {engine} | {n} | {lost}{failed} | {bound} | {_most[fault, engine]} |"
        )
    return lines
