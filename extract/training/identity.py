"""What an encoder and a dataset of recordings would write: its store, and that store's identity."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from extract.choices import find
from extract.data.dataset import AudioDataset
from extract.encoder.encoder import Encoder
from extract.manifest.clashes import clash_message, find_clashes
from extract.manifest.ids import SUFFIXES
from extract.manifest.manifest import Manifest
from extract.shard import Shard
from extract.store import differences, metadata
from extract.store.existing import store_of
from extract.store.layout import LayoutOptions, TrainingAudio
from extract.store.metadata import NO_INPUT_NORM, Identity
from extract.store.opened import identity_of, settled
from extract.store.store import Store, no_url
from extract.systems import folds_case
from extract.text import printable
from extract.urls import as_url, was_url

UNIT_VARIANCE = "unit_variance"  # of the option model.input_norm
AUDIO = "store.audio"
KEPT = ("model", "dataset")  # of what metadata.json says beside the identity


def store_for(
    directory: Path | str,
    encoder: Encoder,
    recordings: AudioDataset,
    layout: str | LayoutOptions | None = None,
    shard: Shard | None = None,
) -> Store:
    """The store at `directory` for what an encoder makes of recordings; nothing is written.

    Args:
        directory: its folder, which need not exist.
        encoder: makes the features.
        recordings: prepares the waveforms.
        layout: its name or its options; None: the store's own, else that of the command.
        shard: which part is written.

    Raises:
        ValueError: what there is to save does not fit the layout, or is of augmented audio.
    """
    if recordings.augmentation is not None:
        found = "recordings with augment=...: their features are other ones in each epoch"
        raise ValueError(f"{found}; a store takes those of recordings as they are")
    if encoder.assign is not None:
        raise ValueError(
            "an encoder with a quantizer: its units are made by `python -m extract quantize STORE`;"
            " needed the encoder alone"
        )
    folder = Path(directory).expanduser()
    base = _base(folder, layout)
    options = replace(base.options, audio=_audio(base, recordings))
    store = Store(folder, fsync=options.fsync, options=options, part=str(shard or Shard()))
    _require_layers(encoder, store)
    _require_names(recordings.manifest, store)
    return settled(store, recordings.manifest.ids)


def _base(folder: Path, layout: str | LayoutOptions | None) -> Store:
    """The store with the options of its identity, or with those that are given."""
    if was_url(str(folder)):
        raise ValueError(no_url(as_url(str(folder)), "FeatureStore"))
    known = metadata.read(folder)
    identity = known["identity"] if known else {}
    if isinstance(layout, LayoutOptions):
        return Store(folder, options=replace(layout, dir=str(folder)))
    if layout is None or identity.get("layout") == layout:
        found = store_of(folder, identity)
        if not found.features:
            shown = printable(str(folder))
            raise ValueError(f"{shown}: keeps units alone (features=false); needed one of features")
    else:
        module: Any = find("layouts", layout)
        found = Store(folder, options=module.Options(dir=str(folder), layout=layout))
    for field in fields(found.options):
        value = getattr(found.options, field.name)
        if field.name != "dir" and isinstance(value, str) and "${" in value:
            example = f"layout={type(found.options).__module__}.Options({field.name}=...)"
            raise ValueError(f"{found.layout_name}: needed its option {field.name}: {example}")
    return found


def _audio(store: Store, recordings: AudioDataset) -> TrainingAudio:
    """Whether the store keeps training audio: if it did, and the recordings come with it."""
    known = metadata.read(store.directory)
    is_made = recordings.training_audio and recordings.settings.has_training_audio
    if not is_made or not store.layout.keeps_audio:
        return TrainingAudio.none
    if known is None:
        return store.options.audio
    return TrainingAudio[known["identity"].get(AUDIO, TrainingAudio.wav32k.name)]


def _require_layers(encoder: Encoder, store: Store) -> None:
    layers = list(encoder.wanted.layers)
    if len(layers) > 1 and not store.layout.takes_layers:
        raise ValueError(
            f"layers {layers}: a file of the layout {store.layout_name} holds one layer. Ways out: "
            'one layer, or a layout that takes several: layout="npy"'
        )


def _require_names(manifest: Manifest, store: Store) -> None:
    suffixes, folds = store.layout.suffixes, folds_case(str(store.directory))
    if suffixes != SUFFIXES or folds:  # those that a manifest was made for
        _repeats, clashes = find_clashes(
            manifest.ids, manifest.paths, manifest.cuts, suffixes, folds
        )
        if clashes:
            raise ValueError(clash_message(printable(manifest.source) or "manifest", clashes))


def identity_for(store: Store, encoder: Encoder, recordings: AudioDataset) -> Identity:
    """The identity of what an encoder makes of recordings, in a store of `store_for`."""
    return identity_of(
        store,
        encoder,
        recordings.manifest,
        recordings.settings,
        input_norm=UNIT_VARIANCE if recordings.unit_variance else NO_INPUT_NORM,
    )


def require_same(store: Store, encoder: Encoder, recordings: AudioDataset) -> None:
    """Refuses a store whose features are others than an encoder would make of recordings.

    Whether there is training audio beside them does not matter.

    Raises:
        ValueError: shows what differs, side by side.
    """
    known = metadata.read(store.directory)
    if known is not None:
        ours = identity_for(store, encoder, recordings)
        found = differences.compare(known["identity"], ours).differing
        found.pop(AUDIO, None)
        if found:
            raise ValueError(differences.Comparison(found).message(store.shown))


def said_before(directory: Path) -> dict[str, str]:
    """What a store's metadata say beside its identity, of the model and the data."""
    known = metadata.read(directory)
    said = known.get("made_with") if known else None
    if not isinstance(said, dict):
        return {}
    return {key: str(said[key]) for key in KEPT if key in said}
