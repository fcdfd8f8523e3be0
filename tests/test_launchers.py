"""The variables are those that each launcher sets; Slurm's were read off jobs of Slurm 22.05."""

import os

import pytest
import torch

from extract.launchers import local_place, place
from extract.run import build
from support.command import TINY

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
SCRIPT = {"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_LOCALID": "0"}  # of a job, beside srun
STEP = {
    "SLURM_PROCID": "1",
    "SLURM_NTASKS": "2",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_TASKS_PER_NODE": "2",
}
ARRAY = {
    "SLURM_ARRAY_TASK_ID": "3",
    "SLURM_ARRAY_TASK_COUNT": "4",
    "SLURM_ARRAY_TASK_STEP": "1",
    "SLURM_ARRAY_TASK_MIN": "0",
    "SLURM_ARRAY_TASK_MAX": "3",
    "SLURM_PROCID": "0",
    "SLURM_NTASKS": "1",
    "SLURM_LOCALID": "0",
}
POD = {"JOB_COMPLETION_INDEX": "7"}
SUBMITIT = ARRAY | {"SUBMITIT_EXECUTOR": "slurm", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1"}
OURS = {"SUBMITIT_EXECUTOR", *TORCHRUN, *SCRIPT, *STEP, *ARRAY, *POD}


@pytest.mark.parametrize(
    ("variables", "part"),
    [
        ({}, None),
        (TORCHRUN, (5, 8)),
        (STEP, (1, 2)),
        (ARRAY, (3, 4)),
        (ARRAY | {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1"}, (3, 4)),  # srun inside
        (POD, (7, None)),
        (SUBMITIT, None),  # its jobs may be anything, such as those of a sweep over a setting
        (SUBMITIT | STEP, (1, 2)),  # several tasks of one job
        ({"RANK": "0", "WORLD_SIZE": "1"}, None),
        ({"RANK": "0"}, None),
        (TORCHRUN | {"JOB_COMPLETION_INDEX": "5"} | {"WORLD_SIZE": "1", "RANK": "0"}, (5, None)),
    ],
)
def test_each_launcher_says_which_part_this_is(variables, part):
    found = place(variables)
    assert (found and (found.index, found.count)) == part


@pytest.mark.parametrize("step", [None, "4294967291", "4294967290"], ids=str)
def test_the_script_of_a_job_and_an_interactive_shell_are_no_part(step):
    """They run once, though Slurm sets SLURM_PROCID=0 and SLURM_NTASKS there."""
    assert place(SCRIPT | ({} if step is None else {"SLURM_STEP_ID": step})) is None


def test_a_step_of_fewer_tasks_than_its_job_counts_its_own():
    found = place(STEP | {"SLURM_NTASKS": "16"})
    assert found.count == 2


@pytest.mark.parametrize(
    "gap",
    [{"SLURM_ARRAY_TASK_MIN": "1"}, {"SLURM_ARRAY_TASK_COUNT": "3"}],
    ids=["begins at 1", "leaves one out"],
)
def test_of_an_array_with_gaps_the_count_is_not_known(gap):
    assert place(ARRAY | gap).count is None


def test_two_launchers_that_disagree_are_both_named():
    with pytest.raises(ValueError, match="RANK=5 WORLD_SIZE=8 and SLURM_PROCID=1 SLURM_STEP_NUM_"):
        place(TORCHRUN | STEP)
    assert place({"RANK": "1", "WORLD_SIZE": "2"} | STEP).index == 1  # they agree


@pytest.mark.parametrize("text", ["", "-1", "x", "१"])
def test_a_variable_that_is_no_number_is_named(text):
    with pytest.raises(ValueError, match=f"^RANK={text}: no number"):
        place(TORCHRUN | {"RANK": text})


@pytest.mark.parametrize(
    ("variables", "here"),
    [
        ({}, (0, 1)),
        (TORCHRUN, (1, 4)),
        (STEP, (1, 2)),
        (STEP | {"SLURM_STEP_TASKS_PER_NODE": "2(x3),1"}, (1, 2)),
        (ARRAY, (0, 1)),
        (TORCHRUN | STEP, (0, 1)),
    ],
)
def test_processes_on_one_machine(variables, here):
    assert local_place(variables) == here


@pytest.mark.parametrize(
    ("variables", "cards", "device"),
    [
        ({}, 4, "cuda"),
        (TORCHRUN, 4, "cuda:1"),
        (STEP, 1, "cuda:0"),  # Slurm shows each task its own card alone
        (ARRAY, 4, "cuda"),
    ],
)
def test_each_process_of_a_machine_takes_a_card_of_its_own(variables, cards, device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    monkeypatch.setattr(os, "environ", variables)
    assert build._device("auto") == device


@pytest.fixture
def launched(recordings, command, tmp_path, monkeypatch, capsys):
    """Runs the command as a launcher would; returns the exit code and what it said."""

    def launched(variables, *options):
        for name in OURS:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        code = command(
            *("dataset=folder", f"dataset.path={recordings}", f"store.dir={tmp_path / 'out'}"),
            *(*TINY, "loader.num_workers=0", *options),
        )
        return code, " ".join(capsys.readouterr().err.split())

    return launched


def test_the_parts_of_a_launcher_are_the_whole_job(launched, tmp_path):
    for rank in range(2):
        code, said = launched({"RANK": str(rank), "WORLD_SIZE": "2"})
        assert code == 0
        assert f"part {rank} of 2: RANK={rank} WORLD_SIZE=2" in said
    lines = [path.read_text().splitlines() for path in sorted(tmp_path.glob("out/ledger.*"))]
    assert len(lines) == 2
    assert sum(map(len, lines)) == 24


def test_the_options_come_before_the_environment(launched, tmp_path):
    code, said = launched(TORCHRUN, "shard.index=0", "shard.count=1")
    assert code == 0
    assert "RANK" not in said
    assert len((tmp_path / "out" / "ledger.jsonl").read_text().splitlines()) == 24


def test_in_a_job_of_submitits_array_the_options_say_which_part_it_is(launched, tmp_path):
    code, said = launched(SUBMITIT, "shard.index=1", "shard.count=3")
    assert code == 0
    assert "SLURM" not in said
    assert [path.name for path in tmp_path.glob("out/ledger*")] == ["ledger.1-of-3.jsonl"]


@pytest.mark.parametrize(
    ("variables", "options", "said"),
    [
        (POD, [], "JOB_COMPLETION_INDEX=7: part of how many is not known; needed shard.count=N"),
        (TORCHRUN, ["shard.count=4"], "shard.count=4, and RANK=5 WORLD_SIZE=8; needed shard.index"),
        (TORCHRUN | STEP, [], "two launchers say which part"),
        (POD, ["shard.count=4"], "shard.index=7 shard.count=4; needed 0 <= index < count"),
    ],
)
def test_what_is_not_known_is_asked_for_before_any_work(
    launched, tmp_path, variables, options, said
):
    code, found = launched(variables, *options)
    assert (code, (tmp_path / "out").exists()) == (2, False)
    assert said in found


def test_a_pod_does_its_part_once_the_count_is_given(launched, tmp_path):
    code, said = launched(POD, "shard.count=9")
    assert code == 0
    assert "part 7 of 9: JOB_COMPLETION_INDEX=7" in said
