"""A probe: predicts the log-mel spectrum of each frame from its features, with Lightning.

    python examples/probe.py RECORDINGS                   features on the fly
    python examples/probe.py RECORDINGS --store STORE     features from a store, filled first

Both train on the same batches, so that both come to the same loss. Which one is faster depends on
the disk and the card; on the fly the audio may also be augmented (see finetune.py).

Needs Lightning: pip install lightning
"""

import argparse
from collections.abc import Iterable, Sequence

import lightning
import torch
import torchaudio
from torch import Tensor, nn
from torch.utils.data import DataLoader

from extract import (
    AudioDataset,
    Encoder,
    FeatureBatch,
    FeatureDataset,
    LengthBatchSampler,
    RandomCrops,
    collate_features,
    load_model,
    make_loader,
    read_folder,
    stream_features,
)

NUM_MELS = 40


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("recordings", help="a folder")
    parser.add_argument("--store", help="a folder for features, made or gone on with")
    parser.add_argument("--model", default="TencentGameMate/chinese-hubert-base")
    parser.add_argument("--device", default="cpu", help="of the encoder: cuda:0")
    parser.add_argument("--accelerator", default="auto", help="of the probe, as Lightning names it")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-seconds", type=float, default=60.0)
    parser.add_argument("--num-frames", type=int, default=100, help="of a crop")
    parser.add_argument("--num-workers", type=int, default=4)
    return parser.parse_args(argv)


def batches(args: argparse.Namespace, encoder: Encoder) -> Iterable[FeatureBatch]:
    """The same batches, from files or on the fly."""
    recordings = AudioDataset(
        read_folder(args.recordings),
        stack=encoder.architecture.stack,
        unit_variance=encoder.wants_unit_variance,  # as the model was trained
    )
    workers = args.num_workers
    if args.store is None:
        loader = make_loader(recordings, args.batch_seconds, workers, shuffle=True)
        return stream_features(loader, encoder)
    stored = FeatureDataset(args.store, encoder, write=True, recordings=recordings, audio=True)
    stored.fill(num_workers=workers)
    sampler = LengthBatchSampler(stored.durations_s, args.batch_seconds)
    return DataLoader(
        stored, batch_sampler=sampler, collate_fn=collate_features, num_workers=workers
    )


class Probe(lightning.LightningModule):
    """Features (B, T, D) -> log-mel spectra (B, T, NUM_MELS), frame by frame."""

    def __init__(self, width: int, crops: RandomCrops) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, NUM_MELS))
        self.crops = crops
        # A window is a frame's piece of the 32 kHz audio: spectra are as many as frames.
        self.mel = torchaudio.transforms.MelSpectrogram(
            32_000, n_fft=crops.hop, hop_length=crops.hop, center=False, n_mels=NUM_MELS
        )
        self.losses: list[float] = []

    def training_step(self, batch: FeatureBatch, _number: int) -> Tensor:
        piece = self.crops(batch, self.current_epoch)  # T frames and T * hop samples of each
        target = (self.mel(piece.audio) + 1e-5).log().transpose(1, 2)  # (B, T, NUM_MELS)
        errors = (self.layers(piece.features.float()) - target).square().mean(2)  # (B, T)
        is_there = torch.arange(errors.shape[1], device=self.device) < piece.lengths[:, None]
        loss = (errors * is_there).sum() / is_there.sum()
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def main(argv: Sequence[str] | None = None) -> list[float]:
    args = arguments(argv)
    encoder = Encoder(load_model(args.model), device=args.device)
    lightning.seed_everything(0)
    stack = encoder.architecture.stack
    probe = Probe(encoder.hidden_size, RandomCrops(args.num_frames, stack=stack))
    trainer = lightning.Trainer(
        max_epochs=args.epochs,
        accelerator=args.accelerator,
        use_distributed_sampler=False,  # batches are shared out among ranks already
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(probe, batches(args, encoder))
    print(f"loss {probe.losses[0]:.4f} at first, {probe.losses[-1]:.4f} at the end")
    return probe.losses


if __name__ == "__main__":
    main()
