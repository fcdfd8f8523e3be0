"""A sweep that several files of tests look at, run once."""

from pathlib import Path

import pytest

from support.sweeps import over_levels, write_recordings


@pytest.fixture(scope="session")
def level_sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the stores `ALPHA-MAXX`. Tests that change it copy it first."""
    folder = tmp_path_factory.mktemp("sweep")
    recordings = write_recordings(folder / "in")
    assert over_levels(recordings, folder / "out") == 1  # one recording fails
    return folder / "out"
