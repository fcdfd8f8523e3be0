"""RVC's, Applio's, so-vits-svc's and DDSP-SVC's own feature steps, from their published sources.

Each takes a folder and gives what the tool writes, by the names below that folder. The encoder is
transformers' own module, one recording at a time; `hidden_states[k]` of a post-norm model is what
fairseq's `output_layer=k` gives.
"""

import json
from collections.abc import Callable
from pathlib import Path

import librosa
import numpy as np
import soundfile
import torch
from torch import Tensor
from torchaudio.transforms import Resample
from transformers import HubertConfig, HubertModel

Written = dict[str, np.ndarray]


class WithFinalProj(HubertModel):
    """As `infer/hubert.py` of RVC and `rvc/lib/utils.py` of Applio define it."""

    def __init__(self, config: HubertConfig) -> None:
        super().__init__(config)
        self.final_proj = torch.nn.Linear(config.hidden_size, config.classifier_proj_size)


def layer(model: WithFinalProj, waveform: Tensor, number: int) -> Tensor:
    """(1, frames, dim) of a waveform (samples,)."""
    return model(waveform[None], output_hidden_states=True).hidden_states[number]


def rvc(experiment: Path, model: WithFinalProj, version: str, *, normalize: bool) -> Written:
    """RVC 4338f12, `train/dataset/extract_hubert_feature.py`."""
    written = {}
    for path in sorted((experiment / "1_16k_wavs").glob("*.wav")):
        samples, rate_hz = soundfile.read(path)
        assert rate_hz == 16_000
        waveform = torch.from_numpy(samples).float()
        if waveform.dim() == 2:
            waveform = waveform.mean(-1)
        if normalize:
            waveform = torch.nn.functional.layer_norm(waveform, waveform.shape)
        with torch.no_grad():
            if version == "v1":
                features = model.final_proj(layer(model, waveform, 9))
            else:
                features = model(waveform[None]).last_hidden_state
        folder = "3_feature256" if version == "v1" else "3_feature768"
        written[f"{folder}/{path.stem}.npy"] = features.squeeze(0).float().numpy()
    return written


def applio(experiment: Path, model: WithFinalProj) -> Written:
    """Applio b9c0ccb1, `rvc/train/extract/extract.py`."""
    written = {}
    for path in sorted((experiment / "sliced_audios_16k").glob("*.wav")):
        samples, _rate_hz = librosa.load(path, sr=16_000)
        with torch.no_grad():
            features = model(torch.from_numpy(samples).float().view(1, -1))["last_hidden_state"]
        written[f"extracted/{path.stem}.npy"] = features.squeeze(0).float().numpy()
    return written


def so_vits_svc(folder: Path, encode: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """so-vits-svc 730930d, `preprocess_hubert_f0.py`; `encode` is its encoder's forward."""
    written = {}
    for path in sorted(folder.glob("*/*.wav")):
        samples, _rate_hz = librosa.load(path, sr=44_100)
        waveform = torch.from_numpy(librosa.resample(samples, orig_sr=44_100, target_sr=16_000))
        with torch.no_grad():
            features = encode(waveform).transpose(1, 2)
        written[f"{path.relative_to(folder)}.soft.pt"] = features
    return written


def ddsp_svc(folder: Path, model: WithFinalProj) -> Written:
    """DDSP-SVC 88f157c, `preprocess.py` and `Units_Encoder.encode` of `ddsp/vocoder.py`."""
    written, resample = {}, Resample(44_100, 16_000, lowpass_filter_width=128)
    for path in sorted((folder / "audio").rglob("*.wav")):
        audio = torch.from_numpy(librosa.load(path, sr=44_100)[0])
        at_16k = resample(audio)
        if len(at_16k) < 400:  # it pads `audio` here
            at_16k = torch.nn.functional.pad(at_16k, (0, 400 - len(at_16k)))
        with torch.no_grad():
            units = layer(model, at_16k, 12)
        ratio = (512 / 44_100) / (320 / 16_000)
        index = torch.round(ratio * torch.arange(len(audio) // 512 + 1)).long()
        index = torch.clamp(index, max=units.size(1) - 1)
        name = f"units/{path.relative_to(folder / 'audio')}.npy"
        written[name] = units[0, index].numpy()
    return written


def fairseq(tsv: Path, model: WithFinalProj, number: int, *, normalize: bool) -> Written:
    """fairseq 3d262bb2, `dump_hubert_feature.py`, of one shard: all frames, and their numbers."""
    root, *lines = tsv.read_text().splitlines()
    features = []
    for line in lines:
        samples, rate_hz = soundfile.read(f"{root}/{line.split(chr(9))[0]}", dtype="float32")
        assert rate_hz == 16_000
        waveform = torch.from_numpy(samples)
        if normalize:
            waveform = torch.nn.functional.layer_norm(waveform, waveform.shape)
        with torch.no_grad():
            features.append(layer(model, waveform, number)[0].numpy())
    return {"npy": np.concatenate(features), "len": np.array([len(one) for one in features])}


def save_folder(model: WithFinalProj, folder: Path, *, normalize: bool = False) -> WithFinalProj:
    """A model as RVC ships it, its weights in float16; returns it as its tools load it."""
    model.config.save_pretrained(folder)
    weights = {name: weight.half() for name, weight in model.state_dict().items()}
    torch.save(weights, folder / "pytorch_model.bin")
    says = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "do_normalize": normalize}
    (folder / "preprocessor_config.json").write_text(json.dumps(says))
    return WithFinalProj.from_pretrained(folder, dtype=torch.float32).eval()
