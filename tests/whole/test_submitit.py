"""Hydra's submitit launcher: jobs of its local executor, and of a Slurm whose commands are scripts.

`tests/whole/test_slurm.py` has a real Slurm, without the accounting that submitit needs.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
import submitit
import yaml

from extract import app, exits
from extract.commands import audit as audit_command
from extract.jobs import Ended, Jobs, Sent, sent
from extract.report import child
from extract.run.summary import Summary
from support.command import TINY
from support.packages import install
from support.recordings import write_wav
from support.stores import audit, ids_of, ledger

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="submitit is for POSIX")

ROOT = Path(__file__).parents[2]
LOCAL, SLURM = "hydra/launcher=submitit_local", "hydra/launcher=submitit_slurm"
HERE = [*TINY, "loader.num_workers=0", "store.fsync=false"]
# Of a job of submitit's array, and of torchrun: without the options they would be ambiguous
VARIABLES = {
    "SLURM_ARRAY_TASK_ID": "1",
    "SLURM_ARRAY_TASK_COUNT": "2",
    "SLURM_ARRAY_TASK_MIN": "0",
    "SLURM_ARRAY_TASK_MAX": "1",
    "RANK": "5",
    "WORLD_SIZE": "8",
}


def texts(folder: Path, name: str) -> str:
    """What the files of all jobs hold that have this name's ending."""
    return "".join(path.read_text() for path in sorted(folder.glob(f".submitit/*/*{name}")))


def test_shards_as_jobs_of_the_local_executor_are_one_store_and_one_table(
    command, recordings, tmp_path, monkeypatch, capfd
):
    """Beside variables of launchers that contradict the options, and each other."""
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    (recordings / "bad.wav").write_bytes(b"no recording")
    monkeypatch.setenv("COLUMNS", "70")  # no room for the store beside the figures
    pages = []
    monkeypatch.setattr(child, "make", lambda stores, stop, **more: pages.append(stores) or [])
    where = ["dataset=folder", f"dataset.path={recordings}", "store.dir=out", "report=html"]
    shards = ["shard.count=3", "shard.index=range(0,3)"]
    assert command("-m", LOCAL, *where, *HERE, *shards) == exits.SOME_FAILED.code

    store, said = tmp_path / "out", capfd.readouterr().err
    audit(store, ids_of(recordings))
    assert audit_command.main([str(store)]) == 0
    assert {path.name for path in store.glob("ledger*")} == {
        f"ledger.{index}-of-3.jsonl" for index in range(3)
    }
    [failed] = [record["id"] for record in ledger(store) if record["status"] == "failed"]
    rows = re.findall(r"^shard\.index=(\d) +(\d+) .* (\d) (?:some failed|done) *$", said, re.M)
    assert [index for index, _saved, _code in rows] == ["0", "1", "2"]
    assert (sum(int(saved) for _index, saved, _code in rows), failed) == (24, "bad.wav")
    assert "output: out\n" in said
    assert "logs: outputs/.submitit\n" in said
    [(index, log)] = re.findall(r"^shard\.index=(\d): 1 some failed: (.*)$", said, re.M)
    assert "failed: bad.wav: undecodable" in Path(log).read_text()
    assert (index, "1") in [(row[0], row[2]) for row in rows]
    assert pages == [[Path("out")] * 3]  # once, by the command
    logs = texts(tmp_path / "outputs", "_log.err")
    assert "report" not in logs
    assert "stay in memory" not in logs  # nothing is shared with jobs elsewhere
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out", "outputs"}
    assert {path.name for path in (tmp_path / "outputs").iterdir()} == {
        "multirun.yaml",
        ".submitit",
    }


# Recordings of a folder. Once all headers are read, which the file of durations says, a worker
# stops at the ninth recording that it opens until the file `go` exists.
GATED = """
import time
from dataclasses import dataclass
from pathlib import Path
from extract.manifest.sources import folder

read, source = folder.read, folder.source

@dataclass
class Options(folder.Options):
    pass

@dataclass
class Gate:
    go: Path
    opened: int = 0

    def open(self, path):
        self.opened += Path("out", ".extract", "durations-0-of-1").exists()
        while self.opened > 8 and not self.go.exists():
            time.sleep(0.01)
        return open(path, "rb")

    def stamp(self, path):
        found = Path(path).stat()
        return found.st_size, found.st_mtime_ns

def opener(options):
    return Gate(Path(options.path).parent / "go")
"""


@pytest.fixture
def gated(tmp_path):
    """The environment of processes in which `dataset=gated` is installed."""
    packages = tmp_path / "packages"
    packages.mkdir()
    return install(packages, "extract.sources", "gated", "gated_source", GATED)


def test_a_preempted_job_ends_in_order_and_goes_on_when_it_is_started_again(
    recordings, tmp_path, gated
):
    """By the signal that submitit sends, to all processes of the job, as Slurm does."""
    where = ["dataset=gated", f"dataset.path={recordings}", "store.dir=out"]
    small = ["loader.num_workers=1", "loader.batch_seconds=2", "store.fsync=false"]
    words = [sys.executable, "-m", "extract", "-m", LOCAL, *where, *TINY, *small]
    command = subprocess.Popen(words, cwd=tmp_path, env=gated, stderr=subprocess.PIPE, text=True)
    jobs, store = tmp_path / "outputs", tmp_path / "out"

    def until(is_so):
        end = time.monotonic() + 200
        while not is_so():
            assert command.poll() is None, command.communicate()
            assert time.monotonic() < end, texts(jobs, "_log.err")
            time.sleep(0.01)

    until(lambda: len(ledger(store)) >= 4)
    [controller] = [path.name for path in jobs.glob(".submitit/*[0-9]")]
    [task] = psutil.Process(int(controller)).children()
    for process in [task, *task.children(recursive=True)]:
        process.send_signal(signal.SIGUSR2)
    until(lambda: "Requeued job" in texts(jobs, "_log.out"))
    saved = [record["id"] for record in ledger(store)]
    (tmp_path / "go").touch()
    _, said = command.communicate(timeout=200)
    assert command.returncode == 0, said

    log = texts(jobs, "_log.err")
    assert log.count("SIGUSR2: finishing what is under way") == 1
    left = 24 - len(saved)
    assert 0 < left < 24
    assert f"interrupted with {left} recordings left" in log
    assert f"{left} of 24 recordings to do" in log
    assert "Traceback" not in log
    assert "worker died" not in log
    assert [record["id"] for record in ledger(store)][: len(saved)] == saved
    assert Counter(record["id"] for record in ledger(store)) == Counter(ids_of(recordings))
    audit(store, ids_of(recordings))
    assert audit_command.main([str(store)]) == 0


@pytest.fixture
def codes(monkeypatch):
    """Lets this process pass for one of submitit's; the exit codes that it would end with."""
    codes = []
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    monkeypatch.setenv("SUBMITIT_LOCAL_JOB_ID", "7")
    monkeypatch.setenv("SUBMITIT_FOLDER", "/nowhere/%j")
    monkeypatch.setattr("atexit.register", lambda exit_, code: codes.append(code))
    return codes


@pytest.fixture
def handled():
    """What submitit's handler of SIGUSR2 was called with, and then did: `handled.does`."""

    def handle(signum, frame):
        handled.append(signal.Signals(signum).name)
        raise handled.does

    class Handled(list[str]):
        does: BaseException = SystemExit(144)

    handled = Handled()
    before = signal.signal(signal.SIGUSR2, handle)
    yield handled
    signal.signal(signal.SIGUSR2, before)


INTERRUPTED = Ended(
    exits.TERMINATED,
    (Summary(Path("out"), interrupted="SIGTERM", left=3),),
    signals=("SIGINT", "SIGTERM", "SIGUSR2"),
)


def send(ended):
    return sent(["a=1"], lambda: ended, Ended(exits.CRASHED)).job[1]


def test_the_launchers_handler_ends_an_interrupted_job_that_it_starts_again(codes, handled):
    with pytest.raises(SystemExit, match="144"):
        send(INTERRUPTED)
    assert (handled, codes) == (["SIGUSR2"], [])


def test_a_job_that_is_not_started_again_says_why_and_that_it_is_unfinished(codes, handled, capsys):
    """A job whose time ran out more often than `max_num_timeout`."""
    handled.does = submitit.core.utils.UncompletedJobError("timed-out too many times")
    ended = send(INTERRUPTED)
    assert (ended.exit, codes) == (exits.TERMINATED, [143])
    assert capsys.readouterr().err == "timed-out too many times\n"
    assert ended.log == "/nowhere/7/7_0_log.out"  # there is no stderr


def test_a_signal_after_the_last_recording_interrupts_nothing(codes, handled):
    done = Ended(exits.TERMINATED, (Summary(Path("out")),), signals=("SIGUSR2",))
    assert (send(done).exit, handled, codes) == (exits.DONE, [], [])


def test_an_error_of_a_job_is_said_where_it_was_raised(codes, handled, capsys):
    ended = sent(["a=1"], lambda: 1 / 0, Ended(exits.CRASHED)).job[1]
    assert (ended.exit, handled, codes) == (exits.CRASHED, [], [70])
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_submitits_handler_may_end_the_process_before_there_is_work(command, monkeypatch, capfd):
    """While torch is imported, which takes seconds."""

    def importing(config, sweep):
        raise SystemExit(144)

    monkeypatch.setattr(Jobs, "is_here", False)
    monkeypatch.setattr(app, "_job", importing)
    command("-m", LOCAL.replace("submitit_local", "basic"), "dataset=demo")
    assert capfd.readouterr().err == ""


@pytest.fixture
def launched(monkeypatch):
    """Has a function of each job's overrides submit the jobs, which then need no config."""

    def launched(submit):
        def map_array(self, function, overrides, *_arguments):
            return [submit(self, at, words) for at, words in enumerate(overrides)]

        monkeypatch.setattr(submitit.core.core.Job, "_results_timeout_s", 0)
        monkeypatch.setattr(submitit.core.core.Executor, "map_array", map_array)

    return launched


def test_jobs_without_a_result_are_named_beside_the_others_and_the_command_is_unfinished(
    command, launched, capfd
):
    """A job that was killed brings back nothing. The others are awaited, also those behind it."""
    ended = Ended(exits.SOME_FAILED, [Summary(Path("out"), outcomes={("saved", ""): 7})])

    def submit(executor, at, words):
        if at in (1, 3):
            return executor.submit(Sent, (words, ended))
        return executor.submit(os._exit, 9)

    launched(submit)
    assert command("-m", LOCAL, "dataset=demo", *HERE, "seed=3,4,5,6") == exits.TERMINATED.code
    said = capfd.readouterr().err
    assert said.count("has not produced any output") == 2
    assert "waiting for 3 other jobs" in said
    assert "the same command goes on" in said
    assert "Traceback" not in said
    rows = re.findall(r"^seed=(\d) +(\d+) .* (\d+) (?:some failed|interrupted)", said, re.M)
    killed, done = ("0", "143"), ("7", "1")
    assert rows == [(str(seed), *(done if seed in (4, 6) else killed)) for seed in (3, 4, 5, 6)]
    logs = re.findall(r"^seed=(\d): 143 interrupted: (.*_log.err)$", said, re.M)
    assert [seed for seed, log in logs if Path(log).exists()] == ["3", "5"]


def test_the_wait_for_the_jobs_behind_one_without_a_result_can_be_interrupted(
    command, launched, capfd
):
    class Endless:
        def exception(self):
            raise KeyboardInterrupt

    launched(lambda executor, at, _words: Endless() if at else executor.submit(os._exit, 9))
    assert command("-m", LOCAL, "dataset=demo", *HERE, "seed=3,4") == exits.TERMINATED.code
    said = capfd.readouterr().err
    assert "jobs may still be at work; once all have ended, the same command goes on" in said
    assert "Traceback" not in said


def test_a_launcher_that_is_missing_is_named_with_its_command(command, monkeypatch, capfd):
    """Hydra says that there is no such config, and lists those that there are."""
    monkeypatch.setattr("extract.app._message", lambda error: NOT_FOUND)
    assert command("-m", "hydra/launcher=submitit_nowhere", "dataset=demo") == 2
    said = " ".join(capfd.readouterr().err.split())
    needs = "needs the package hydra_submitit_launcher, which is missing"
    assert said == f"{SLURM}: {needs}: pip install 'extract-ssl[slurm]'"


# What Hydra 1.3.8 says without the launcher
NOT_FOUND = """\
In 'hydra/config': Could not find 'hydra/launcher/submitit_slurm'

Available options in 'hydra/launcher':
	basic
Config search path:
	provider=hydra, path=pkg://hydra.conf
"""

SBATCH = """\
#!/bin/bash
cp "$1" {folder}/submitted.sh
[ -e {folder}/refuse ] && {{ echo "sbatch: error: invalid partition" >&2; exit 1; }}
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\)%.*/\\1/p' "$1")
export SLURM_ARRAY_JOB_ID=77 SLURM_ARRAY_TASK_COUNT=$((last + 1))
export SLURM_ARRAY_TASK_MIN=0 SLURM_ARRAY_TASK_MAX=$last
export SLURM_PROCID=0 SLURM_NTASKS=1 SLURM_LOCALID=0
for index in $(seq 0 $last); do
  SLURM_JOB_ID=$((77 + index)) SLURM_ARRAY_TASK_ID=$index bash "$1" >/dev/null 2>&1 &
done
echo "Submitted batch job 77"
"""
SRUN = """\
#!/bin/bash
[ "$1 $2 $4" = "--unbuffered --output --error" ] || exit 1
named() { sed "s/%A/$SLURM_ARRAY_JOB_ID/g;s/%a/$SLURM_ARRAY_TASK_ID/g;s/%t/0/" <<<"$1"; }
out=$(named "$3") err=$(named "$5")
mkdir -p "$(dirname "$out")"
export SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=1
exec "${@:6}" >"$out" 2>"$err"
"""
SACCT = "#!/bin/bash\necho 'JobID|State|NodeList'; echo '77_0|RUNNING|n1'; echo '77_1|RUNNING|n1'\n"


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A folder with `sbatch`, `srun` and `sacct` that do here what those of a cluster do there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in {
        "sbatch": SBATCH.format(folder=folder),
        "srun": SRUN,
        "sacct": SACCT,
    }.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


@pytest.fixture
def cluster(tmp_path):
    """The launcher of docs/many_machines.md: its file, and the words that choose it."""
    text = (ROOT / "docs" / "many_machines.md").read_text("utf8")
    [example] = re.findall(r"```yaml\n(# cluster/hydra/launcher/gpus.yaml\n.*?)```", text, re.S)
    file = tmp_path / "cluster" / "hydra" / "launcher" / "gpus.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(example)
    return ["--config-dir", str(tmp_path / "cluster"), "hydra/launcher=gpus"]


def test_a_sweep_on_slurm_does_each_job_whole_and_asks_for_what_the_page_says(
    command, slurm, cluster, tmp_path, capfd
):
    """submitit makes an array of the jobs, which divides no job into parts."""
    recordings = [write_wav(tmp_path / "in" / f"{index}.wav", 0.3, index) for index in range(8)]
    where = ["dataset=folder", "dataset.path=in", "store.dir=out${audio.alpha}"]
    assert command("-m", *cluster, *where, *HERE, "audio.alpha=0.3,0.7") == 0
    for alpha in (0.3, 0.7):
        assert len(ledger(tmp_path / f"out{alpha}")) == len(recordings)
    script = set((slurm / "submitted.sh").read_text().splitlines())
    assert {
        "#SBATCH --array=0-1%2",
        "#SBATCH --signal=USR2@120",
        "#SBATCH --requeue",
        "#SBATCH --open-mode=append",
        "#SBATCH --partition=gpu",
        "#SBATCH --gpus-per-node=1",
        "#SBATCH --cpus-per-task=8",
        "#SBATCH --mem=32GB",
        "#SBATCH --time=240",
    } <= script
    assert "logs: outputs/.submitit\n" in capfd.readouterr().err


def test_what_sbatch_refuses_did_not_start(command, slurm, cluster, capfd):
    (slurm / "refuse").touch()
    assert command("-m", *cluster, "dataset=demo", *HERE, "audio.alpha=0.3,0.7") == 2
    said = capfd.readouterr().err
    assert "invalid partition" in said
    assert "Traceback" not in said


def test_options_of_the_launcher_are_checked_and_shown(command, capsys):
    options = ["hydra.launcher.partition=gpu", "hydra.launcher.timeout_min=240"]
    assert command(SLURM, "dataset=demo", *options, "--cfg", "hydra") == 0
    launcher = yaml.safe_load(capsys.readouterr().out)["hydra"]["launcher"]
    assert (launcher["partition"], launcher["timeout_min"]) == ("gpu", 240)
    assert command("-m", SLURM, "dataset=demo", "hydra.launcher.partitions=gpu") == 2
