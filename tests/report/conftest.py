"""A store with hostile names, every kind of rejection and two kinds of failure."""

import numpy as np
import pytest
import soundfile

from support.command import extract_into
from support.recordings import speech_like, write_wav

HOSTILE = (
    "<script>alert(1)<!--.wav",
    '" onerror="alert(1).wav',
    "</title></style><img src=x onerror=alert(1)>.wav".replace("/", "&sol;"),
    "'&lt;&#39;.wav",
    "\u202egnp.wav",
    "\x1b[31m.wav",
)
RATE = 16_000


@pytest.fixture(scope="session")
def recordings(tmp_path_factory):
    """Recordings with hostile names, and one for each kind of rejection and two of failure."""
    folder = tmp_path_factory.mktemp("recordings") / "in"
    for number, name in enumerate(HOSTILE):
        write_wav(folder / name, 0.5 + 0.1 * number, number)
    speech = speech_like(1.0)
    soundfile.write(folder / "loud.wav", 1.9 * speech, RATE, subtype="FLOAT")
    soundfile.write(folder / "quiet.wav", 0.001 * speech, RATE, subtype="FLOAT")
    soundfile.write(folder / "long.wav", speech_like(14), RATE)
    soundfile.write(folder / "above.wav", 9 * speech, RATE, subtype="FLOAT")
    soundfile.write(folder / "silent.wav", np.zeros(RATE), RATE)
    soundfile.write(folder / "blip.wav", speech[:100], RATE)
    soundfile.write(folder / "endless.wav", speech_like(16), RATE)
    soundfile.write(folder / "nan.wav", speech * np.float32("nan"), RATE, subtype="FLOAT")
    soundfile.write(folder / "empty.wav", np.zeros(0), RATE)
    (folder / "text.wav").write_text("no sound")
    (folder / "<script>alert(2)<!--.wav").write_text("no sound")
    return folder


@pytest.fixture(scope="session")
def store(recordings, tmp_path_factory):
    """The store of a run over `recordings`; no page is in it yet."""
    store = tmp_path_factory.mktemp("store") / "out"
    assert extract_into(store, recordings, "audio.max_duration_s=15") == 1
    return store
