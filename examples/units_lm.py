"""Units of speech, and a bigram language model on them.

    python examples/units_lm.py RECORDINGS STORE --clusters 100

Most recordings are for training, one in `--held-out` for the test. k-means learns centres of the
training features, and each frame becomes the number of its nearest centre. A bigram model counts
which unit follows which. Its perplexity is that of the units held out, to be compared with that of
a unigram model, which does not look at the unit before, and with the number of units.

Needs scikit-learn: pip install 'extract-ssl[units]'
"""

import argparse
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from extract import (
    AudioDataset,
    Encoder,
    FeatureBatch,
    FeatureDataset,
    collate_features,
    fit_kmeans,
    load_model,
    read_folder,
)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("recordings", help="a folder")
    parser.add_argument("store", help="a folder for features, made or gone on with")
    parser.add_argument("--model", default="facebook/hubert-base-ls960")
    parser.add_argument("--layer", type=int, default=None, help="6 of HuBERT base; else the last")
    parser.add_argument("--device", default="cpu", help="cuda:0")
    parser.add_argument("--clusters", type=int, default=100)
    parser.add_argument("--held-out", type=int, default=10, help="one recording in so many")
    parser.add_argument("--dedup", action="store_true", help="merge repeated units")
    parser.add_argument("--num-workers", type=int, default=4)
    return parser.parse_args(argv)


def stored_features(args: argparse.Namespace) -> FeatureDataset:
    """The features of all recordings; those that the store lacks are computed first."""
    encoder = Encoder(load_model(args.model), device=args.device, layer=args.layer)
    recordings = AudioDataset(
        read_folder(args.recordings),
        stack=encoder.architecture.stack,
        unit_variance=encoder.wants_unit_variance,  # as the model was trained
    )
    stored = FeatureDataset(args.store, encoder, write=True, recordings=recordings, layout="npy")
    stored.fill(num_workers=args.num_workers)
    return stored


def perplexity(probabilities: Tensor, sequences: list[Tensor]) -> float:
    """Of units, given the one before: exp of the mean of -log p(unit | unit before)."""
    pairs = torch.cat([torch.stack([units[:-1], units[1:]]) for units in sequences], dim=1)
    return float(torch.exp(-probabilities[pairs[0], pairs[1]].log().mean()))


def unigram(sequences: list[Tensor], num_units: int) -> Tensor:
    """p(unit), the same in each row of (num_units, num_units); one is added to each count."""
    counts = torch.bincount(torch.cat(sequences), minlength=num_units) + 1.0
    return (counts / counts.sum()).expand(num_units, num_units)


def bigram(sequences: list[Tensor], num_units: int) -> Tensor:
    """p(unit | unit before), (num_units, num_units), smoothed by the unigram model."""
    counts = unigram(sequences, num_units) * num_units
    for units in sequences:
        ones = torch.ones(len(units) - 1)
        counts = counts.index_put((units[:-1], units[1:]), ones, accumulate=True)
    return counts / counts.sum(1, keepdim=True)


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    args = arguments(argv)
    stored = stored_features(args)
    is_held_out = torch.arange(len(stored)) % args.held_out == args.held_out - 1

    def batches(chosen: Tensor) -> Iterable[FeatureBatch]:
        part = Subset(stored, torch.nonzero(chosen).flatten().tolist())
        return DataLoader(
            part, batch_size=8, collate_fn=collate_features, num_workers=args.num_workers
        )

    kmeans = fit_kmeans(batches(~is_held_out), args.clusters)

    def units(chosen: Tensor) -> list[Tensor]:
        found = [
            kmeans.units(features[:frames])  # (frames, dimensions) -> (frames,)
            for batch in batches(chosen)
            for features, frames in zip(batch.features, batch.feature_lengths, strict=True)
        ]
        return [torch.unique_consecutive(one) for one in found] if args.dedup else found

    train, test = units(~is_held_out), units(is_held_out)
    found = {
        "bigram": perplexity(bigram(train, args.clusters), test),
        "unigram": perplexity(unigram(train, args.clusters), test),
        "uniform": float(args.clusters),
    }
    for name, value in found.items():
        print(f"{name:>8}: perplexity {value:.2f}")
    return found


if __name__ == "__main__":
    main()
