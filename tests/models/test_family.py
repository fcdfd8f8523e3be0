"""Settings of each family: transformers' defaults, and what is refused by name and value."""

from importlib import import_module
from typing import Any

import pytest
import torch
import transformers

from extract import choices
from extract.models.family import as_checkpoint, find_family, model_types
from extract.models.load import load_model
from extract.models.weights import weight_shapes
from support.models import FAMILIES, family_model, fingerprint_of

CONFIGS = {
    "data2vec-audio": transformers.Data2VecAudioConfig,
    "hubert": transformers.HubertConfig,
    "unispeech-sat": transformers.UniSpeechSatConfig,
    "wav2vec2": transformers.Wav2Vec2Config,
    "wavlm": transformers.WavLMConfig,
}


def test_every_family_has_a_row_here() -> None:
    assert set(model_types()) == set(CONFIGS)
    assert len(choices.names("families")) == len(CONFIGS)


@pytest.mark.parametrize("model_type", CONFIGS)
def test_a_setting_that_a_config_leaves_out_has_transformers_default(model_type: str) -> None:
    config, family = CONFIGS[model_type](), find_family(model_type)
    module = import_module(f"extract.models.families.{model_type.replace('-', '_')}")
    assert family is module
    defaults = {name: getattr(config, name, None) for name in module.DEFAULTS}
    assert defaults == module.DEFAULTS
    assert module.architecture({}) == module.architecture(config.to_dict())


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_those_of_transformers(family: str) -> None:
    model = family_model(family)
    expected = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    training = {"masked_spec_embed", "encoder.pos_conv_embed.batch_norm.num_batches_tracked"}
    expected = {name: shape for name, shape in expected.items() if name not in training}
    assert weight_shapes(as_checkpoint(model).architecture) == expected


@pytest.mark.parametrize("family", ["xls_r", "wavlm", "data2vec_audio", "mhubert"])
@pytest.mark.parametrize("with_a_head", [False, True])
def test_a_folder_loads_with_and_without_a_head(tmp_path, family: str, with_a_head: bool) -> None:
    model = family_model(family)
    if with_a_head:
        head = getattr(transformers, f"{FAMILIES[family][0]}ForCTC")(model.config)
        getattr(head, model.base_model_prefix).load_state_dict(model.state_dict())
        head.save_pretrained(tmp_path)
    else:
        model.save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path))
    assert fingerprint_of(loaded) == fingerprint_of(model)
    for name, weight in loaded.weights.items():
        assert torch.equal(weight, model.state_dict()[name])


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("wav2vec2", {"add_adapter": True}, "add_adapter is True; this encoder computes False"),
    ("wavlm", {"add_adapter": True}, "add_adapter is True"),
    ("data2vec-audio", {"add_adapter": True}, "add_adapter is True"),
    ("wav2vec2", {"adapter_attn_dim": 16}, "adapter_attn_dim is 16; this encoder computes None"),
    ("wav2vec2", {"hidden_act": "relu"}, "hidden_act is relu"),
    ("hubert", {"conv_pos_batch_norm": "yes"}, "conv_pos_batch_norm is yes"),
    ("wavlm", {"num_buckets": 3}, "num_buckets and max_bucket_distance is 3 and 800"),
    ("wavlm", {"max_bucket_distance": 80}, "num_buckets and max_bucket_distance is 320 and 80"),
    ("wavlm", {"num_buckets": True}, "num_buckets and max_bucket_distance is True and 800"),
    ("data2vec-audio", {"num_conv_pos_embeddings": 10**9}, "num_conv_pos_embeddings is 1000000000"),
    ("data2vec-audio", {"conv_pos_kernel_size": 0}, "conv_pos_kernel_size is 0"),
]


@pytest.mark.parametrize(("model_type", "settings", "words"), REFUSED, ids=str)
def test_what_is_not_computed_is_refused_by_setting_and_value(
    model_type: str, settings: dict[str, Any], words: str
) -> None:
    family = find_family(model_type)
    assert family is not None
    with pytest.raises(ValueError, match=words):
        family.architecture(settings)
