"""The reference's way of working as a loop: `python -m benchmarks.reference IN OUT MODEL`.

Does for each recording what GPT-SoVITS's feature step (`2-get-hubert-wav32k.py`) does: an ffmpeg
process that pipes 32 kHz mono float32, the peak gate, the blend of two levels, `librosa.resample`
to 16 kHz, a forward of this utterance that also builds the autograd graph, the WAV, then the
features under a temporary name that is renamed. It uses neither GPT-SoVITS's code nor this
package's.

`--decoder pyav` decodes in this process, frame by frame, for machines without ffmpeg.
"""

import argparse
import shutil
import subprocess
import time
from itertools import chain
from pathlib import Path

import numpy as np

RECORDING_RATE_HZ, ENCODER_RATE_HZ = 32_000, 16_000
MAXX, ALPHA, MAX_PEAK = 0.95, 0.5, 2.2
ENCODER_SCALE, INT16_SCALE = 1145.14, 32768


def decode_ffmpeg(path: Path) -> np.ndarray:
    """(samples,) float32 at 32 kHz, from an ffmpeg process."""
    command = ["ffmpeg", "-nostdin", "-threads", "0", "-i", str(path), "-f", "f32le"]
    command += ["-acodec", "pcm_f32le", "-ac", "1", "-ar", str(RECORDING_RATE_HZ), "-"]
    out = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(out, np.float32).flatten()


def decode_pyav(path: Path) -> np.ndarray:
    """(samples,) float32 at 32 kHz, by PyAV's plain loop."""
    import av

    resampler = av.AudioResampler("flt", "mono", RECORDING_RATE_HZ)
    with av.open(str(path)) as container:
        frames = chain(container.decode(audio=0), [None])
        pieces = [piece.to_ndarray()[0] for frame in frames for piece in resampler.resample(frame)]
    return np.concatenate(pieces)


DECODERS = {"ffmpeg": decode_ffmpeg, "pyav": decode_pyav}


def extract_all(
    recordings: Path, out: Path, model_dir: Path, device: str, half: bool, decoder: str
) -> int:
    """Extracts every recording of a folder, in order; returns how many were saved."""
    import librosa
    import soundfile
    import torch
    from transformers import HubertModel

    features_dir, wav_dir = out / "4-cnhubert", out / "5-wav32k"
    features_dir.mkdir(parents=True)
    wav_dir.mkdir()
    model = HubertModel.from_pretrained(model_dir, local_files_only=True).eval().to(device)
    if half:
        model = model.half()
    num_saved = 0
    for path in sorted(recordings.iterdir()):
        samples = DECODERS[decoder](path)
        peak = np.abs(samples).max()
        if peak > MAX_PEAK:
            continue
        wav32k = samples / peak * (MAXX * ALPHA * INT16_SCALE)
        wav32k += (1 - ALPHA) * INT16_SCALE * samples
        heard = samples / peak * (MAXX * ALPHA * ENCODER_SCALE)
        heard += (1 - ALPHA) * ENCODER_SCALE * samples
        heard = librosa.resample(heard, orig_sr=RECORDING_RATE_HZ, target_sr=ENCODER_RATE_HZ)
        waveform = torch.from_numpy(heard).to(device)
        waveform = waveform.half() if half else waveform
        # GPT-SoVITS has no `no_grad` here either.
        features = model(waveform.unsqueeze(0)).last_hidden_state.transpose(1, 2).cpu()
        if np.isnan(features.detach().numpy()).any():
            continue
        soundfile.write(wav_dir / path.name, wav32k.astype("int16"), RECORDING_RATE_HZ)
        temporary = out / f"{time.time()}.pth"
        torch.save(features.detach(), temporary)
        shutil.move(temporary, features_dir / f"{path.name}.pt")
        num_saved += 1
    return num_saved


def main() -> None:
    """Runs the loop and prints how many recordings were saved."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("recordings", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--half", action="store_true")
    parser.add_argument("--decoder", choices=DECODERS, default="ffmpeg")
    options = parser.parse_args()
    num_saved = extract_all(
        options.recordings,
        options.out,
        options.model,
        options.device,
        options.half,
        options.decoder,
    )
    print(f"{num_saved} saved")


if __name__ == "__main__":
    main()
