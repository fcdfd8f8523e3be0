"""Out of memory, in whatever way it comes, costs nobody their features and holds no memory."""

import gc
import logging
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from extract.data.batch import Batch, collate
from extract.encoder.batches import BatchEncoder
from extract.encoder.encoder import Encoder
from extract.models.load import load_model
from extract.run import assembled, job, work
from extract.values import Encoded, Failure, Features, Recording, Utterance
from support.stores import audit, ids_of, ledger

OUT_OF_MEMORY = {
    "CUDA": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
    "pinned": RuntimeError("CUDA error: out of memory"),
    "CPU": RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 B"),
    "Python": MemoryError(),
}


def batch(*seconds: float, first: int = 0, failures: tuple[int, ...] = ()) -> Batch:
    """Utterances whose samples are their index + 1, behind failures of the given indices."""
    utterances = []
    for index, duration_s in enumerate(seconds, first):
        recording = Recording(index, f"{index}.wav", f"/there/{index}.wav", duration_s=duration_s)
        waveform = torch.full((round(duration_s * 16_000),), index + 1.0)
        utterances.append(Utterance(recording, waveform, waveform.to(torch.int16)))
    return collate([*(failure(index) for index in failures), *utterances])


def failure(index: int) -> Failure:
    return Failure(Recording(index, f"{index}.wav", f"/there/{index}.wav"), "missing", "not there")


class Pending:
    def __init__(self, encoder: "FakeEncoder", features: list[Features], scratch: Tensor) -> None:
        self.encoder, self.features, self.scratch = encoder, features, scratch

    def result(self) -> list[Features]:
        if not self.features:
            self.encoder.fail(self.scratch)
        return self.features


class FakeEncoder:
    """Gives each utterance its first sample; runs out of memory when told to.

    `too_much(call, padded_seconds)` says when, `late` that only the wait for the result tells.
    """

    def __init__(
        self,
        too_much: Callable[[int, float], bool] = lambda call, seconds: False,
        kind: str = "CUDA",
        late: bool = False,
        bad: tuple[int, ...] = (),
    ) -> None:
        self.too_much, self.error, self.late, self.bad = too_much, OUT_OF_MEMORY[kind], late, bad
        self.sizes: list[int] = []  # of every batch submitted
        self.scratch: list[weakref.ref[Tensor]] = []  # what every failed try allocated
        self.held: list[int] = []  # failed tries whose memory was not free at each submit

    def submit(self, waveforms: Tensor, lengths: list[int]) -> Pending:
        self.held.append(sum(ref() is not None for ref in self.scratch))
        self.sizes.append(len(lengths))
        scratch = torch.zeros(1000)
        fails = self.too_much(len(self.sizes) - 1, waveforms.numel() / 16_000)
        if fails and not self.late:
            self.fail(scratch)
        assert not waveforms[0, lengths[0] :].any()
        finite = [int(row[0]) - 1 not in self.bad for row in waveforms]
        rows = [row[:1].clone()[None] for row in waveforms]
        features = [Features(row, ok, False) for row, ok in zip(rows, finite, strict=True)]
        return Pending(self, [] if fails else features, scratch)

    def fail(self, scratch: Tensor) -> None:
        self.scratch.append(weakref.ref(scratch))
        raise type(self.error)(*self.error.args)  # a new one: no cycle through its traceback


def outcomes(items: list[Encoded | Failure]) -> list[int | str]:
    """Each utterance's index, or index and reason; what is its own is checked to be its own."""
    found: list[int | str] = []
    for item in items:
        index = item.recording.index
        if isinstance(item, Encoded):
            assert item.features.values.item() == index + 1
            assert (item.wav32k == index + 1).all()
            assert len(item.wav32k) == round((item.recording.duration_s or 0) * 16_000)
            found.append(index)
        else:
            found.append(f"{index}: {item.reason}")
    return found


def test_utterances_and_failures_come_out_in_the_order_of_the_plan():
    encoding = BatchEncoder(FakeEncoder(), batch_seconds=100)
    batches = [batch(2, 1, first=3 * n, failures=(3 * n + 2,)) for n in range(5)]
    found = outcomes(list(encoding(batches)))
    assert [item for item in found if isinstance(item, int)] == [0, 1, 3, 4, 6, 7, 9, 10, 12, 13]
    assert [item for item in found if isinstance(item, str)] == [
        f"{3 * n + 2}: missing" for n in range(5)
    ]
    assert len(found) == 15


def test_a_batch_of_nothing_but_failures_never_reaches_the_encoder():
    encoder = FakeEncoder()
    assert outcomes(list(BatchEncoder(encoder, 100)([batch(failures=(4,))]))) == ["4: missing"]
    assert encoder.sizes == []


def test_a_batch_above_the_budget_is_split_before_it_is_tried():
    encoder = FakeEncoder()
    assert outcomes(list(BatchEncoder(encoder, 2.1)([batch(1, 1, 1, 1, 1)]))) == [0, 1, 2, 3, 4]
    assert max(encoder.sizes) == 2


def test_a_batch_is_split_by_what_the_model_makes_of_its_length():
    """Attention of a narrow model costs as much as all else from 1 s on: twice the seconds."""
    encoder = FakeEncoder()
    encoding = BatchEncoder(encoder, 2.1, quadratic_s=1.0)
    assert outcomes(list(encoding([batch(1, 1, 1, 1, 1)]))) == [0, 1, 2, 3, 4]
    assert max(encoder.sizes) == 1


def test_the_next_batch_is_submitted_before_the_last_is_waited_for():
    events: list[str] = []

    class Ordered(FakeEncoder):
        def submit(self, waveforms: Tensor, lengths: list[int]) -> Pending:
            events.append(f"submit {int(waveforms[0, 0])}")
            pending = super().submit(waveforms, lengths)
            result, number = pending.result, int(waveforms[0, 0])

            def told() -> list[Features]:
                events.append(f"wait {number}")
                return result()

            pending.result = told  # type: ignore[method-assign]
            return pending

    list(BatchEncoder(Ordered(), 100)([batch(1, first=n) for n in range(3)]))
    assert events == ["submit 1", "submit 2", "wait 1", "submit 3", "wait 2", "wait 3"]


@pytest.mark.parametrize("late", [False, True], ids=["submit", "result"])
@pytest.mark.parametrize("kind", OUT_OF_MEMORY)
def test_a_batch_that_does_not_fit_is_halved_and_nobody_is_lost(kind, late):
    encoder = FakeEncoder(lambda call, seconds: seconds > 3, kind, late)
    batches = [batch(*[1.0] * 8, first=8 * n) for n in range(4)]
    encoding = BatchEncoder(encoder, batch_seconds=100)
    assert sorted(outcomes(list(encoding(batches)))) == list(range(32))
    assert encoding.times_out_of_memory > 0


@pytest.mark.parametrize("call", range(6))
def test_running_out_once_at_any_moment_loses_nobody_and_keeps_the_order(call):
    encoder = FakeEncoder(lambda number, seconds: number == call)
    batches = [batch(1, 1, 1, first=3 * n) for n in range(6)]
    assert outcomes(list(BatchEncoder(encoder, 100)(batches))) == list(range(18))


def test_what_fits_is_learned_once_and_holds_for_the_rest_of_the_run(caplog):
    caplog.set_level(logging.WARNING)
    encoder = FakeEncoder(lambda call, seconds: seconds > 5)
    encoding = BatchEncoder(encoder, batch_seconds=100)
    batches = [batch(*[1.0] * 8, first=8 * n) for n in range(10)]
    assert outcomes(list(encoding(batches))) == list(range(80))
    assert encoding.times_out_of_memory == 1
    assert encoder.sizes == [8] + 20 * [4]
    assert 4 <= encoding.batch_seconds < 4.1
    assert "going on with batches of 4.0 padded seconds" in caplog.text


def test_a_short_utterance_beside_a_long_one_does_not_make_all_batches_short():
    encoder = FakeEncoder(lambda call, seconds: seconds > 30)
    encoding = BatchEncoder(encoder, batch_seconds=100)
    batches = [batch(20, 0.5), batch(*[1.0] * 20, first=2)]
    assert outcomes(list(encoding(batches))) == list(range(22))
    assert encoder.sizes == [2, 1, 1, 20]


def test_one_that_never_fits_is_recorded_and_its_neighbours_are_saved():
    encoder = FakeEncoder(lambda call, seconds: seconds > 10)
    items = list(
        BatchEncoder(encoder, 100)([batch(3, 3), batch(40, 2, first=2), batch(1, first=4)])
    )
    assert sorted(map(str, outcomes(items))) == ["0", "1", "2: out_of_memory", "3", "4"]
    [lost] = [item for item in items if isinstance(item, Failure)]
    assert lost.detail.startswith("/there/2.wav: 40.0 s did not fit")
    assert "audio.max_duration_s" in lost.detail


def test_a_device_without_any_memory_gives_a_record_for_each_and_ends():
    encoder = FakeEncoder(lambda call, seconds: True, late=True)
    found = outcomes(list(BatchEncoder(encoder, 100)([batch(1, 1, 1), batch(1, first=3)])))
    assert sorted(map(str, found)) == [f"{n}: out_of_memory" for n in range(4)]


def test_one_that_does_not_fit_the_device_goes_to_the_larger_one_alone():
    device, cpu = FakeEncoder(lambda call, seconds: seconds > 10), FakeEncoder()
    made = []
    encoding = BatchEncoder(device, 100, fallback=lambda: made.append(1) or cpu)
    found = outcomes(list(encoding([batch(40, 30, 2), batch(1, first=3)])))
    assert sorted(found) == [0, 1, 2, 3]
    assert cpu.sizes == [1, 1]


def test_one_that_fits_neither_device_is_recorded():
    full = FakeEncoder(lambda call, seconds: seconds > 10, "CPU", late=True)
    found = outcomes(
        list(BatchEncoder(FakeEncoder(full.too_much), 100, lambda: full)([batch(40, 2)]))
    )
    assert sorted(map(str, found)) == ["0: out_of_memory", "1"]
    assert full.sizes == [1]


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("late", [False, True], ids=["submit", "result"])
def test_nothing_of_a_failed_try_is_held_while_the_next_is_made(late, depth):
    encoder = FakeEncoder(lambda call, seconds: seconds > 3, late=late)
    gc.disable()  # a cycle would be freed too late on a device as well
    try:
        for _ in BatchEncoder(encoder, 100, depth=depth)([batch(1, 1, 1, 1), batch(1, 1, first=4)]):
            pass
    finally:
        gc.enable()
    assert encoder.scratch
    assert not any(encoder.held)
    assert not any(ref() is not None for ref in encoder.scratch)


@pytest.mark.parametrize("where", ["submit", "result"])
def test_another_error_is_ours_and_raises(where):
    encoder = FakeEncoder(lambda call, seconds: call == 1, late=where == "result")
    encoder.error = RuntimeError("shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        list(BatchEncoder(encoder, 100)([batch(1), batch(1, first=1)]))


def test_features_that_are_not_finite_fail_alone():
    items = list(BatchEncoder(FakeEncoder(bad=(1,)), 100)([batch(1, 1, 1)]))
    assert outcomes(items) == [0, "1: non_finite_features", 2]
    assert items[1].detail.startswith("/there/1.wav: the encoder gave NaN or Inf")


def test_the_real_encoder_gives_the_same_features_after_a_shortage():
    model = load_model("tiny_random")
    torch.manual_seed(0)
    waveforms = [torch.randn(4_000 + 400 * n) for n in range(5)]
    whole = collate(
        [
            Utterance(Recording(n, f"{n}", f"{n}"), waveform, waveform.to(torch.int16))
            for n, waveform in enumerate(waveforms)
        ]
    )

    class Small(Encoder):
        def submit(self, waveforms: Tensor, lengths: list[int]):
            if len(lengths) > 1:
                raise torch.OutOfMemoryError
            return super().submit(waveforms, lengths)

    plenty = list(BatchEncoder(Encoder(model), 100)([whole]))
    little = list(BatchEncoder(Small(model), 100)([whole]))
    assert [item.recording.id for item in little] == list("01234")
    for one, other in zip(plenty, little, strict=True):
        torch.testing.assert_close(one.features.values, other.features.values, atol=1e-5, rtol=0)


class Full(Encoder):
    """An encoder on a GPU whose memory holds not a single utterance; it computes nothing."""

    def __init__(self) -> None:
        model = load_model("tiny_random")
        super().__init__(model)
        self.model, self.device = model, torch.device("cuda")

    def submit(self, waveforms: Tensor, lengths: list[int]):
        raise torch.OutOfMemoryError


@pytest.fixture
def full_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembled, "load_encoder", lambda config: Full())
    monkeypatch.setattr(job, "_pinned", iter)


@pytest.mark.parametrize(("allowed", "reason"), [(True, None), (False, "out_of_memory")])
def test_the_run_falls_back_to_the_cpu_where_it_may(
    full_gpu, extract_folder, recordings, tmp_path, allowed, reason
):
    code = extract_folder(recordings, "loader.batch_seconds=4", f"cpu_fallback={allowed}")
    assert code == (0 if allowed else 1)
    assert {record["reason"] for record in ledger(tmp_path / "out")} == {reason}
    assert len(ledger(tmp_path / "out")) == 24


def test_a_batch_whose_headers_lied_is_split(
    extract_folder, recordings, tmp_path, monkeypatch: pytest.MonkeyPatch
):
    """By the headers all of it is one batch of 2.4 s; in truth it is about 16 s, 29 padded."""
    monkeypatch.setattr(work, "durations", lambda manifest, *_: np.full(len(manifest), 0.1))
    seconds: list[float] = []
    submit = Encoder.submit

    def noted(self: Encoder, waveforms: Tensor, lengths: list[int]):
        seconds.append(waveforms.numel() / 16_000)
        return submit(self, waveforms, lengths)

    monkeypatch.setattr(Encoder, "submit", noted)
    assert extract_folder(recordings, "loader.batch_seconds=4") == 0
    audit(tmp_path / "out", ids_of(recordings))
    assert max(seconds) <= 1.1 * 4
    assert sum(seconds) > 4 * 2.4
