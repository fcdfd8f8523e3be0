"""Units as DDSP-SVC trains on them, in step with its audio: preset=ddsp_svc.

    units/<id>.npy  (num_samples // 512 + 1, dimensions) float32, for np.load; num_samples at
                    44.1 kHz: a frame of the encoder for each hop of 512 samples, the nearest

Source: DDSP-SVC, `preprocess.py` and `Units_Encoder.encode` of `ddsp/vocoder.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from extract.frames import ENCODER_RATE_HZ, HUBERT_STACK, SINGING_RATE_HZ
from extract.store.files import StoreFiles
from extract.store.layout import Kept, Layout, LayoutOptions, TrainingAudio
from extract.store.per_utterance import NumpyFiles

if TYPE_CHECKING:
    from torch import Tensor

    from extract.values import Encoded

HOP = 512  # samples at 44.1 kHz, `data.block_size` of its configs
FRAMES_A_HOP = (HOP / SINGING_RATE_HZ) / (HUBERT_STACK.hop / ENCODER_RATE_HZ)


@dataclass
class Options(LayoutOptions):
    """Where features go and how they are kept: in the folder that DDSP-SVC trains on."""

    layout: str = "ddsp_svc"
    audio: TrainingAudio = TrainingAudio.none


def layout(options: LayoutOptions, directory: Path, files: StoreFiles) -> Layout:
    """The layout of one store."""
    return DdspSvc(options, files)


def nearest(num_frames: int, num_samples: int) -> NDArray[np.int64]:
    """Which of `num_frames` is nearest to each hop of `num_samples` at 44.1 kHz.

    (num_samples // 512 + 1,). In float32 and half to even, as `torch.round` of DDSP-SVC's product.
    """
    hops = np.arange(num_samples // HOP + 1, dtype=np.float32)
    frames: NDArray[np.int64] = np.rint(hops * np.float32(FRAMES_A_HOP)).astype(np.int64)
    return frames.clip(max=num_frames - 1)


class DdspSvc(NumpyFiles):
    """One file an utterance, in step with its audio. `read` gives a frame for each hop, too."""

    suffixes = (".npy",)
    folders = ("units",)
    dtypes = ("float32",)
    keeps_audio = False
    lies_beside = True
    replaces_foreign = True

    def bytes_per_second(self, width: int, itemsize: int, frame_rate: float) -> float:
        """A frame for each hop, whatever the encoder's rate: `Layout.bytes_per_second`."""
        return super().bytes_per_second(width, itemsize, SINGING_RATE_HZ / HOP)

    def put(self, item: Encoded) -> Iterable[Kept]:
        """Writes the frames nearest to the hops: `Layout.put`."""
        features = replace(item.features, values=self.as_read(item))
        return super().put(replace(item, features=features))

    def as_read(self, item: Encoded) -> Tensor:
        """The frames nearest to the hops: `Layout.as_read`."""
        import torch

        duration_s, values = item.recording.duration_s, item.features.values
        assert duration_s is not None  # it was decoded
        index = nearest(values.shape[1], round(duration_s * SINGING_RATE_HZ))
        return torch.from_numpy(values.numpy()[:, index])  # torch's would start threads
