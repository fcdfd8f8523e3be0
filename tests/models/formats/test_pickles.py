"""No code of a file is run: what it names is listed, and refused."""

import argparse
import pickle
import subprocess
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from extract.models.formats import pickles
from extract.models.formats.files import read_tensors
from support.checkpoints import fairseq_dictionary, foreign_class
from support.models import Payload

Save = Callable[[Any, Path], None]


def _zip(held: Any, path: Path) -> None:
    torch.save(held, path)


def _before_zip(held: Any, path: Path) -> None:
    torch.save(held, path, _use_new_zipfile_serialization=False)


def _plain(held: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(held, protocol=4))


SAVES: dict[str, Save] = {"zip": _zip, "before 1.6": _before_zip, "plain": _plain}


class Writes:
    """A pickle that writes a file when it is loaded without care."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return subprocess.call, (["touch", str(self.proof)],)


def refusal(path: Path) -> str:
    with pytest.raises(ValueError, match=path.name) as caught:
        read_tensors(path)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 2_000
    return message


@pytest.mark.parametrize("how", SAVES)
@pytest.mark.parametrize("payload", [Payload, Writes])
def test_a_pickle_that_would_write_does_not_and_says_what_it_names(
    tmp_path: Path, how: str, payload: Any
) -> None:
    proof = tmp_path / "ran"
    SAVES[how]({"model": {"a": torch.zeros(3)}, "extra": payload(proof)}, tmp_path / "a.pt")
    said = refusal(tmp_path / "a.pt")
    name = {Payload: "posix.mkdir", Writes: "subprocess.call"}[payload]
    assert f"a pickle with more in it than tensors: it names {name}, and running" in said
    assert "convert it to safetensors where it can be trusted" in said
    assert not proof.exists()
    torch.load(tmp_path / "a.pt", weights_only=False) if how != "plain" else pickle.loads(
        (tmp_path / "a.pt").read_bytes()
    )
    assert proof.exists()  # the payload is live: loaded without care it does run


@pytest.mark.parametrize("how", SAVES)
def test_every_foreign_class_is_named(tmp_path: Path, how: str) -> None:
    with (
        foreign_class("omegaconf.dictconfig", "DictConfig") as config,
        foreign_class("fairseq.models.hubert", "HubertModel") as model,
    ):
        held = OrderedDict(cfg=config(), model=model(), a=torch.zeros(2), b=torch.nn.Linear(1, 1))
        SAVES[how](held, tmp_path / "a.pt")
    named = pickles.foreign_names(tmp_path / "a.pt", (tmp_path / "a.pt").read_bytes()[:4])
    assert named == [
        "fairseq.models.hubert.HubertModel",
        "omegaconf.dictconfig.DictConfig",
        "torch.nn.modules.linear.Linear",
    ]
    assert f"it names {', '.join(named)}, and running" in refusal(tmp_path / "a.pt")


def test_many_names_are_counted(tmp_path: Path) -> None:
    names = b"".join(b"celsewhere\nC%d\n0" % number for number in range(9))
    (tmp_path / "a.pt").write_bytes(b"\x80\x02" + names + b"N.")
    assert "it names " + ", ".join(f"elsewhere.C{i}" for i in range(5)) + " and 4 more, and" in (
        refusal(tmp_path / "a.pt")
    )


@pytest.mark.parametrize("how", ["zip", "before 1.6"])
def test_the_two_classes_of_fairseq_are_stubs_with_attributes(tmp_path: Path, how: str) -> None:
    with fairseq_dictionary() as dictionary:
        args = argparse.Namespace(encoder_layers=12, deeper=argparse.Namespace(a=[1]))
        held = {"args": args, "dictionaries": [dictionary], "a": torch.arange(3.0)}
        SAVES[how](held, tmp_path / "a.pt")
    found = read_tensors(tmp_path / "a.pt")
    assert type(found["args"]) is pickles.Stub
    assert vars(found["args"])["encoder_layers"] == 12
    assert vars(vars(found["args"])["deeper"]) == {"a": [1]}
    assert vars(found["dictionaries"][0])["symbols"] == ["<s>", "0", "1"]
    assert found["a"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("how", ["zip", "before 1.6"])
def test_a_class_of_almost_the_same_name_is_refused(tmp_path: Path, how: str) -> None:
    with foreign_class("fairseq.data.dictionary", "TruncatedDictionary") as found:
        SAVES[how]({"a": found()}, tmp_path / "a.pt")
    assert "it names fairseq.data.dictionary.TruncatedDictionary, and" in refusal(tmp_path / "a.pt")


def test_torch_forgets_the_stubs_after_a_load(tmp_path: Path) -> None:
    before = torch.serialization.get_safe_globals()
    torch.save({"a": torch.zeros(2)}, tmp_path / "a.pt")
    read_tensors(tmp_path / "a.pt")
    torch.save({"a": Payload(tmp_path)}, tmp_path / "a.pt")
    refusal(tmp_path / "a.pt")
    assert torch.serialization.get_safe_globals() == before


def test_only_this_package_loads_a_pickle() -> None:
    import extract

    root = Path(extract.__file__).parent
    loads = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if "torch.load(" in path.read_text("utf8")
    }
    # What the store wrote itself is read back there and in the audit, weights-only.
    elsewhere = {name for name in loads if not name.startswith(("store/", "audit/"))}
    assert elsewhere == {"models/formats/pickles.py"}
