"""`make_loader`: what it gives in which order, and going on within an epoch."""

import itertools

import pytest
from torch.utils.data import DataLoader

from extract.data.batch import collate
from extract.data.dataset import AudioDataset
from extract.manifest.sources.folder import read_folder
from extract.training.loader import make_loader
from extract.training.sampler import LengthBatchSampler
from support.augments import louder
from support.recordings import write_wav

NUM = 24


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    for index in range(NUM):
        write_wav(folder / f"{index:02}.wav", 0.1 + index / 100, index)
    return read_folder(folder)


@pytest.fixture
def dataset(manifest):
    return AudioDataset(manifest, augment=louder, seed=1)


def indices(batch) -> list[int]:
    return [one.index for one in batch.recordings]


def heard(batches) -> list[tuple[str, float]]:
    """What was read, in order: each recording with its peak, which the epoch decides."""
    return [(one.id, one.peak) for batch in batches for one in batch.recordings]


def loader_of(dataset, **options):
    return make_loader(
        dataset, **{"batch_seconds": 1.0, "num_workers": 0, "shuffle": True} | options
    )


def test_unless_it_shuffles_the_longest_come_first(dataset):
    loader = loader_of(dataset, shuffle=False)
    given = list(itertools.chain.from_iterable(map(indices, loader)))
    assert given == list(range(NUM - 1, -1, -1))
    loader.set_epoch(1)
    assert list(itertools.chain.from_iterable(map(indices, loader))) == given


def test_shuffled_each_epoch_has_every_recording_once_in_an_order_of_its_own(dataset):
    loader = loader_of(dataset)
    epochs = []
    for epoch in range(3):
        loader.set_epoch(epoch)
        epochs.append([index for batch in loader for index in indices(batch)])
        assert len(loader) > 3
    assert [sorted(given) for given in epochs] == [list(range(NUM))] * 3
    assert len({tuple(given) for given in epochs}) == 3


def test_a_sampler_of_ones_own_takes_the_place_of_the_plan(dataset):
    sampler = LengthBatchSampler([0.2] * NUM, 0.5, shuffle=False)
    loader = loader_of(dataset, sampler=sampler)
    assert [indices(batch) for batch in loader] == list(sampler)


def test_batches_of_ones_own_go_on_too_and_have_epochs_of_augmentation(dataset, manifest):
    def loader(*, batches=((3, 1), (2,), (5, 4))):
        return make_loader(
            AudioDataset(manifest, augment=louder, seed=1), batches=batches, num_workers=0
        )

    first, second = loader(), loader()
    epochs = []
    for epoch in range(2):
        first.set_epoch(epoch)
        epochs.append(heard(first))
        assert [name for name, _peak in epochs[-1]] == [f"{n:02}.wav" for n in (3, 1, 2, 5, 4)]
    assert epochs[0] != epochs[1]
    next(iter(first))
    second.load_state_dict(first.state_dict())
    assert heard(second) == epochs[1][2:]
    with pytest.raises(ValueError, match="a sampler's state: batches="):
        loader(batches=((3,), (1, 2), (5, 4))).load_state_dict(first.state_dict())


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("taken", [1, 3])
def test_another_process_would_go_on_with_the_next_batch(dataset, manifest, num_workers, taken):
    """Workers have read ahead of what was given, which the state does not count."""
    loader = loader_of(dataset, num_workers=num_workers)
    loader.set_epoch(1)
    whole = heard(loader)
    given = heard(itertools.islice(loader, taken))
    state = loader.state_dict()

    other = loader_of(AudioDataset(manifest, augment=louder, seed=1), num_workers=num_workers)
    other.load_state_dict(state)
    assert other.state_dict() == state
    assert other.epoch == 1
    other.set_epoch(1)  # a loop over epochs says so before each
    given += heard(itertools.islice(other, 1))
    other.load_state_dict(other.state_dict())
    assert given + heard(other) == whole
    assert heard(other) == whole, "the next pass begins at the beginning"


def test_the_state_of_a_whole_epoch_goes_on_with_the_next_epoch(dataset):
    loader, other = loader_of(dataset), loader_of(dataset)
    assert len(list(loader)) == len(loader)
    other.load_state_dict(loader.state_dict())
    assert other.epoch == 1


def test_a_state_between_two_epochs_is_of_the_new_ones_beginning(dataset):
    loader = loader_of(dataset)
    assert len(list(loader)) > 1
    loader.batch_sampler.set_epoch(1)  # as Lightning and Accelerate do
    assert loader.state_dict()["epoch"] == 1
    assert loader.state_dict()["next"] == 0


@pytest.mark.parametrize("num_workers", [0, 2])
def test_torchdata_goes_on_within_an_epoch(dataset, manifest, num_workers):
    stateful = pytest.importorskip("torchdata.stateful_dataloader")

    def loader(of: AudioDataset):
        seconds = [0.1 + index / 100 for index in range(NUM)]
        sampler = LengthBatchSampler(seconds, 1.0, dataset=of)
        return sampler, stateful.StatefulDataLoader(
            of, batch_sampler=sampler, collate_fn=collate, num_workers=num_workers
        )

    sampler, first = loader(dataset)
    sampler.set_epoch(1)
    whole = heard(first)
    given = []
    for batch in itertools.islice(first, 2):
        given += heard([batch])
        state = first.state_dict()

    _, second = loader(AudioDataset(manifest, augment=louder, seed=1))
    second.load_state_dict(state)
    assert given + heard(second) == whole


def test_torchdata_goes_on_after_an_epoch_with_the_next_one(dataset):
    stateful = pytest.importorskip("torchdata.stateful_dataloader")
    seconds = [0.1 + index / 100 for index in range(NUM)]
    samplers = [LengthBatchSampler(seconds, 1.0, dataset=dataset) for _ in range(2)]
    first, second = (
        stateful.StatefulDataLoader(dataset, batch_sampler=one, collate_fn=collate)
        for one in samplers
    )
    assert len(list(first)) == len(samplers[0])
    second.load_state_dict(first.state_dict())
    samplers[0].set_epoch(1)
    assert heard(second) == heard(first)


def test_a_plain_loader_of_torchs_takes_the_sampler(dataset):
    sampler = LengthBatchSampler([0.2] * NUM, 1.0, dataset=dataset)
    loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=collate)
    assert len(loader) == len(sampler)
    assert sorted(index for batch in loader for index in indices(batch)) == list(range(NUM))
