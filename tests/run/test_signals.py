"""Signals before a run listens: the imports take seconds."""

import os
import signal
import subprocess
import sys
import time

import pytest

from support import posix

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

# Stands for a library whose import takes long: says so, and goes on importing.
SLOW = """
import pathlib, time
pathlib.Path("importing").touch()
while True:
    time.sleep(0.01)
"""


@pytest.mark.parametrize("library", ["hydra", "torch"])
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), *posix.SIGUSR])
def test_a_signal_during_the_imports_ends_the_run_as_one_later_does(tmp_path, library, name, code):
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / f"{library}.py").write_text(SLOW)
    path = os.pathsep.join(filter(None, [f"{tmp_path}/slow", os.environ.get("PYTHONPATH")]))
    command, environment = [sys.executable, "-m", "extract", "dataset=demo"], os.environ.copy()
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": path},
        stderr=subprocess.PIPE,
    )
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "importing").exists():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(getattr(signal, name))
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, said) == (code, b"")
    assert {path.name for path in tmp_path.iterdir()} == {"slow", "importing"}
