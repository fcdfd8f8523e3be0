"""Lightning and Accelerate run a few steps with our loader and stream; what they need is there."""

import pytest
import torch

from extract.data.dataset import AudioDataset
from extract.encoder.encoder import Encoder
from extract.manifest.sources.folder import read_folder
from extract.models.load import load_model
from extract.training.loader import make_loader
from extract.training.stream import stream_features
from support.augments import louder
from support.examples import command, example
from support.recordings import write_wav

NUM = 12

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*is not supported on CPU"),
    pytest.mark.filterwarnings("ignore:The .srun. command is available"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    for index in range(NUM - 1):
        write_wav(folder / f"{index:02}.wav", 0.1 + index / 50, index)
    (folder / "broken.wav").write_text("no recording")
    return read_folder(folder)


@pytest.fixture(scope="module")
def encoder():
    return Encoder(load_model("tiny_random"))


def loader_of(manifest, **options):
    dataset = AudioDataset(manifest, augment=louder)
    return make_loader(dataset, batch_seconds=1.0, num_workers=0, shuffle=True, **options)


def peaks(batches) -> dict[str, float]:
    return {one.id: one.peak for batch in batches for one in batch.recordings}


def of_epoch(manifest, epoch: int) -> dict[str, float]:
    loader = loader_of(manifest)
    loader.set_epoch(epoch)
    return peaks(loader)


@pytest.fixture
def lightning():
    return pytest.importorskip("lightning")


@pytest.fixture
def module(lightning):
    class Probe(lightning.LightningModule):
        """A linear layer on features, which notes what it is given."""

        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(32, 1)
            self.seen = []

        def training_step(self, batch, _number):
            self.seen.append((self.current_epoch, batch))
            return self.linear(batch.features).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01)

        def seen_in(self, epoch: int):
            return [batch for number, batch in self.seen if number == epoch]

    return Probe()


def trainer(lightning, tmp_path, **options):
    return lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=tmp_path,
        **{"enable_checkpointing": False} | options,
    )


def test_lightning_trains_on_a_stream_and_sets_its_epochs(
    lightning, module, manifest, encoder, tmp_path
):
    stream = stream_features(loader_of(manifest), encoder)

    class Data(lightning.LightningDataModule):
        def train_dataloader(self):
            return stream

    before = module.linear.weight.clone()
    trainer(lightning, tmp_path, max_epochs=2).fit(module, Data())
    assert not torch.equal(module.linear.weight, before)
    for epoch in (0, 1):
        assert peaks(module.seen_in(epoch)) == of_epoch(manifest, epoch)
    assert stream.failed == {"undecodable": 1}


@pytest.mark.parametrize("ahead", [1, 2])
def test_lightning_goes_on_within_an_epoch(
    lightning, module, manifest, encoder, tmp_path, monkeypatch, ahead
):
    """A checkpoint of its own, in the middle of an epoch, also where the loader is ahead."""

    def stream():
        stream = stream_features(loader_of(manifest), encoder)
        stream._encode.depth = ahead
        return stream

    whole = [batch.recordings for batch in stream()]
    assert len(whole) > 2
    saver = lightning.pytorch.callbacks.ModelCheckpoint(
        tmp_path, filename="a", every_n_train_steps=1, save_top_k=1, monitor=None
    )
    first = trainer(lightning, tmp_path, max_steps=1, callbacks=[saver], enable_checkpointing=True)
    first.fit(module, stream())
    assert [batch.recordings for _epoch, batch in module.seen] == whole[:1]

    module.seen.clear()
    second = trainer(lightning, tmp_path, max_epochs=1)
    second.fit(module, stream(), ckpt_path=tmp_path / "a.ckpt")
    assert [batch.recordings for batch in module.seen_in(0)] == whole[1:]


def test_lightning_takes_the_loader_itself(lightning, manifest, encoder, tmp_path):
    """A frozen dataclass it would not move to a device, but what has a method `to`."""
    seen = []

    class Probe(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(1, 1)

        def training_step(self, batch, _number):
            seen.append(batch)
            return self.linear(batch.waveforms[..., None]).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1e-9)

    trainer(lightning, tmp_path, max_steps=3).fit(Probe(), loader_of(manifest))
    assert [len(batch.recordings) for batch in seen] == [
        len(batch) for batch, _ in zip(loader_of(manifest), range(3), strict=False)
    ]


@pytest.fixture
def accelerator():
    accelerate = pytest.importorskip("accelerate")
    yield accelerate.Accelerator(cpu=True)
    accelerate.state.AcceleratorState._reset_state(True)


def test_accelerate_trains_on_a_stream_over_the_loader_it_prepared(manifest, encoder, accelerator):
    linear = torch.nn.Linear(32, 1)
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.01)
    linear, optimizer, loader = accelerator.prepare(linear, optimizer, loader_of(manifest))
    before = linear.weight.clone()
    stream = stream_features(loader, encoder)
    for epoch in range(2):
        loader.set_epoch(epoch)
        seen = []
        for batch in stream:
            accelerator.backward(linear(batch.features).square().mean())
            optimizer.step()
            optimizer.zero_grad()
            seen.append(batch)
        assert peaks(seen) == of_epoch(manifest, epoch)
    assert not torch.equal(linear.weight, before)


def test_accelerate_shares_out_a_loader_of_one_rank(manifest, accelerator):
    """In several processes it takes every so-many-th batch of a sampler that has all of them."""
    from accelerate.data_loader import prepare_data_loader

    parts = [
        prepare_data_loader(
            loader_of(manifest), num_processes=2, process_index=rank, even_batches=False
        )
        for rank in (0, 1)
    ]
    given = [peaks(part) for part in parts]
    assert not given[0].keys() & given[1].keys()
    assert given[0] | given[1] == of_epoch(manifest, 0)


def test_the_example_of_a_probe_comes_to_the_same_loss_from_files_and_on_the_fly(
    lightning, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    arguments = ["--epochs", "4", "--batch-seconds", "10", "--num-frames", "60"]
    arguments = [*command("probe"), *arguments, "--accelerator", "cpu"]
    probe = example("probe")
    stored = probe.main(arguments)
    where = arguments.index("--store")
    on_the_fly = probe.main(arguments[:where] + arguments[where + 2 :])
    assert len(stored) > 4 * 2
    assert stored == pytest.approx(on_the_fly, rel=0, abs=1e-4)
    assert stored[-1] < 0.7 * stored[0]
    assert len(set(stored)) == len(stored), "each step has a batch of its own"
