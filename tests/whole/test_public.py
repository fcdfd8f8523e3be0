"""What the package offers: each module on its own, the names of `__all__`, training on the fly."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import extract
from support.recordings import DEMO

PACKAGE = Path(extract.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if path.stem != "__main__"
)
NEED_TORCH = {
    *("AudioDataset", "Batch", "Crops", "Encoder", "FeatureBatch", "FeatureStream"),
    *("FeatureDataset", "FeatureStore", "collate_features"),
    *("LengthBatchSampler", "Loader", "RandomCrops", "TorchAugment"),
    *("collate", "fit_kmeans", "load_model", "make_loader", "run_shard", "stream_features"),
}
HEAVY = ("torch", "transformers", "hydra", "librosa", "av")


def python(code: str) -> str:
    command = [sys.executable, "-W", "error", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_every_module_imports_alone():
    """One process, everything of ours forgotten between two imports: no order is needed.

    Only what was compiled is kept.
    """
    python(
        "import sys, importlib\n"
        "from importlib.machinery import SourceFileLoader as Loader\n"
        "compiled, get_code = {}, Loader.get_code\n"
        "Loader.get_code = lambda self, name: (\n"
        "    compiled.get(name) or compiled.setdefault(name, get_code(self, name)))\n"
        f"for name in {MODULES}:\n"
        "    for known in [m for m in sys.modules if m.partition('.')[0] == 'extract']:\n"
        "        del sys.modules[known]\n"
        "    importlib.import_module(name)\n"
    )


def test_the_package_itself_imports_nothing_heavy():
    loaded = python("import sys, extract; print(*sys.modules)").split()
    assert not set(HEAVY) & set(loaded)


def test_no_name_brings_hydra_or_transformers_and_torch_comes_only_where_it_is_needed():
    """One process for all names, those that need no torch first."""
    without_torch = [name for name in extract.__all__ if name not in NEED_TORCH]
    python(
        "import sys, extract\n"
        f"for names, needs in (({without_torch}, False), ({sorted(NEED_TORCH)}, True)):\n"
        "    for name in names:\n"
        "        getattr(extract, name)\n"
        "        for heavy in ('hydra', 'transformers', *(() if needs else ('torch',))):\n"
        "            assert heavy not in sys.modules, (name, heavy)\n"
    )


def test_all_is_what_is_exported():
    namespace = {}
    exec("from extract import *", namespace)
    assert set(namespace) - {"__builtins__"} == set(extract.__all__)
    assert extract.__all__ == sorted(set(extract.__all__))
    assert set(extract.__all__) <= set(dir(extract))
    for name in extract.__all__:
        value = getattr(extract, name)
        assert value is getattr(importlib.import_module(value.__module__), name)
        assert value.__module__.startswith("extract.")
        assert value.__doc__, f"{name} says nothing of itself"


def test_a_type_checker_sees_the_same_names():
    tree = ast.parse((PACKAGE / "__init__.py").read_text("utf8"))
    [typed] = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.name: node.module
        for node in typed.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == {name: getattr(extract, name).__module__ for name in extract.__all__}
    assert (PACKAGE / "py.typed").exists()


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'extract' has no attribute 'nothing'"):
        _ = extract.nothing
    with pytest.raises(ImportError):
        exec("from extract import nothing")


def test_a_module_that_declares_what_it_exports_has_it():
    for name in MODULES:
        module = importlib.import_module(name)
        missing = [one for one in getattr(module, "__all__", ()) if not hasattr(module, one)]
        assert not missing, name


def test_training_on_the_fly_takes_five_lines():
    from extract import AudioDataset, make_loader, read_folder

    dataset = AudioDataset(read_folder(DEMO))
    num_seen = 0
    for batch in make_loader(dataset, batch_seconds=60, num_workers=2):
        assert batch.waveforms.shape == (len(batch), int(batch.lengths.max()))
        num_seen += len(batch)

    assert num_seen == len(dataset)


def test_features_on_the_fly_take_three_more():
    from extract import AudioDataset, Encoder, collate, load_model, num_frames, read_folder

    dataset = AudioDataset(read_folder(DEMO))
    batch = collate([dataset[0], dataset[1]])
    encoder = Encoder(load_model("tiny_random"))
    features = encoder.encode(batch.waveforms, batch.lengths.tolist())
    assert [one.values.shape[1] for one in features] == [
        num_frames(n) for n in batch.lengths.tolist()
    ]


def test_a_model_is_trained_on_features_on_the_fly(tmp_path):
    """The README's loop with an optimizer's step, over a folder with a broken recording in it."""
    from extract import AudioDataset, Encoder, load_model, make_loader, read_folder

    for path in DEMO.glob("*.wav"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "broken.wav").write_text("no recording")
    dataset = AudioDataset(read_folder(tmp_path))
    encoder = Encoder(load_model("tiny_random"))
    linear = torch.nn.Linear(encoder.hidden_size, 2)
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.1)
    before = linear.weight.clone()
    alone = [[index] for index in range(len(dataset))]  # so one batch has failures only
    sizes = []
    for batch in make_loader(dataset, batches=alone, num_workers=0):
        features = encoder.encode(batch.waveforms, batch.lengths.tolist())  # one per utterance
        sizes.append(len(features))
        for one in features:
            linear(one.values).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert sorted(sizes) == [0] + [1] * (len(dataset) - 1)
    assert not torch.equal(linear.weight, before)
