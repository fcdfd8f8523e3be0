"""A model is the same from whatever file it comes."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    HubertModel,
)

from extract.encoder.encoder import Encoder
from extract.models.fingerprint import fingerprint
from extract.models.load import load_model
from support.checkpoints import (
    fairseq_args_file,
    fairseq_dictionary,
    fairseq_file,
    fairseq_state,
    finetuned_file,
    s3prl_file,
    torchaudio_state,
)
from support.models import folder_of, small_model

Writer = Callable[[HubertModel, Path], Path]


def exact_in_half(norm: str, **settings: Any) -> HubertModel:
    """A random model whose every weight is a float16."""
    model = small_model(norm, **settings)
    for weight in model.parameters():
        weight.copy_(weight.half())
    return model


def _folder(kind: str) -> Writer:
    return lambda model, where: folder_of(model, where / "model", kind)


def _half_folder(model: HubertModel, where: Path) -> Path:
    folder = folder_of(model, where / "model", "bin")
    torch.save({k: v.half() for k, v in model.state_dict().items()}, folder / "pytorch_model.bin")
    return folder


def _sharded_safetensors(model: HubertModel, where: Path) -> Path:
    model.save_pretrained(where / "model", max_shard_size="100KB")
    assert len(list((where / "model").glob("model-*.safetensors"))) > 2
    return where / "model"


def _sharded_bin(model: HubertModel, where: Path) -> Path:
    folder = folder_of(model, where / "model", "bin")
    (folder / "pytorch_model.bin").unlink()
    names = list(model.state_dict())
    weight_map = {}
    for number in range(3):
        shard = f"pytorch_model-0000{number + 1}-of-00003.bin"
        torch.save({name: model.state_dict()[name] for name in names[number::3]}, folder / shard)
        weight_map |= dict.fromkeys(names[number::3], shard)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


def _contentvec(model: HubertModel, where: Path) -> Path:
    with fairseq_dictionary() as dictionary:
        task_state = {"dictionaries": [dictionary]}
        path = where / "checkpoint_best_legacy_500.pt"
        torch.save({**fairseq_file(model), "task_state": task_state}, path)
    return path


def _contentvec_half(model: HubertModel, where: Path) -> Path:
    held = fairseq_file(model)
    held["model"] = {name: weight.half() for name, weight in held["model"].items()}
    torch.save(held, where / "hubert_base.pt")
    return where / "hubert_base.pt"


def _facebook(model: HubertModel, where: Path) -> Path:
    """Named by an ending that says nothing."""
    with fairseq_dictionary() as dictionary:
        held = {**fairseq_args_file(model), "task_state": {"dictionaries": [dictionary]}}
        torch.save(held, where / "hubert_base_ls960.model")
    return where / "hubert_base_ls960.model"


def _before_zip(model: HubertModel, where: Path) -> Path:
    held = fairseq_args_file(model)
    torch.save(held, where / "old.pth", _use_new_zipfile_serialization=False)
    return where / "old.pth"


def _finetuned(model: HubertModel, where: Path) -> Path:
    torch.save(finetuned_file(model), where / "ctc.pt")
    return where / "ctc.pt"


def _s3prl(model: HubertModel, where: Path) -> Path:
    torch.save(s3prl_file(model), where / "s3prl.pt")
    return where / "s3prl.pt"


def _beside_config(state: Callable[[HubertModel], dict[str, Tensor]]) -> Writer:
    """Tensors alone, in a folder whose config.json says what their shapes do not."""

    def write(model: HubertModel, where: Path) -> Path:
        folder = folder_of(model, where / "model", "bin")
        torch.save(state(model), folder / "pytorch_model.bin")
        return folder

    return write


WRITERS: dict[str, Writer] = {
    "safetensors": _folder("safetensors"),
    "bin": _folder("bin"),
    "float16": _half_folder,
    "safetensors in shards": _sharded_safetensors,
    "bin in shards": _sharded_bin,
    "ContentVec": _contentvec,
    "ContentVec in float16": _contentvec_half,
    "Facebook": _facebook,
    "before torch 1.6": _before_zip,
    "fine-tuned": _finetuned,
    "s3prl": _s3prl,
    "torchaudio": _beside_config(torchaudio_state),
    "slim": _beside_config(fairseq_state),
    "several processes'": _beside_config(
        lambda model: {f"module.{name}": weight for name, weight in fairseq_state(model).items()}
    ),
}


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("kind", WRITERS)
def test_a_model_is_the_same_from_every_file(tmp_path: Path, kind: str, norm: str) -> None:
    model = exact_in_half(norm)
    plain = load_model(str(folder_of(model, tmp_path / "plain")))
    loaded = load_model(str(WRITERS[kind](model, tmp_path)))
    assert fingerprint(loaded) == fingerprint(plain)

    generator = torch.Generator().manual_seed(3)
    waveforms = [torch.randn(size, generator=generator) * 200 for size in (400, 9_000)]
    batch = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True)
    found = Encoder(loaded, precision="fp32").encode(batch, [400, 9_000])
    for features, waveform in zip(found, waveforms, strict=True):
        expected = model(waveform[None]).last_hidden_state[0]
        assert float((features.values - expected).abs().max()) <= 1e-5


@pytest.mark.parametrize("kind", ["ContentVec", "before torch 1.6"])
def test_loaded_weights_are_none_of_the_files_memory(tmp_path: Path, kind: str) -> None:
    model = exact_in_half("group")
    path = WRITERS[kind](model, tmp_path)
    loaded = load_model(str(path))
    before = fingerprint(loaded)
    path.write_bytes(bytes(path.stat().st_size))
    assert fingerprint(loaded) == before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc says how much it was")
def test_an_optimizer_stays_on_the_disk(tmp_path: Path) -> None:
    model = exact_in_half("group")
    state = {number: torch.zeros(15_000_000) for number in range(5)}
    held = {**fairseq_file(model), "last_optimizer_state": {"state": state}}
    torch.save(held, tmp_path / "whole.pt")
    assert (tmp_path / "whole.pt").stat().st_size > 300_000_000
    torch.save(fairseq_file(model), tmp_path / "slim.pt")
    code = (  # VmHWM begins anew with a program; getrusage's begins with the parent's
        "import sys; from extract.models.load import load_model\n"
        "def peak():\n"
        "    [line] = [line for line in open('/proc/self/status') if line.startswith('VmHWM')]\n"
        "    return int(line.split()[1])\n"
        "load_model(sys.argv[1])\n"
        "before = peak()\n"
        "load_model(sys.argv[2])\n"
        "print(peak() - before)"
    )
    command = [sys.executable, "-c", code, tmp_path / "slim.pt", tmp_path / "whole.pt"]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    assert int(said.stdout) < 30_000  # KiB, of an optimizer of 293,000
