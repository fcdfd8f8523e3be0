"""Models as fairseq, s3prl and torchaudio save them; names and settings are written out here.

The names are those of fairseq's `HubertModel`, `Wav2Vec2Model` and `TransformerEncoder`
(fairseq/models/hubert/hubert.py, fairseq/models/wav2vec/wav2vec2.py), which s3prl and WavLM keep.
"""

import argparse
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformers import HubertModel


def fairseq_state(model: HubertModel) -> dict[str, Tensor]:
    """A HuBERT's tensors by fairseq's names, those of its pre-training beside them."""
    ours, of = model.state_dict(), model.config
    state: dict[str, Tensor] = {}

    def both(theirs: str, transformers: str) -> None:
        for part in ("weight", "bias"):
            if f"{transformers}.{part}" in ours:
                state[f"{theirs}.{part}"] = ours[f"{transformers}.{part}"]

    for i in range(len(of.conv_dim)):
        conv = f"feature_extractor.conv_layers.{i}"
        both(f"{conv}.0", f"{conv}.conv")
        both(
            f"{conv}.2.1" if of.feat_extract_norm == "layer" else f"{conv}.2", f"{conv}.layer_norm"
        )
    both("layer_norm", "feature_projection.layer_norm")
    both("post_extract_proj", "feature_projection.projection")
    conv = "encoder.pos_conv_embed.conv"
    state["encoder.pos_conv.0.weight_g"] = ours[f"{conv}.parametrizations.weight.original0"]
    state["encoder.pos_conv.0.weight_v"] = ours[f"{conv}.parametrizations.weight.original1"]
    state["encoder.pos_conv.0.bias"] = ours[f"{conv}.bias"]
    both("encoder.layer_norm", "encoder.layer_norm")
    for i in range(of.num_hidden_layers):
        layer = f"encoder.layers.{i}"
        for projection in ("k_proj", "v_proj", "q_proj", "out_proj"):
            both(f"{layer}.self_attn.{projection}", f"{layer}.attention.{projection}")
        both(f"{layer}.self_attn_layer_norm", f"{layer}.layer_norm")
        both(f"{layer}.fc1", f"{layer}.feed_forward.intermediate_dense")
        both(f"{layer}.fc2", f"{layer}.feed_forward.output_dense")
        both(f"{layer}.final_layer_norm", f"{layer}.final_layer_norm")
    state["mask_emb"] = ours["masked_spec_embed"]
    state["label_embs_concat"] = ours["masked_spec_embed"].expand(5, -1).clone()
    state["final_proj.weight"] = ours["feature_projection.projection.weight"][:8].clone()
    state["final_proj.bias"] = ours["feature_projection.projection.bias"][:8].clone()
    return state


def fairseq_config(model: HubertModel) -> dict[str, Any]:
    """A model's settings as fairseq's `HubertConfig` writes them."""
    of = model.config
    layers = zip(of.conv_dim, of.conv_kernel, of.conv_stride, strict=True)
    return {
        "_name": "hubert",
        "label_rate": 50.0,
        "extractor_mode": {"group": "default", "layer": "layer_norm"}[of.feat_extract_norm],
        "encoder_layers": of.num_hidden_layers,
        "encoder_embed_dim": of.hidden_size,
        "encoder_ffn_embed_dim": of.intermediate_size,
        "encoder_attention_heads": of.num_attention_heads,
        "activation_fn": "gelu",
        "dropout": 0.1,
        "final_dim": 8,
        "layer_norm_first": of.do_stable_layer_norm,
        "conv_feature_layers": " + ".join(f"[({a},{b},{c})]" for a, b, c in layers),
        "conv_bias": of.conv_bias,
        "conv_pos": of.num_conv_pos_embeddings,
        "conv_pos_groups": of.num_conv_pos_embedding_groups,
        "latent_temp": [2, 0.5, 0.999995],
    }


@contextmanager
def fairseq_dictionary() -> Iterator[Any]:
    """An object of `fairseq.data.dictionary.Dictionary` that can be pickled during the block."""
    with foreign_class("fairseq.data.dictionary", "Dictionary") as dictionary:
        found = dictionary()
        found.symbols, found.indices = ["<s>", "0", "1"], {"<s>": 0, "0": 1, "1": 2}
        yield found


@contextmanager
def foreign_class(module: str, name: str) -> Iterator[type]:
    """A class of a module that is not installed; pickles of its objects name it."""
    found = type(name, (), {"__module__": module})
    parts = module.split(".")
    modules = [".".join(parts[: number + 1]) for number in range(len(parts))]
    before = dict(sys.modules)
    sys.modules.update({part: types.ModuleType(part) for part in modules})
    setattr(sys.modules[module], name, found)
    try:
        yield found
    finally:
        for part in modules:
            del sys.modules[part]
            if part in before:
                sys.modules[part] = before[part]


def fairseq_file(model: HubertModel, *, normalize: bool = False) -> dict[str, Any]:
    """What ContentVec's `checkpoint_best_legacy_500.pt` holds, without its dictionary."""
    return {
        "args": None,
        "cfg": {
            "_name": None,
            "common": {"fp16": True, "seed": 1337},
            "model": fairseq_config(model),
            "task": {"_name": "hubert_pretraining", "sample_rate": 16_000, "normalize": normalize},
        },
        "model": fairseq_state(model),
        "criterion": None,
        "optimizer_history": [{"optimizer_name": "FairseqAdam", "num_updates": 400_000}],
        "task_state": {},
        "extra_state": {"train_iterator": {"epoch": 3}, "previous_training_time": 1.5},
        "last_optimizer_state": None,
    }


def fairseq_args_file(model: HubertModel, *, normalize: bool = False) -> dict[str, Any]:
    """What a file from before fairseq's configs holds: one namespace of all arguments."""
    settings = {name: value for name, value in fairseq_config(model).items() if name != "_name"}
    args = argparse.Namespace(
        arch="hubert",
        task="hubert_pretraining",
        normalize=normalize,
        no_progress_bar=True,
        **settings,
    )
    return {"args": args, "model": fairseq_state(model), "last_optimizer_state": None}


def finetuned_file(model: HubertModel) -> dict[str, Any]:
    """A model fine-tuned with CTC: its tensors' names and its settings are nested deeper."""
    inner = "w2v_encoder.w2v_model."
    state = {f"{inner}{name}": weight for name, weight in fairseq_state(model).items()}
    state["w2v_encoder.proj.weight"] = state[f"{inner}final_proj.weight"].clone()
    began = {"model": fairseq_config(model), "task": {"normalize": False}}
    return {
        "args": None,
        "cfg": {
            "model": {
                "_name": "hubert_ctc",
                "w2v_path": "a.pt",
                "normalize": True,
                "w2v_args": began,
            },
            "task": {"_name": "audio_finetuning", "normalize": True},
        },
        "model": state,
    }


def s3prl_file(model: HubertModel, *, normalize: bool = False) -> dict[str, Any]:
    """What `s3prl.upstream.hubert.convert` writes."""
    return {
        "task_cfg": {"sample_rate": 16_000, "normalize": normalize},
        "model_cfg": fairseq_config(model),
        "model_weight": fairseq_state(model),
        "dictionaries_symbols": [["<s>", "0"]],
    }


def torchaudio_state(model: HubertModel) -> dict[str, Tensor]:
    """A model's tensors as torchaudio's own importer names them.

    Its published `hubert_fairseq_base_ls960.pth` has a weight norm's earlier names.
    """
    from torchaudio.models.wav2vec2.utils import import_huggingface_model

    return {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): weight
        for name, weight in import_huggingface_model(model).state_dict().items()
    }
