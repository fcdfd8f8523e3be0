"""Starts the command in a process of its own, which a test may kill."""

import functools
import io
import multiprocessing
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch

from extract.app import main

TINY = ["model=tiny_random", "loader.num_workers=2", "device=cpu"]


def start(argv: list[str], cwd: Path, log: Path | None = None) -> multiprocessing.Process:
    """The command in a process of its own, forked with everything imported: it starts at once.

    What it says goes to `log`.
    """
    from extract.run.build import _encoder

    _parse_once()
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


@functools.cache
def _parse_once() -> None:
    """Imports what a run does, Hydra's plugins too, and fills the tables of Hydra's parser.

    Each child would need a third of a second for it.
    """
    import extract.run.job
    import extract.run.terminal

    assert extract.run.job
    assert extract.run.terminal
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()):
        patch.setattr(sys, "argv", ["extract"])
        patch.setenv("HYDRA_FULL_ERROR", "0")  # `main` changes it
        assert main(["dataset=demo", *TINY, "--cfg", "job"]) == 0


def extract_into(store: Path, recordings: Path, *options: str) -> int:
    """Extracts a folder in this process, with the tiny model; for fixtures of a whole session."""
    where = ["dataset=folder", f"dataset.path={recordings}", f"store.dir={store}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["extract"])
        return main([*where, *TINY, "loader.num_workers=0", "store.fsync=false", *options])
