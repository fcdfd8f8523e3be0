"""One fault protocol under each engine: the same tests, and after each the same checks.

I1 every id once; I2 every saved one readable, finite, of the right shape; I3 nothing unreadable;
I4 no stray file; I5 equal to the run without a fault; I6 the exit code says how it ended; I7 only
what was in flight is done again; I8 it ends. `--trials N` repeats each fault at other moments and
prints a table. `--netns` puts each of Ray's nodes into a network of its own.
"""

import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from extract.commands import audit as audit_command
from extract.run.cluster import KEEPALIVE
from support import readers
from support.cluster import Nodes, Unit
from support.command import TINY
from support.netns import FIRST, NAMESPACE_ENVIRONMENT, NamespaceNodes
from support.placed import Commands, Job, Local, OnRay
from support.recordings import write_wav
from support.served import Served
from support.stores import audit, contents, files_of, ledger
from support.trials import Trial

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="Ray's processes are found in /proc"),
    pytest.mark.timeout(280),
]

NUM_GOOD = 60
BATCH = 3  # utterances, in each batch of good recordings: three of the longest are 1.25 s
OPTIONS = [*TINY, "loader.num_workers=1", "loader.batch_seconds=1.4", "store.num_writers=1"]
# Of a task that is killed: two batches are with the encoder, one is being saved, and one more may
# have been left half saved by an earlier death: it is encoded whole, for the same bytes.
IN_FLIGHT = 4 * BATCH
MAX_CYCLES = 100
BAD = {
    "empty.wav": "empty",
    "text.wav": "undecodable",
    "header.wav": "undecodable",
    "silent.wav": "silent",
    "short.wav": "too_short",
    "loud.wav": "peak_above_gate",
    "holed.wav": "non_finite_audio",
    "nowhere.wav": "missing",
    "nan.wav": "non_finite_features",  # by `Unit`
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """Good recordings and one of each bad kind."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(NUM_GOOD):
        write_wav(folder / f"{number:02}.wav", 0.36 + number % 12 / 200, number)
    rate, tone = 16_000, np.sin(np.arange(16_000) / 20).astype(np.float32)
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("no recording\n" * 100)
    (folder / "header.wav").write_bytes((folder / "00.wav").read_bytes()[:30])
    (folder / "nowhere.wav").symlink_to(folder / "nothing")
    holed = np.where(np.arange(16_000) == 5, np.nan, tone)
    made = {"silent": 0 * tone, "short": tone[:200], "loud": 3 * tone, "holed": holed, "nan": tone}
    for name, samples in made.items():
        soundfile.write(folder / f"{name}.wav", samples[:6000], rate, subtype="FLOAT")
    return folder


def ids(clips: Path) -> set[str]:
    return {path.name for path in clips.iterdir()}


@pytest.fixture(scope="module")
def nodes(request) -> Iterator[Served]:
    """A cluster of Ray."""
    pytest.importorskip("ray", reason="no wheel of it for this Python")
    in_namespaces = request.config.getoption("--netns")
    with pytest.MonkeyPatch.context() as environment:
        for name, value in (NAMESPACE_ENVIRONMENT if in_namespaces else {}).items():
            environment.setenv(name, value)
        served = Served(NamespaceNodes if in_namespaces else Nodes)
        yield served
        served.stop()


@pytest.fixture(scope="module")
def commands(request) -> Iterator[Served]:
    """What starts commands: in the network of the cluster's head."""
    if in_namespace := request.config.getoption("--netns"):
        request.getfixturevalue("nodes")
    served = Served(Commands, FIRST if in_namespace else None)
    yield served
    served.stop()


@pytest.fixture(scope="module")
def local(commands) -> Local:
    return Local(commands)


@pytest.fixture(scope="module")
def on_ray(commands, nodes) -> OnRay:
    return OnRay(commands, nodes)


@pytest.fixture(params=["local", "ray"], scope="module")
def engine(request) -> Local | OnRay:
    return request.getfixturevalue({"local": "local", "ray": "on_ray"}[request.param])


@pytest.fixture(scope="module")
def options(clips) -> list[str]:
    return ["dataset=folder", f"dataset.path={clips}", "store.fsync=false", *OPTIONS]


@pytest.fixture(scope="module")
def whole(local, options, tmp_path_factory) -> Path:
    """The store of a run without a fault."""
    job = Job(local, tmp_path_factory.mktemp("whole") / "store", options)
    job.start(unit=Unit(slow_s=0))
    assert job.finish() == [1, 1]
    return job.store


@pytest.fixture
def job(engine, options, tmp_path) -> Iterator[Job]:
    job = Job(engine, tmp_path / "store", options)
    yield job
    with suppress(FileNotFoundError):
        print(job.log.read_text())  # shown if the test failed


@pytest.fixture
def rng(trial) -> random.Random:
    return trial.rng()


@pytest.fixture
def checked(job, whole, clips, trial) -> Callable[..., None]:
    """Checks the job's store, and that its commands ended as they should: some failed."""

    def checked(*, bits: bool = True) -> None:
        codes = job.finish()
        check(job, whole, clips, trial, bits=bits)
        assert set(codes) - {-signal.SIGKILL} == {1}

    return checked


@pytest.fixture
def trial(request, engine, trial_seed) -> Trial:
    """What is counted of this test; some run on Ray with --trials only, since CI has minutes."""
    marker = request.node.get_closest_marker("trial")
    if engine.name == marker.kwargs.get("seldom") and not request.config.getoption("--trials"):
        pytest.skip(f"on {engine.name} only with --trials")
    trial = Trial(marker.args[0], engine.name, trial_seed)
    request.node.user_properties.append(("trial", vars(trial)))
    return trial


def check(job: Job, whole: Path, clips: Path, trial: Trial, *, bits: bool = True) -> None:
    """What must hold after any fault; counts it in the trial."""
    expected, found = outcomes(whole), outcomes(job.store)
    files = files_of(job.store)
    trial.lost = sum(
        found.get(id_) != outcome or (outcome == "saved" and f"4-cnhubert/{id_}.pt" not in files)
        for id_, outcome in expected.items()
    )
    again = {id_: number - 1 for id_, number in job.forwards().items() if id_ not in BAD}
    trial.again = sum(again.values())
    assert trial.lost == 0
    assert trial.again <= job.num_killed * IN_FLIGHT
    audit(job.store, ids(clips))
    assert_audited(job.store, ids(clips))
    assert found == expected == outcome_of_each(clips)
    if bits:
        assert contents(job.store) == contents(whole)
    else:
        torch.testing.assert_close(readers.read(job.store), readers.read(whole), atol=1e-5, rtol=0)


def assert_audited(store: Path, ids: set[str]) -> None:
    """`extract audit` finds nothing."""
    listed = store.with_name("ids.txt")
    listed.write_text("".join(f"{id_}\n" for id_ in sorted(ids)))
    assert audit_command.main([str(store), "--list", str(listed)]) == 0


def outcomes(store: Path) -> dict[str, str]:
    return {record["id"]: record["reason"] or "saved" for record in ledger(store)}


def outcome_of_each(clips: Path) -> dict[str, str]:
    return {id_: BAD.get(id_, "saved") for id_ in ids(clips)}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


DAMAGES = (cut, flip, Path.unlink)


def somewhere(job: Job, rng: random.Random) -> None:
    """Waits for a moment of the run: mostly between two saves, sometimes while it starts."""
    job.wait_for_saves(rng.choice([1, rng.randrange(1, 40), rng.randrange(1, 40)]))
    time.sleep(rng.uniform(0, 0.06))


@pytest.mark.trial("SIGKILL of a task")
def test_a_killed_task(job, trial, rng, checked):
    job.start()
    somewhere(job, rng)
    killed = job.kill_task(rng)
    trial.faults = int(killed > 0)
    checked()
    if job.engine.name == "ray":
        assert (job.num_started, job.log.read_text().count("output: ")) == (1, 1)
        if killed in job.at_work():  # Ray has its result, or may have it, once its shard has ended
            assert "started again" in job.log.read_text()


@pytest.mark.trial("SIGKILL of a task's loader workers", seldom="ray")
def test_killed_workers(job, trial, rng, checked):
    job.start()
    job.wait_for_saves(rng.randrange(1, NUM_GOOD // 2))
    job.wait_for(lambda: trial.add(job.kill_workers(rng)) or not job.tasks())
    checked(bits=False)  # a recording whose worker died is encoded apart


@pytest.mark.trial("a node removed without grace")
def test_a_lost_node(request, job, trial, rng, checked):
    if request.config.getoption("--netns"):  # there it takes seconds to begin, and a minute to end
        job.hold.touch()
    job.start()
    somewhere(job, rng) if not job.hold.exists() else job.wait_for_saves(job.num_shards)
    trial.faults = job.lose_node(rng)
    job.hold.unlink(missing_ok=True)
    checked()
    if job.engine.name == "ray":
        assert job.num_started == 1


@pytest.mark.trial("a node added")
def test_an_added_node(job, trial, checked):
    job.hold.touch()
    add_the_others = job.start_on_one_node()
    job.wait_for_saves(1)
    add_the_others()
    trial.faults = 1
    job.wait_for(lambda: len(job.places()) > 1)
    job.hold.unlink()
    checked()


@pytest.mark.trial("SIGKILL of the command, the same command again")
def test_killed_commands(job, trial, rng, checked):
    job.start()
    somewhere(job, rng)
    trial.faults = job.kill_commands()
    checked()


@pytest.mark.trial("SIGKILL of the command again and again, until it ends", seldom="ray")
def test_kill_and_resume_cycles(job, trial, rng, checked):
    for _ in range(MAX_CYCLES):
        job.start()
        job.wait_for_saves(rng.randrange(5, 2 * NUM_GOOD // 3))
        time.sleep(rng.uniform(0, 0.06))
        killed = job.kill_commands()
        trial.faults += bool(killed)
        if not killed:
            break
    else:
        job.start()
    checked()


@pytest.mark.trial("Ctrl-C, SIGTERM, SIGUSR1")
def test_signals(job, trial, rng, checked):
    name, code = rng.choice([("SIGINT", 130), ("SIGTERM", 143), ("SIGUSR1", 143)])
    job.start()
    somewhere(job, rng)
    job.signal(getattr(signal, name))
    codes = set(job.finish())
    assert codes <= {code, 1}
    trial.faults = int(code in codes)
    if trial.faults:
        assert len(outcomes(job.store)) < NUM_GOOD + len(BAD)
        assert "the same command goes on from here" in " ".join(job.log.read_text().split())
    audit(job.store, set(outcomes(job.store)))
    job.exit_codes.clear()
    job.start()
    checked()


@pytest.mark.trial("NaN in all recordings, then the same command without", seldom="ray")
def test_nan_in_all(job, trial, clips, checked):
    job.start(unit=Unit(slow_s=0, nan=""))
    assert set(job.finish()) == {1}
    without = {id_: BAD.get(id_, "non_finite_features") for id_ in ids(clips)}
    assert outcomes(job.store) == without
    audit(job.store, ids(clips))
    trial.faults = 1
    job.forget_notes()
    job.start()
    checked()


@pytest.mark.timeout(600)
def test_a_task_that_takes_minutes_is_left_alone(request, on_ray, options, tmp_path):
    """The command's connection to it is silent all the while, but for keepalives."""
    if not request.config.getoption("--trials"):
        pytest.skip("minutes: only with --trials")
    job = Job(on_ray, tmp_path / "store", options)
    job.start()
    job.wait_for_saves(1)
    job.hold.touch()
    before = set(job.tasks())
    time.sleep(6 * int(KEEPALIVE["RAY_grpc_client_keepalive_time_ms"]) / 1000)
    assert before
    assert set(job.tasks()) == before
    job.hold.unlink()
    assert job.finish() == [1]


@pytest.mark.trial("a second run into the same store, and one of other shards", seldom="ray")
def test_two_runs_on_one_store(job, local, options, trial, rng, checked):
    job.start()
    somewhere(job, rng)
    trial.faults = 2
    others = [Job(job.engine, job.store, options), Job(local, job.store, options, 1)]
    job.hold.touch()  # it stays at work until the second one has ended
    before = job.at_work()
    for other in others:
        other.start()
    refused = [other.finish() for other in others[1:]]
    if before & job.at_work():
        assert refused == [[2]]
    job.hold.unlink()
    assert set(others[0].finish()) <= {1, 2}
    checked()


@pytest.mark.trial("files cut, changed, deleted, a line of a ledger torn", seldom="ray")
def test_a_store_corrupt_at_rest(job, whole, trial, rng, checked):
    shutil.copytree(whole, job.store)
    names = rng.sample(sorted(files_of(job.store)), 3)
    for name, damage in zip(names, DAMAGES, strict=True):
        damage(job.store / name)
    path = rng.choice(sorted(job.store.glob("ledger*.jsonl")))
    lines = path.read_bytes().splitlines(keepends=True)
    torn = rng.randrange(len(lines))
    path.write_bytes(b"".join([*lines[:torn], lines[torn][:20]]))
    trial.faults = 4
    job.start("store.verify=checksum")
    checked(bits=False)
    redone = {id_ for id_ in job.forwards() if id_ not in BAD}
    assert len(redone) <= len(names) + len(lines) - torn + IN_FLIGHT


@pytest.mark.trial("killed, then other shards, workers, batches and the other engine")
def test_the_other_engine_goes_on(job, local, on_ray, options, whole, clips, trial, rng):
    job.start()
    somewhere(job, rng)
    trial.faults = job.kill_commands()
    job.wait_for(lambda: not job.tasks())  # Ray's outlive their command, with the store's locks
    other = Job(on_ray if job.engine is local else local, job.store, options, num_shards=3)
    other.num_killed = job.num_killed
    other.start("loader.num_workers=2", "loader.batch_seconds=2.5")
    assert set(other.finish()) == {1}
    check(other, whole, clips, trial, bits=False)
