"""Write the golden samples with the ffmpeg program.

`PYTHONPATH=tests python tests/audio/golden/make.py` does it.
Made with ffmpeg 5.1.9 on x86-64. `pcm.npz` holds whole outputs, 0.02 s each; `demo.npz` every
`DEMO_STEP`-th sample of the demo clips and, under `<name>:length`, how many there are.
"""

import tempfile
from pathlib import Path

import numpy as np

from support.recordings import DEMO, PCM, ffmpeg_decode, write_pcm

HERE = Path(__file__).parent
DEMO_STEP = 101
CASES = [
    (kind, rate_hz, num_channels)
    for kind in PCM
    for rate_hz, num_channels in ((8000, 1), (32000, 1), (44100, 2), (48000, 6))
]

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        pcm = {
            f"{kind}-{rate_hz}-{num_channels}": ffmpeg_decode(
                write_pcm(Path(folder) / "a.wav", kind, rate_hz, num_channels, 0.02)
            )
            for kind, rate_hz, num_channels in CASES
        }
    demo = {}
    for path in sorted(DEMO.glob("*_*")):
        samples = ffmpeg_decode(path)
        demo[path.name] = samples[::DEMO_STEP]
        demo[f"{path.name}:length"] = np.array(len(samples))
    np.savez_compressed(HERE / "pcm.npz", **pcm)
    np.savez_compressed(HERE / "demo.npz", **demo)
