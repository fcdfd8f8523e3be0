"""s2G files: which are read, and what is said against the others."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from extract.encoder.quantizers.gpt_sovits import Options, load
from extract.encoder.unit_format import unit_files
from extract.shard import Shard
from support.checkpoints import foreign_class
from support.models import Payload
from support.semantic import CODEBOOK, s2g, save_s2g, tokens

WIDTH = 32


def refusal(path: Path, width: int = WIDTH) -> str:
    with pytest.raises(ValueError, match=path.name) as caught:
        load(Options(path=str(path)), width)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 1_000
    return message


@pytest.mark.parametrize("head", [b"PK", b"03", b"04", b"05", b"06"])
@pytest.mark.parametrize("half", [True, False])
def test_a_file_of_every_version_gives_its_tokens(tmp_path: Path, head: bytes, half: bool) -> None:
    weight = s2g(WIDTH)
    found = load(
        Options(path=str(save_s2g(tmp_path / "s2G.pth", weight, head=head, half=half))), WIDTH
    )
    ssl = torch.randn(1, WIDTH, 100)
    as_saved = {name: x.half() if half else x for name, x in weight.items()}
    assert found.assign(ssl[0], [100]).tolist() == tokens(as_saved, ssl)
    assert unit_files(Options()).name(Shard(1, 3)) == "6-name2semantic-1.tsv"
    [same] = {load(Options(path=str(tmp_path / "s2G.pth")), WIDTH).fingerprint}
    assert same == found.fingerprint


def test_a_file_from_before_torch_1_6_is_read(tmp_path: Path) -> None:
    torch.save({"weight": s2g()}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_s2g(tmp_path / "new.pth", s2g(), half=False)
    old, new = (load(Options(path=str(tmp_path / name)), WIDTH) for name in ("old.pth", "new.pth"))
    assert old.fingerprint == new.fingerprint


@pytest.mark.parametrize("head", [b"PK", b"06"])
def test_no_code_of_a_file_is_run(tmp_path: Path, head: bytes) -> None:
    held = {"weight": s2g(), "config": Payload(tmp_path / "ran"), "info": "x"}
    torch.save(held, tmp_path / "s2G.pth")
    whole = (tmp_path / "s2G.pth").read_bytes()
    (tmp_path / "s2G.pth").write_bytes(head + whole[2:])
    name = f"{os.mkdir.__module__}.mkdir"
    assert f"more in it than tensors: it names {name}, and running" in refusal(tmp_path / "s2G.pth")
    assert not (tmp_path / "ran").exists()


def test_another_class_than_theirs_is_named(tmp_path: Path) -> None:
    with foreign_class("utils", "HParam") as other:
        torch.save({"weight": s2g(), "config": other()}, tmp_path / "s2G.pth")
    assert "it names utils.HParam, and running" in refusal(tmp_path / "s2G.pth")


def test_fairseqs_classes_are_no_part_of_such_a_file(tmp_path: Path) -> None:
    with foreign_class("fairseq.data.dictionary", "Dictionary") as other:
        torch.save({"weight": s2g(), "config": other()}, tmp_path / "s2G.pth")
    assert "it names fairseq.data.dictionary.Dictionary" in refusal(tmp_path / "s2G.pth")


def test_each_wrong_file_has_its_own_sentence(tmp_path: Path) -> None:
    def said(held: object, name: str = "a.pth") -> str:
        torch.save(held, tmp_path / name)
        return refusal(tmp_path / name)

    whole = s2g(WIDTH)
    without = {name: x for name, x in whole.items() if name != "ssl_proj.weight"}
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><title>404</title>")
    (tmp_path / "pointer.pth").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0"
    )
    (tmp_path / "other.pth").write_bytes(b"07" + save_s2g(tmp_path / "b", whole).read_bytes()[2:])
    (tmp_path / "cut.pth").write_bytes(save_s2g(tmp_path / "c", whole).read_bytes()[:5_000])
    save_file(whole, tmp_path / "flat.safetensors")
    sentences = [
        refusal(tmp_path / "nowhere.pth"),
        refusal(tmp_path / "page.pth"),
        refusal(tmp_path / "pointer.pth"),
        refusal(tmp_path / "other.pth"),
        refusal(tmp_path / "cut.pth"),
        refusal(tmp_path / "flat.safetensors"),
        said({"weight": without}),
        said({"weight": whole | {CODEBOOK: torch.zeros(5, WIDTH, dtype=torch.int64)}}),
        said({"weight": whole | {CODEBOOK: torch.full((5, WIDTH), torch.nan)}}),
        said({"weight": whole | {"ssl_proj.weight": torch.zeros(WIDTH, WIDTH, 1)}}),
        said({"weight": whole | {CODEBOOK: torch.zeros(5, WIDTH + 1)}}),
        said({"weight": whole | {CODEBOOK: torch.zeros(0, WIDTH)}}),
        said({"weight": whole | {"ssl_proj.bias": torch.zeros(())}}),
        said({"weight": s2g(WIDTH + 1)}),
        said([whole]),
    ]
    needed = [
        "cannot be read: No such file",
        "is a web page",
        "is a Git LFS pointer",
        "is no file of weights: it starts b'07",
        "does not load",
        "it has no `weight` with tensors in it (",
        "it has no tensor ssl_proj.weight; a generator (s2G) of GPT-SoVITS is needed",
        f"{CODEBOOK} is not made of finite numbers",
        f"{CODEBOOK} is not made of finite numbers",
        "have the shapes ((32, 32, 1), (32,), (50, 32)); needed (P, D, 2), (P,) and (codes, P)",
        "have the shapes ((32, 32, 2), (32,), (5, 33))",
        "have the shapes ((32, 32, 2), (32,), (0, 32))",
        "have the shapes ((32, 32, 2), (), (50, 32))",
        "made for features of 33 numbers a frame, and this model gives 32",
        "is a list; a mapping of names is needed",
    ]
    for sentence, part in zip(sentences, needed, strict=True):
        assert part in sentence, json.dumps([sentence, part])


def test_lines_are_those_of_the_tool() -> None:
    rows = [("a.wav", "12 7"), ("short.wav", ""), ("failed.wav", None), ("b.wav", "7")]
    files = unit_files(Options())
    assert "".join(files.text(rows)) == "a.wav\t12 7\nb.wav\t7"
    assert files.name(Shard()) == "6-name2semantic-0.tsv"
