"""The quantizers: each module is a choice of the config group `quantizer`."""
