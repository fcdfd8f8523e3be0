"""Two nodes of a real Slurm on this machine: an array, a killed job, a job that is requeued.

Run by `pytest -m slurm --slurm` as root, with Debian's slurmctld, slurmd, slurm-client and munge.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from support.recordings import write_wav

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]

NUM_RECORDINGS = 400
CONF = """
ClusterName=toy
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
ProctrackType=proctrack/pgid
TaskPlugin=task/none
StateSaveLocation={dir}/state
SlurmdSpoolDir={dir}/spool.%n
SlurmctldPidFile={dir}/ctld.pid
SlurmdPidFile={dir}/d.%n.pid
SlurmctldLogFile={dir}/ctld.log
SlurmdLogFile={dir}/d.%n.log
SlurmctldPort=17830
SlurmdTimeout=10
KillWait=30
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
NodeName=n[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[17831-17832] CPUs=1
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
SLOW = """
import time
from extract.store.layouts import gpt_sovits
put = gpt_sovits.{name}.put
def slow(self, item):
    time.sleep(0.02)
    return put(self, item)
gpt_sovits.{name}.put = slow
import runpy
runpy.run_module("extract", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """Starts the cluster; yields the environment of its commands."""
    folder = tmp_path_factory.mktemp("slurm")
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(host=socket.gethostname(), dir=folder))
    for name in ("state", "spool.n1", "spool.n2"):
        (folder / name).mkdir()
    munge = None
    if subprocess.run(["munge", "-n"], capture_output=True).returncode:
        Path("/run/munge").mkdir(exist_ok=True)
        shutil.chown("/run/munge", "munge", "munge")
        munge = subprocess.Popen(["runuser", "-u", "munge", "--", "munged", "--foreground"])
    daemons = [["slurmctld", "-D", "-c", "-f", conf]]
    daemons += [["slurmd", "-D", "-N", node, "-f", conf] for node in ("n1", "n2")]
    started = [subprocess.Popen([*map(str, words)], stderr=subprocess.DEVNULL) for words in daemons]
    environment = {**os.environ, "SLURM_CONF": str(conf)}
    until(lambda: output(environment, "sinfo", "-h", "-o", "%T %D").strip() == "idle 2")
    yield environment
    for process in [*started[::-1], *([munge] if munge else [])]:
        process.terminate()
        process.wait(60)


def output(environment, *words):
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60).stdout


def until(is_so, seconds=120.0):
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)


class Cluster:
    """Submits arrays of four parts that extract one folder."""

    def __init__(self, environment, folder):
        self.environment, self.folder = environment, folder
        self.store = folder / "store"
        self.script = folder / "job.sh"
        for index in range(NUM_RECORDINGS):
            write_wav(folder / "in" / f"{index}.wav", 0.2 + index % 7 / 10, index)
        (folder / "slow.py").write_text(SLOW.format(name="GptSovits"))
        root = Path(__file__).parents[2]
        self.script.write_text(
            f"#!/bin/bash\nexport PYTHONPATH={root} OMP_NUM_THREADS=1\n"
            f"exec {sys.executable} {folder}/slow.py dataset=folder dataset.path={folder}/in "
            f"store.dir={self.store} model=tiny_random device=cpu loader.num_workers=1 "
            "loader.batch_seconds=5 report=none\n"
        )

    def submit(self, *options):
        words = ["sbatch", "--parsable", "--requeue", f"--chdir={self.folder}", *options]
        return output(self.environment, *words, str(self.script)).strip()

    def wait(self, job):
        until(lambda: not output(self.environment, "squeue", "-h", "-j", job), 300)

    def records(self):
        ledgers = self.store.glob("ledger*.jsonl")
        return [json.loads(line) for path in ledgers for line in path.read_text().splitlines()]

    def processes(self):
        """Main processes of the runs at work: those whose parent is none of them."""
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                words = (path / "cmdline").read_bytes().split(b"\0")
                parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if str(self.folder / "slow.py").encode() in words:
                found[int(path.name)] = parent
        return [pid for pid, parent in found.items() if parent not in found]

    def check_whole(self):
        records = self.records()
        assert Counter(record["status"] for record in records) == {"saved": NUM_RECORDINGS}
        assert len({record["id"] for record in records}) == NUM_RECORDINGS
        assert len(list((self.store / "4-cnhubert").iterdir())) == NUM_RECORDINGS


@pytest.fixture
def cluster(slurm, tmp_path):
    return Cluster(slurm, tmp_path)


def test_an_array_is_one_job(cluster):
    cluster.wait(cluster.submit("--array=0-3"))
    cluster.check_whole()
    assert len(list(cluster.store.glob("ledger.*-of-4.jsonl"))) == 4


def test_the_same_array_goes_on_where_jobs_were_killed(cluster):
    job = cluster.submit("--array=0-3")
    for killed in range(2):
        until(lambda killed=killed: len(cluster.records()) > 20 * (killed + 1))
        os.kill(cluster.processes()[0], signal.SIGKILL)
    cluster.wait(job)
    assert 20 < len(cluster.records()) < NUM_RECORDINGS
    cluster.wait(cluster.submit("--array=0-3"))
    cluster.check_whole()


def test_a_requeued_job_goes_on_where_it_stopped(cluster):
    job = cluster.submit("--array=0-3")
    until(lambda: len(cluster.records()) > 20)
    output(cluster.environment, "scontrol", "requeue", f"{job}_0")
    cluster.wait(job)
    cluster.check_whole()
    timings = (cluster.store / ".extract" / "timings.0-of-4.jsonl").read_text()
    assert timings.count('"began"') == 2
