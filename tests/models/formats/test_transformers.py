"""A folder's weights may lie in shards; its preprocessor says what waveforms are."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoFeatureExtractor, HubertModel, Wav2Vec2FeatureExtractor

from extract.models import load
from extract.models.fingerprint import fingerprint
from extract.models.formats import transformers
from extract.models.formats.files import file_in
from extract.models.load import load_model
from support.models import folder_of, refusal, small_model


@pytest.fixture
def model() -> HubertModel:
    return small_model("group")


@pytest.fixture
def sharded(model: HubertModel, tmp_path: Path) -> Path:
    """As transformers itself writes it."""
    model.save_pretrained(tmp_path / "model", max_shard_size="100KB")
    return tmp_path / "model"


INDEX = "model.safetensors.index.json"


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("model-*.safetensors"))


def change_index(folder: Path, **changes: Any) -> None:
    index = json.loads((folder / INDEX).read_text())
    (folder / INDEX).write_text(json.dumps({**index, **changes}))


def test_one_file_goes_before_shards(sharded: Path, model: HubertModel) -> None:
    before = fingerprint(load_model(str(sharded)))
    (sharded / INDEX).write_text("{}")
    folder_of(model, sharded)
    assert fingerprint(load_model(str(sharded))) == before


def test_a_missing_shard_is_named(sharded: Path) -> None:
    gone = shards(sharded)[1]
    gone.unlink()
    words = f"{INDEX} names {gone.name}, which is missing; download it into the same folder"
    assert refusal(sharded) == words


def test_a_tensor_that_is_not_in_its_shard_is_named(sharded: Path) -> None:
    [first, second, *_] = shards(sharded)
    save_file(load_file(first), second)
    said = refusal(sharded)
    assert said.startswith(f"{second.name} holds no ")
    assert said.endswith(f"which {INDEX} places in it; download both again")


def test_a_shard_that_is_cut_off_is_named(sharded: Path) -> None:
    cut = shards(sharded)[1]
    cut.write_bytes(cut.read_bytes()[:-10])
    said = refusal(sharded)
    assert said.startswith(f"{cut.name} does not load: ")
    assert "if it is cut off or damaged, download it again" in said


@pytest.mark.parametrize(
    "shard", ["../model.safetensors", "/etc/passwd", "a/b.bin", "a\\b", "C:x", "..", "", 5, None]
)
def test_a_shard_outside_the_folder_is_refused(sharded: Path, shard: Any) -> None:
    change_index(sharded, weight_map={"a": shard})
    assert refusal(sharded).startswith(f"{INDEX} names ")
    assert refusal(sharded).endswith("as a shard; a file's name is needed")


@pytest.mark.parametrize("weight_map", [{}, None, [], "a"])
def test_an_index_without_shards_says_so(sharded: Path, weight_map: Any) -> None:
    change_index(sharded, weight_map=weight_map)
    assert refusal(sharded) == f"{INDEX} holds no weight_map; download it again"


def test_a_page_in_place_of_the_index_is_named(sharded: Path) -> None:
    (sharded / INDEX).write_text("<html>")
    assert refusal(sharded).startswith(f"{INDEX} is a web page")


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_file_is_what_it_holds_and_not_what_it_is_called(
    tmp_path: Path, model: HubertModel, name: str
) -> None:
    """A pickle named safetensors, and safetensors named a pickle."""
    expected = fingerprint(load_model(str(folder_of(model, tmp_path / "plain"))))
    folder = folder_of(model, tmp_path / "model")
    weights = {key: weight.clone() for key, weight in model.state_dict().items()}
    (folder / "model.safetensors").unlink()
    if name == "model.safetensors":
        torch.save(weights, folder / name)
    else:
        save_file(weights, folder / name)
    assert fingerprint(load_model(str(folder))) == expected


# --- what waveforms were in training -----------------------------------------------------------


def input_norm(folder: Path) -> bool | None:
    find = partial(file_in, str(folder))
    return transformers.read(find, transformers.read_settings(find)).input_norm


@pytest.fixture
def folder(tmp_path: Path, model: HubertModel) -> Path:
    return folder_of(model, tmp_path / "model")


def test_without_a_preprocessor_nothing_is_said(folder: Path) -> None:
    assert input_norm(folder) is None


@pytest.mark.parametrize("do_normalize", [True, False])
def test_a_preprocessor_says_whether_waveforms_are_normalised(
    folder: Path, do_normalize: bool
) -> None:
    Wav2Vec2FeatureExtractor(do_normalize=do_normalize).save_pretrained(folder)
    assert (folder / "preprocessor_config.json").is_file()
    assert input_norm(folder) is do_normalize


@pytest.mark.parametrize(
    ("processor", "preprocessor"),
    [
        (None, {"feature_size": 1}),
        ({"processor_class": "Wav2Vec2Processor"}, {"do_normalize": False}),
        ({"feature_extractor": {"do_normalize": False}}, None),
        ({"feature_extractor": {"do_normalize": False}}, {"do_normalize": True}),
        ({"feature_extractor": {"do_normalize": True}}, {"do_normalize": False}),
    ],
    ids=str,
)
def test_files_are_read_as_transformers_reads_them(
    folder: Path, processor: Any, preprocessor: Any
) -> None:
    if processor is not None:
        (folder / "processor_config.json").write_text(json.dumps(processor))
    if preprocessor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    assert input_norm(folder) is AutoFeatureExtractor.from_pretrained(folder).do_normalize


@pytest.mark.parametrize("value", ["yes", 1, None, []])
def test_a_preprocessor_that_says_neither_is_refused(folder: Path, value: Any) -> None:
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps({"do_normalize": value}))
    words = f"preprocessor_config.json: do_normalize is {value}; true or false is needed"
    assert refusal(folder) == words


# --- the hub's cache ---------------------------------------------------------------------------


@pytest.fixture
def snapshot(tmp_path: Path, sharded: Path) -> Path:
    """The sharded model as the hub's cache holds it."""
    repository = tmp_path / "models--some--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots").mkdir()
    return sharded.rename(repository / "snapshots" / "abc")


def test_shards_in_the_hubs_cache_need_no_network(tmp_path: Path, snapshot: Path) -> None:
    expected = fingerprint(load_model(str(snapshot)))
    assert fingerprint(load_model("some/model", cache_dir=tmp_path)) == expected


PREPROCESSORS = ("processor_config.json", "preprocessor_config.json")


class Hub:
    """A hub that holds what a folder holds, and notes what it is asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
        self.files: dict[str, str] = {}
        self.cache, self.asked, self.is_there = cache, list[str](), True
        self.cached = load._cached
        monkeypatch.setattr(load, "_probe_hub", self.probe)
        monkeypatch.setattr(load, "_cached", self.find)

    def probe(self, source: str, revision: str) -> None:
        if not self.is_there:
            raise OSError("no network here")

    def find(self, source: str, where: dict[str, Any], name: str) -> Path | None:
        if not where.get("local_files_only"):
            self.asked.append(name)
            repository = self.cache / "models--some--model"
            if name in self.files:
                (repository / "snapshots" / "abc" / name).write_text(self.files[name])
            else:  # as huggingface_hub notes it
                (repository / ".no_exist" / "abc").mkdir(parents=True, exist_ok=True)
                (repository / ".no_exist" / "abc" / name).touch()
        return self.cached(source, {**where, "local_files_only": True}, name)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, snapshot: Path) -> Hub:
    return Hub(monkeypatch, tmp_path)


def norm_by(hub: Hub, ask: bool = True) -> bool | None:
    return load_model("some/model", cache_dir=hub.cache, ask_input_norm=ask).input_norm


@pytest.mark.parametrize("do_normalize", [True, False])
def test_the_hub_is_asked_once_for_a_preprocessor_that_the_cache_lacks(
    hub: Hub, do_normalize: bool
) -> None:
    hub.files["preprocessor_config.json"] = json.dumps({"do_normalize": do_normalize})
    assert norm_by(hub, ask=False) is None
    assert hub.asked == []
    assert norm_by(hub) is do_normalize
    assert sorted(hub.asked) == sorted(PREPROCESSORS)
    hub.asked.clear()
    assert norm_by(hub) is norm_by(hub, ask=False) is do_normalize
    assert hub.asked == []


def test_the_hub_is_not_asked_again_for_what_it_does_not_have(hub: Hub) -> None:
    assert norm_by(hub) is None
    assert sorted(hub.asked) == sorted(PREPROCESSORS)
    hub.asked.clear()
    assert norm_by(hub) is None
    assert hub.asked == []


def test_without_a_network_the_models_norms_say_it_and_a_line_says_so(
    hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    hub.is_there = False
    assert norm_by(hub) is None
    [line] = caplog.messages
    assert line.startswith("some/model: the cache has no preprocessor_config.json")
    assert "(no network here)" in line
    assert "model.input_norm=none or unit_variance settles it" in line
    assert hub.asked == []


def test_a_shard_that_the_cache_does_not_hold_is_asked_of_the_hub(
    tmp_path: Path, snapshot: Path
) -> None:
    shards(snapshot)[1].unlink()
    with pytest.raises(
        ValueError, match=r"some/model: no model found; .* `hf download some/model`"
    ):
        load_model("some/model", cache_dir=tmp_path)
