"""Runs the first layer's kernel by Triton's interpreter: `python interpreted.py CALLS RESULTS`.

In a process of its own, since Triton looks at TRITON_INTERPRET when it is imported.
"""

import sys

import torch

from extract.encoder.first_layer_kernel import activations

calls = torch.load(sys.argv[1], weights_only=False)
torch.save({name: activations(*call) for name, call in calls.items()}, sys.argv[2])
