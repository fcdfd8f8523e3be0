"""A loop in plain PyTorch: augmented audio, features on the fly, crops; goes on within an epoch.

    python examples/finetune.py RECORDINGS CHECKPOINT.pt

Trains a small decoder from features to audio, as voice conversion tools fine-tune theirs: each step
takes a crop of every utterance, so many frames and the audio of the same time. Recordings are
changed at random before features are computed of them. Killed or stopped, the same command goes on
after the step of the checkpoint, with the same crops and the same augmentation.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from extract import (
    AudioDataset,
    Encoder,
    RandomCrops,
    load_model,
    make_loader,
    read_folder,
    stream_features,
)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("recordings", help="a folder")
    parser.add_argument("checkpoint", type=Path, help="a file, made or gone on with")
    parser.add_argument("--model", default="TencentGameMate/chinese-hubert-base")
    parser.add_argument("--device", default="cpu", help="cuda:0")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-seconds", type=float, default=60.0)
    parser.add_argument("--num-frames", type=int, default=50, help="of a crop")
    parser.add_argument("--save-every", type=int, default=100, help="steps")
    parser.add_argument("--steps", type=int, default=None, help="stop after so many steps")
    parser.add_argument("--num-workers", type=int, default=4)
    return parser.parse_args(argv)


def quieter_and_noisy(samples: np.ndarray, rate_hz: int, rng: np.random.Generator) -> np.ndarray:
    """(num_samples,) float32 -> the same at a random level, with noise 20 to 40 dB below it."""
    noise = rng.standard_normal(len(samples), np.float32) * samples.std()
    return rng.uniform(0.5, 1.0) * (samples + noise * 10 ** (-rng.uniform(20, 40) / 20))


class Decoder(nn.Module):
    """Features (B, T, D) -> audio (B, T * hop) at 32 kHz."""

    def __init__(self, width: int, hop: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(width, 256, 3, padding=1), nn.GELU(), nn.Conv1d(256, hop, 1)
        )

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features.transpose(1, 2)).transpose(1, 2).flatten(1)


def spectral_loss(found: Tensor, wanted: Tensor) -> Tensor:
    """Mean absolute difference of log spectra of two (B, num_samples)."""
    window = torch.hann_window(1024, device=found.device)
    spectra = [
        torch.stft(audio, 1024, window=window, return_complex=True) for audio in (found, wanted)
    ]
    logs = [(spectrum.abs().square() + 1e-4).log() for spectrum in spectra]
    return (logs[0] - logs[1]).abs().mean()


def main(argv: Sequence[str] | None = None) -> list[float]:
    args = arguments(argv)
    encoder = Encoder(load_model(args.model), device=args.device)
    stack = encoder.architecture.stack
    dataset = AudioDataset(
        read_folder(args.recordings),
        stack=stack,
        unit_variance=encoder.wants_unit_variance,  # as the model was trained
        augment=quieter_and_noisy,
    )
    loader = make_loader(dataset, args.batch_seconds, args.num_workers, shuffle=True)
    stream = stream_features(loader, encoder)
    crops = RandomCrops(args.num_frames, stack=stack)

    torch.manual_seed(0)
    decoder = Decoder(encoder.hidden_size, crops.hop).to(args.device)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=1e-3)
    parts: dict[str, Any] = {"decoder": decoder, "optimizer": optimizer, "stream": stream}
    if args.checkpoint.exists():
        state = torch.load(args.checkpoint, map_location=args.device)
        for name, part in parts.items():
            part.load_state_dict(state[name])

    losses: list[float] = []
    for epoch in range(stream.epoch, args.epochs):
        stream.set_epoch(epoch)
        for batch in stream:
            piece = crops(batch, epoch)  # features (B, T, D), audio (B, T * hop)
            loss = spectral_loss(decoder(piece.features.float()), piece.audio)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            is_last = len(losses) == args.steps
            if is_last or len(losses) % args.save_every == 0:
                torch.save({n: part.state_dict() for n, part in parts.items()}, args.checkpoint)
            if is_last:
                return losses
        print(f"epoch {epoch}: loss {losses[-1]:.3f}; without features: {dict(stream.failed)}")
    torch.save({name: part.state_dict() for name, part in parts.items()}, args.checkpoint)
    return losses


if __name__ == "__main__":
    main()
