"""What the jobs of a sweep share.

Nothing here imports torch: the command line makes a `Sweep` before it knows that there is work.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Sweep:
    """What the jobs of a sweep share; `run_shard` is given it. Picklable."""

    # Stores of the jobs that ended before, in the order of the jobs: features are taken from them
    stores: list[Path] = field(default_factory=list)
    # Of each kind of features, by its identity: how far apart the gains were of the proof that
    # another gain does not change them (`extract.run.proof`); None where it does
    proofs: dict[str, float | None] = field(default_factory=dict)

    def ended(self, directories: Iterable[Path]) -> None:
        """Adds the stores of a job, each once, which the next jobs may take features from."""
        self.stores += dict.fromkeys(directories)
