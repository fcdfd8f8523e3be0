"""What `auto` means on this machine: workers, batch size, prefetch."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass

import torch

from extract.frames import ENCODER_RATE_HZ, RECORDING_RATE_HZ
from extract.machine import SHM, available_memory, cores

log = logging.getLogger(__name__)

MAX_WORKERS = 16  # one decodes about 1,000 times real time
CPU_BATCH_SECONDS = 60.0  # larger ones are no faster: matrix products are at full speed
MIN_BATCH_SECONDS, MAX_BATCH_SECONDS = 30.0, 1200.0
# Of a padded second, by bytes of a number. HuBERT-large takes 3.6 and 7.1 in batches of 100 s.
DEVICE_MB_PER_SECOND = {2: 6.0, 4: 12.0}
DECODED_SHARE = 4  # a sweep keeps decoded recordings in a quarter of what memory is free
# Of a second of audio, through shared memory.
WAVEFORM_BYTES, TRAINING_AUDIO_BYTES = 4 * ENCODER_RATE_HZ, 2 * RECORDING_RATE_HZ


@dataclass(frozen=True)
class LoaderPlan:
    """Number of workers, padded seconds of a batch, and batches that each worker keeps ready."""

    num_workers: int
    batch_seconds: float
    prefetch: int


def choose(
    num_workers: int | str,
    batch_seconds: float | str,
    prefetch: int,
    device: torch.device,
    dtype: torch.dtype,
    *,
    training_audio: bool = True,
    side_by_side: int = 1,
) -> LoaderPlan:
    """Settles what the config leaves to `auto`.

    On a CPU the encoder uses every core, and decoding takes 1 % of its time: one worker is enough.
    With a GPU the cores have nothing else to do. `training_audio`: whether batches hold it. Of
    `side_by_side` runs on this machine each plans
    for its share, as if all used one GPU: which ones do is not known when several start at once.
    """
    if num_workers == "auto":
        on_cpu = device.type == "cpu"
        num_workers = 1 if on_cpu else max(1, min(MAX_WORKERS, cores() // side_by_side - 1))
    if batch_seconds == "auto":
        batch_seconds = _batch_seconds(device, dtype, side_by_side)
    workers, seconds = int(num_workers), float(batch_seconds)  # `extract.options` checked them
    num_bytes = seconds * (WAVEFORM_BYTES + training_audio * TRAINING_AUDIO_BYTES)
    return LoaderPlan(
        workers, seconds, _fitting_prefetch(workers, num_bytes, prefetch, side_by_side)
    )


def share_of_threads(side_by_side: int) -> int:
    """Threads of the encoder for each of the runs on this machine; at most what torch has now."""
    return max(1, min(torch.get_num_threads(), cores() // side_by_side))


def room_for_decoded(
    wanted_mb: float | str, plan: LoaderPlan, side_by_side: int = 1
) -> tuple[int, int]:
    """Bytes of shared memory for a sweep's decoded recordings, and bytes that have to stay free.

    What stays free is twice what the workers' batches take, so that the next job prefetches as
    many. `auto` takes at most half of the rest, and at most a quarter of the memory that is free.
    """
    batch = plan.batch_seconds * (WAVEFORM_BYTES + TRAINING_AUDIO_BYTES)
    spare = int(2 * plan.num_workers * plan.prefetch * batch)
    free = max(0, shutil.disk_usage(SHM).free - spare)
    if wanted_mb == "auto":
        most = min(free // 2, available_memory() // DECODED_SHARE) // side_by_side
    else:
        most = min(free, int(float(wanted_mb) * 1e6))
    return most, spare


def _batch_seconds(device: torch.device, dtype: torch.dtype, side_by_side: int) -> float:
    if device.type != "cuda":
        return CPU_BATCH_SECONDS
    free, _total = torch.cuda.mem_get_info(device)
    seconds = 0.5 * free / side_by_side / 1e6 / DEVICE_MB_PER_SECOND[dtype.itemsize]
    return float(round(min(max(seconds, MIN_BATCH_SECONDS), MAX_BATCH_SECONDS)))


def _fitting_prefetch(num_workers: int, batch: float, prefetch: int, side_by_side: int) -> int:
    """Lowers the prefetch to what shared memory holds; a container often has 64 MB of it.

    `batch` is a batch's size in bytes.
    """
    if not num_workers or not SHM.is_dir():
        return prefetch
    free = shutil.disk_usage(SHM).free / side_by_side
    fits = int(free / 2 // (num_workers * batch))
    if fits >= prefetch:
        return prefetch
    if fits < 1:
        log.warning(
            "%s: %.0f MB free, %.0f MB needed for one batch of each worker; lower "
            "loader.num_workers or loader.batch_seconds, or enlarge it (docker run --shm-size)",
            SHM,
            free / 1e6,
            num_workers * batch / 1e6,
        )
    log.warning("%s is small (%.0f MB): loader.prefetch=%d", SHM, free / 1e6, max(1, fits))
    return max(1, fits)
