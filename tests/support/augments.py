"""Functions that augment, in a module that workers which are not forked can import."""

import random

import numpy as np
import torch


def louder(samples, rate_hz, rng):
    assert rate_hz == 32_000
    return samples * np.float32(rng.uniform(0.5, 1.0))


def shorter(samples, rate_hz, rng):
    """A length that hardly repeats."""
    return samples[: len(samples) - int(rng.integers(len(samples) // 2))]


def careless(samples, rate_hz, rng):
    """Draws from every global generator."""
    level = random.uniform(0.5, 1.0) * np.random.uniform(0.5, 1.0) * float(torch.rand(()) + 0.5)
    return torch.from_numpy(samples) * level


def broken(samples, rate_hz, rng):
    return 1 / 0


class Harm:
    """Does to recordings, by their number of samples, what a function should not."""

    def __init__(self, harm):
        self.harm = harm

    def __call__(self, samples, rate_hz, rng):
        match self.harm:
            case "nan":
                samples[0] = np.nan
                return samples
            case "loud":
                return samples * 100
            case "empty":
                return samples[:0]
            case "two channels":
                return np.stack([samples, samples])
            case "too long":
                return np.tile(samples, 8)
            case "too short":
                return samples[:100]
            case "silent":
                return samples * 0
            case "no memory":
                raise MemoryError
            case "no file":
                raise OSError("no such noise")
