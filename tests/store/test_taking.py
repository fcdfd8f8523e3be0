"""Every layout takes an utterance from another store of its kind: the same bytes, or nothing."""

import pytest
import torch

from extract.store.layout import Kept, TrainingAudio
from extract.store.per_utterance import PerUtterance
from extract.store.reused import NotReusable, Reused
from extract.store.store import Store
from extract.values import Encoded, Features, Recording
from support.layouts import options as options_of

pytestmark = pytest.mark.each_layout

RECORDING = Recording(0, "a.wav", "/there/a.wav", 100, 7, 0.5, 1.0, 0)


def made(layout: str, directory) -> Store:
    options = options_of(layout, dir=str(directory))
    store = Store(directory, fsync=False, options=options)
    store.create()
    return store


def all_kept(store: Store, kept) -> Kept:
    [one] = [*kept, *store.layout.close()]
    return one


def encoded(store: Store, dtype: str) -> Encoded:
    draw = torch.Generator().manual_seed(0)
    values = torch.randn(1, 4, 49, generator=draw).mT.to(getattr(torch, dtype))
    has_audio = store.options.audio is TrainingAudio.wav32k
    wav = torch.arange(32_000 * has_audio, dtype=torch.int16)
    return Encoded(RECORDING, Features(values, True, False), wav)


@pytest.fixture
def donor(layout, tmp_path):
    """A store with one utterance, what it keeps of it, and how another store asks for that."""
    store = made(layout, tmp_path / "donor")
    dtype = store.layout.dtypes[-1]  # the least like float32
    item = encoded(store, dtype)
    kept = all_kept(store, store.layout.put(item))
    line = {"dtype": dtype, "num_frames": 49, "retried_fp32": False}
    return store, kept, Reused(RECORDING, item.wav32k, store.layout, kept, line, "donor", 1e-7)


def test_it_is_what_put_writes(layout, donor, tmp_path):
    store, kept, item = donor
    own = made(layout, tmp_path / "own")
    ours = all_kept(own, own.layout.take(item))
    sizes = [file[1:] for file in kept.files]
    assert [file[1:] for file in ours.files] == sizes
    assert own.layout.intact(ours, checksum=True)
    assert torch.equal(own.layout.read(ours), store.layout.read(kept))
    is_linked = own.layout.links
    assert is_linked == isinstance(own.layout, PerUtterance)
    if is_linked:
        ours_, theirs = (of.directory / of_.files[0][0] for of, of_ in ((own, ours), (store, kept)))
        assert ours_.samefile(theirs)


@pytest.mark.parametrize("damage", ["gone", "another"])
def test_what_is_gone_or_damaged_is_not_taken_and_leaves_nothing(layout, donor, tmp_path, damage):
    store, kept, item = donor
    path = store.directory / kept.files[0][0]
    data = bytearray(path.read_bytes())
    path.unlink()
    if damage == "another":
        data[kept.files[0][1] + kept.files[0][2] // 2] ^= 1
        path.write_bytes(data)
    own = made(layout, tmp_path / "own")
    with pytest.raises(NotReusable):
        own.layout.take(item)
    own.layout.close()
    left = {path.name for path in own.directory.rglob("*") if path.is_file()}
    assert left <= {"model_info.json"}  # Applio's, about no utterance
