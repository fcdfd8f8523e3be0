"""Starts the command in a process of its own, which a test may kill."""

import multiprocessing
import os
import sys
from pathlib import Path

import pytest
import torch

from extract.app import main

TINY = ["model=tiny_random", "loader.num_workers=2", "device=cpu"]


def start(argv: list[str], cwd: Path, log: Path | None = None) -> multiprocessing.Process:
    """The command in a process of its own, forked with everything imported: it starts at once.

    What it says goes to `log`.
    """
    import extract.run.job
    from extract.run.build import _encoder

    assert extract.run.job
    _encoder(
        "tiny_random", None, 0, "cpu", "auto", (None, "auto", "transformers"), False
    )  # imported and built, for every child

    def child() -> None:
        os.setsid()
        os.chdir(cwd)
        sys.stdout = sys.stderr = open(log or os.devnull, "a", buffering=1)  # noqa: SIM115
        torch.set_num_threads(1)
        os._exit(main(argv))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    return process


def extract_into(store: Path, recordings: Path, *options: str) -> int:
    """Extracts a folder in this process, with the tiny model; for fixtures of a whole session."""
    where = ["dataset=folder", f"dataset.path={recordings}", f"store.dir={store}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["extract"])
        return main([*where, *TINY, "loader.num_workers=0", "store.fsync=false", *options])
