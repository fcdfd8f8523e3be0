"""The measurements of a preflight: what they encode, and that no one batch takes long."""

import numpy as np
import pytest
import torch

from extract.data.plan import QUADRATIC_S, plan_batches
from extract.encoder.encoder import Encoder
from extract.models.load import load_model
from extract.run import speed
from extract.run.speed import BATCH_S, LONGEST_S, SPREAD, encoder_ratio


@pytest.fixture(scope="module")
def encoder():
    return Encoder(load_model("tiny_random"))


SECONDS = np.linspace(0.5, 20, 400)


@pytest.fixture
def device(monkeypatch, encoder):
    """A device that takes `per_cost` seconds for a second of cost; notes what it was given."""

    class Device:
        per_cost = 1e-4

        def __init__(self):
            self.batches = []

        def __call__(self, _encoder, lengths):
            self.batches.append(lengths)
            longest, quadratic_s = float(lengths.max()), encoder.architecture.quadratic_s
            return self.per_cost * len(lengths) * longest * (1 + longest / quadratic_s)

    device = Device()
    monkeypatch.setattr(speed, "_seconds_of", device)
    return device


def never():
    return False


def test_the_range_holds_what_was_measured(device, encoder):
    plan = plan_batches(SECONDS, 60, QUADRATIC_S)
    found = encoder_ratio(encoder, plan, SECONDS, never)
    assert found.low == pytest.approx(1e-4 / (1 + SPREAD))
    assert found.high == pytest.approx(1e-4 * (1 + SPREAD))
    sizes = {len(batch) for batch in device.batches[2:]}  # behind the warm-up
    assert sizes <= {len(batch) for batch in plan}
    assert len(plan[0]) in sizes


def test_a_slow_device_gets_less_of_each_batch_and_of_a_long_recording(device, encoder):
    device.per_cost = 0.2
    seconds = np.append(SECONDS, 3_000.0)
    found = encoder_ratio(encoder, plan_batches(seconds, 60, QUADRATIC_S), seconds, never)
    assert found.low < 0.2 < found.high
    assert max(float(batch.max()) for batch in device.batches) == LONGEST_S
    for batch in device.batches:
        quadratic_s, longest = encoder.architecture.quadratic_s, float(batch.max())
        took_s = 0.2 * len(batch) * longest * (1 + longest / quadratic_s)
        assert took_s <= BATCH_S or len(batch) == 1


def test_a_stop_ends_it_and_nothing_to_do_measures_nothing(device, encoder):
    assert encoder_ratio(encoder, [], SECONDS, never) is None
    assert not device.batches
    encoder_ratio(encoder, plan_batches(SECONDS, 60, QUADRATIC_S), SECONDS, lambda: True)
    assert len(device.batches) == 3  # the warm-up, and one


def test_a_batch_that_does_not_fit_the_memory_is_passed_over(monkeypatch, device, encoder):
    def small(_encoder, lengths):
        if len(lengths) > 3:
            raise torch.OutOfMemoryError
        return device(_encoder, lengths)

    monkeypatch.setattr(speed, "_seconds_of", small)
    assert encoder_ratio(encoder, plan_batches(SECONDS, 60, QUADRATIC_S), SECONDS, never).low > 0


def test_noise_is_what_the_encoder_takes(encoder):
    assert speed._seconds_of(encoder, np.array([0.5, 0.1, 0.001])) > 0
