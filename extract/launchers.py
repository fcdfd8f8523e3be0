"""Which part of a job torchrun, Slurm or Kubernetes gives this process, by its environment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

# Slurm numbers the steps of a job from 0. The job's script and an interactive shell are "steps"
# too, with numbers from here on, or without one: they run once, whatever SLURM_NTASKS is.
FIRST_SPECIAL_STEP = 0xFFFFFFF0


@dataclass(frozen=True)
class Place:
    """Where a launcher has put this process among those of one job."""

    index: int  # which part of the job, from 0
    count: int | None  # parts of the job; None where the launcher does not say
    said: str  # the variables that say so: `RANK=3 WORLD_SIZE=8`
    local_index: int = 0  # which of the processes on this machine
    num_local: int = 1  # processes on this machine; 1 where the launcher does not say

    def is_part(self, index: int, count: int) -> bool:
        """Whether this is part `index` of `count` parts."""
        return index == self.index and self.count in (None, count)

    @property
    def divides(self) -> bool:
        """Whether the job has other parts."""
        return self.count != 1


def place(variables: Mapping[str, str]) -> Place | None:
    """The place that the environment's variables give this process; None where none does.

    A launcher with one process divides nothing: an array of Slurm jobs with one task each is an
    array.

    Raises:
        ValueError: two launchers give different places, or a variable is not what it should be;
            names them.
    """
    found = [one for one in _places(variables) if one.divides]
    if not found:
        return None
    first = found[0]
    for other in found[1:]:
        if (other.index, other.count) != (first.index, first.count):
            raise ValueError(
                f"{first.said} and {other.said}: two launchers say which part of the job this is; "
                "needed shard.index=N shard.count=M, which come before both"
            )
    return first


def local_place(variables: Mapping[str, str]) -> tuple[int, int]:
    """Which of the processes on this machine this is, and how many there are: (0, 1) if unknown."""
    try:
        found = place(variables)
    except ValueError:  # said where the part is asked for
        found = None
    return (0, 1) if found is None else (found.local_index, found.num_local)


def _places(variables: Mapping[str, str]) -> Iterator[Place]:
    if {"RANK", "WORLD_SIZE"} <= variables.keys():
        yield _torchrun(variables)
    if "SLURM_STEP_ID" in variables and "SLURM_PROCID" in variables:
        yield from _slurm_step(variables)
    # submitit makes an array of any jobs, such as those of a sweep over a setting.
    if "SLURM_ARRAY_TASK_ID" in variables and "SUBMITIT_EXECUTOR" not in variables:
        yield _slurm_array(variables)
    if "JOB_COMPLETION_INDEX" in variables:
        yield _kubernetes(variables)


def _torchrun(variables: Mapping[str, str]) -> Place:
    """As torchrun and torch.distributed have it."""
    return Place(
        _number(variables, "RANK"),
        _number(variables, "WORLD_SIZE"),
        _said(variables, "RANK", "WORLD_SIZE"),
        _number(variables, "LOCAL_RANK", 0),
        _number(variables, "LOCAL_WORLD_SIZE", 1),
    )


def _slurm_step(variables: Mapping[str, str]) -> Iterator[Place]:
    """A process that `srun` started; nothing in the script of a job, which runs once."""
    if _number(variables, "SLURM_STEP_ID") >= FIRST_SPECIAL_STEP:
        return
    total = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in variables else "SLURM_NTASKS"
    yield Place(
        _number(variables, "SLURM_PROCID"),
        _number(variables, total),
        _said(variables, "SLURM_PROCID", total),
        _number(variables, "SLURM_LOCALID", 0),
        _tasks_here(variables),
    )


def _tasks_here(variables: Mapping[str, str]) -> int:
    """Processes on this machine by `SLURM_STEP_TASKS_PER_NODE`, `2(x3),1`: the most of any."""
    text = variables.get("SLURM_STEP_TASKS_PER_NODE", "1")
    numbers = [one.partition("(")[0] for one in text.split(",")]
    return max((int(one) for one in numbers if one.isdecimal()), default=1)


def _slurm_array(variables: Mapping[str, str]) -> Place:
    """A job of an array; the count is known if its indices begin at 0 and leave none out."""
    task, total = "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"
    index, count = _number(variables, task), _number(variables, total, 0)
    least = _number(variables, "SLURM_ARRAY_TASK_MIN", -1)
    most = _number(variables, "SLURM_ARRAY_TASK_MAX", -1)
    if least == 0 and most + 1 == count:
        return Place(index, count, _said(variables, task, total))
    return Place(index, None, _said(variables, task))


def _kubernetes(variables: Mapping[str, str]) -> Place:
    """A pod of an indexed job, which does not say how many there are."""
    name = "JOB_COMPLETION_INDEX"
    return Place(_number(variables, name), None, _said(variables, name))


def _number(variables: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = variables.get(name)
    if text is None and default is not None:
        return default
    if text is None or not (text.isascii() and text.isdecimal()):
        raise ValueError(
            f"{name}={text or ''}: no number from 0 on; needed one, or the variable unset"
        )
    return int(text)


def _said(variables: Mapping[str, str], *names: str) -> str:
    return " ".join(f"{name}={variables.get(name, '')}" for name in names)
