"""A fake GPU: torch's fake tensors have a device, dtype and shape but no numbers."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from extract.encoder import encoder, first_layer, forward
from extract.encoder.encoder import Encoder
from extract.encoder.packing import Attention, Packing
from extract.models.architecture import Architecture
from extract.models.weights import Checkpoint, weight_shapes

CARD = torch.device("cuda", 0)


@contextmanager
def fake_card(attention: Attention) -> Iterator[None]:
    """Makes all tensors of the block fake; an operation that would wait for the GPU raises."""

    def to_device(_: Packing, array: np.ndarray) -> Tensor:
        return torch.empty(array.shape, dtype=torch.from_numpy(array).dtype, device=CARD)

    stand_ins = [
        patch.object(Packing, "to_device", to_device),
        patch.object(encoder, "_usable_device", lambda device: CARD),
        patch.object(encoder, "Copies", lambda device: None),  # streams want a driver
        patch.object(first_layer, "agrees", lambda layer, kernel: False),
        patch.object(forward, "choose_attention", lambda *_: attention),
        FakeTensorMode(allow_non_fake_inputs=True),
    ]
    with ExitStack() as stack:
        for stand_in in stand_ins:
            stack.enter_context(stand_in)
        yield


def encoder_on_card(architecture: Architecture, precision: str) -> Encoder:
    """An encoder on the fake GPU, its weights fake too; for use inside `fake_card`."""
    weights = {name: torch.empty(shape) for name, shape in weight_shapes(architecture).items()}
    return Encoder(Checkpoint(architecture, weights), device="cuda", precision=precision)
