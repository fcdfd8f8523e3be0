"""The scripts of `examples/` run as examples/README.md says, on the demo and with a small model.

That of Lightning runs in tests/training/test_frameworks.py, beside others that import it.
"""

import ast
import re

import pytest
import torch

from support.examples import FOLDER, PAGE, command, example

NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))


def test_the_page_has_every_example_and_no_other():
    assert sorted(re.findall(r"^\*\*\[(\w+)\.py\]\(\1\.py\)\*\*", PAGE, re.M)) == NAMES


def test_examples_are_short_and_import_the_public_names_alone():
    for name in NAMES:
        text = (FOLDER / f"{name}.py").read_text("utf8")
        assert len(text.splitlines()) < 120, name
        imported = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
        ours = {node.module for node in imported if node.module.split(".")[0] == "extract"}
        assert ours == {"extract"}, name


def test_a_bigram_model_of_units_knows_more_than_a_unigram_model(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    units_lm = example("units_lm")
    small = ["--layer", "2", "--clusters", "8", "--held-out", "4"]
    found = units_lm.main([*command("units_lm"), *small])
    assert 1 < found["bigram"] < found["unigram"] < found["uniform"] == 8
    assert f"bigram: perplexity {found['bigram']:.2f}\n" in capsys.readouterr().out
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "features").rglob("*.npy")}
    assert len(stamps) == 12

    merged = units_lm.main([*command("units_lm"), *small, "--dedup"])
    assert merged["bigram"] < found["bigram"], "no unit follows itself"
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps, "computed once"


def test_perplexity_is_that_of_the_definition():
    units_lm = example("units_lm")
    train, test = [torch.tensor([0, 1, 0, 1, 2])], [torch.tensor([0, 1, 2]), torch.tensor([2])]
    single = units_lm.unigram(train, 3)  # counts 2, 2, 1, and one of each
    assert single[0].tolist() == pytest.approx([3 / 8, 3 / 8, 2 / 8])
    pairs = units_lm.bigram(train, 3)  # 0 -> 1 twice, 1 -> 0 and 1 -> 2 once
    assert pairs[0].tolist() == pytest.approx([9 / 40, 25 / 40, 6 / 40])
    assert pairs[2].tolist() == pytest.approx(single[2].tolist())
    expected = (pairs[0, 1] * pairs[1, 2]) ** -0.5
    assert units_lm.perplexity(pairs, test) == pytest.approx(expected.item())


def test_a_stopped_loop_goes_on_within_the_epoch_as_if_it_had_not_stopped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    finetune = example("finetune")
    arguments = [*command("finetune"), "--epochs", "3", "--batch-seconds", "10"]
    whole = finetune.main(arguments)
    assert whole[-1] < whole[0]
    expected = torch.load("decoder.pt")
    (tmp_path / "decoder.pt").unlink()

    num_steps = len(whole) // 3
    parts = [finetune.main([*arguments, "--steps", str(num)]) for num in (num_steps - 1, 2)]
    parts.append(finetune.main(arguments))
    assert [len(part) for part in parts] == [num_steps - 1, 2, 2 * num_steps - 1]
    assert sum(parts, []) == whole  # noqa: RUF017
    found = torch.load("decoder.pt")
    assert found["stream"] == expected["stream"]
    for name, weight in expected["decoder"].items():
        assert torch.equal(found["decoder"][name], weight), name

    (tmp_path / "decoder.pt").unlink()
    monkeypatch.setattr(finetune, "quieter_and_noisy", unchanged)
    assert finetune.main([*arguments, "--steps", "1"]) != whole[:1], "audio is augmented"


def unchanged(samples, rate_hz, rng):
    return samples
