"""GPT-SoVITS's semantic tokens: its step's file, whatever happens to the run and to the file."""

import json
import logging
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from extract import exits
from extract.commands.quantize import main as quantize
from extract.config import Config, LoaderConfig, ModelConfig
from extract.encoder.encoder import Encoder
from extract.encoder.quantizers.gpt_sovits import Options
from extract.manifest.sources import gpt_sovits
from extract.run import units as run_units
from extract.run.job import run_shard
from extract.run.signals import Stop
from extract.shard import Shard
from extract.store import writers
from extract.store.layout import LayoutOptions
from extract.store.layouts.gpt_sovits import GptSovits
from extract.store.lock import locked
from support.command import TINY, start
from support.recordings import write_wav
from support.semantic import s2g, save_s2g, semantic_tsv
from support.stores import contents, ledger

PART = "6-name2semantic-{}.tsv"
SECONDS = [0.03, 0.05, 0.08, 0.3, 0.62, 0.95, 0.21, 0.5]  # the first has one frame: no token
NAMES = [f"{letter}.wav" for letter in "hgbadcfe"]  # in the list's order


@pytest.fixture(scope="module")
def weight() -> dict[str, torch.Tensor]:
    return {name: x.half().float() for name, x in s2g().items()}


class Runs:
    """Runs over a list of nine recordings, of which one is missing, into stores of `tmp_path`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.said = folder, ""

    def __call__(
        self, store: str, s2g: str = "", *, index: int = 0, count: int = 1, stop=None, **more
    ) -> int:
        """Runs a shard; returns the exit code. `said` is what a refused run says."""
        config = Config(
            dataset=gpt_sovits.Options(
                path=str(self.folder / "train.list"), audio_dir=str(self.folder / "in")
            ),
            model=ModelConfig("tiny_random", "tiny_random"),
            loader=LoaderConfig(num_workers=0, batch_seconds=4),
            store=LayoutOptions(str(self.folder / store), num_writers=2, fsync=False),
            device="cpu",
            **more,
        )
        if s2g:
            config.quantizer = Options(path=str(self.folder / s2g))
        try:
            summary = run_shard(config, Shard(index, count), stop=stop or Stop())
            return exits.of_run([summary]).code
        except ValueError as error:
            self.said = str(error)
            return exits.USAGE.code

    def quantize(self, store: str, *options: str, s2g: str = "s2G.pth") -> int:
        """`extract quantize`; returns the exit code."""
        where = ["--path", str(self.folder / s2g)] if s2g else []
        return quantize([str(self.folder / store), "--quantizer", "gpt_sovits", *where, *options])

    def list(self, names: list[str]) -> None:
        """Writes the list anew."""
        lines = "\n".join(f"{name}|s|zh|..." for name in names)
        (self.folder / "train.list").write_text(lines)


@pytest.fixture
def run(tmp_path, weight) -> Runs:
    for index, (name, seconds) in enumerate(zip(NAMES, SECONDS, strict=True)):
        write_wav(tmp_path / "in" / name, seconds, index)
    save_s2g(tmp_path / "s2G.pth", weight)
    runs = Runs(tmp_path)
    runs.list([*NAMES[:3], "missing.wav", *NAMES[3:]])
    return runs


@pytest.fixture
def no_encoding(monkeypatch):
    """Called: from now on nothing is encoded."""

    def forbid() -> None:
        def encode(*_):
            raise AssertionError("encoded")

        monkeypatch.setattr(Encoder, "_compute", encode)

    return forbid


def units_of(store: Path) -> dict[str, str]:
    return {record["id"]: record.get("units") for record in ledger(store)}


def parts(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.glob("6-name2semantic*")}


def names_in(data: bytes) -> list[str]:
    return [line.split("\t")[0] for line in data.decode().splitlines()]


def test_the_file_is_what_the_tools_step_writes(run, weight, tmp_path):
    assert run("out", "s2G.pth") == 1  # one is missing
    expected = semantic_tsv(weight, tmp_path / "out", NAMES)
    assert parts(tmp_path / "out") == {PART.format(0): expected}
    assert names_in(expected) == NAMES[1:]
    found = units_of(tmp_path / "out")
    assert found["h.wav"] == ""
    assert found["missing.wav"] is None
    assert all(len(found[name].split()) == frames // 2 for name, frames in frames_of(tmp_path))


def frames_of(tmp_path: Path) -> list[tuple[str, int]]:
    return [(one["id"], one["num_frames"]) for one in ledger(tmp_path / "out") if one["num_frames"]]


def test_without_a_quantizer_nothing_is_written_of_units(run, tmp_path):
    """Lines and metadata have the fields that they had."""
    run("plain")
    run("out", "s2G.pth")
    assert contents(tmp_path / "plain") == contents(tmp_path / "out")
    plain, out = ledger(tmp_path / "plain"), ledger(tmp_path / "out")
    for record in out:
        record.pop("units", None)
        record.pop("units_crc32", None)
    assert sorted(plain, key=str) == sorted(out, key=str)
    text = [(tmp_path / store / "metadata.json").read_text() for store in ("plain", "out")]
    (plain, out) = map(json.loads, text)
    assert out["identity"].pop("quantizer").startswith("gpt_sovits:")
    assert plain == out
    assert '"quantizer"' not in text[0]
    assert '"units' not in (tmp_path / "plain" / "ledger.jsonl").read_text()
    assert not parts(tmp_path / "plain")


def test_a_part_is_whole_again_after_the_tool_joined_and_deleted_it(run, tmp_path, no_encoding):
    run("out", "s2G.pth")
    before = parts(tmp_path / "out")
    joined = tmp_path / "out" / "6-name2semantic.tsv"
    (tmp_path / "out" / PART.format(0)).rename(joined)
    run.list(NAMES)
    no_encoding()
    assert run("out", "s2G.pth") == 0
    assert parts(tmp_path / "out") == before | {joined.name: before[PART.format(0)]}


def test_units_alone_are_the_same_and_go_on_as_features_do(run, tmp_path, no_encoding):
    run("out", "s2G.pth")
    assert run("alone", "s2G.pth", features=False) == 1
    assert parts(tmp_path / "alone") == parts(tmp_path / "out")
    assert {path.name for path in (tmp_path / "alone").iterdir()} == {
        *(".extract", "ledger.jsonl", "metadata.json", PART.format(0))
    }
    assert units_of(tmp_path / "alone") == units_of(tmp_path / "out")
    no_encoding()
    (tmp_path / "alone" / PART.format(0)).unlink()
    assert run("alone", "s2G.pth", features=False) == 1
    assert parts(tmp_path / "alone") == parts(tmp_path / "out")
    for s2g_file in ("", "s2G.pth"):  # the store is of another kind
        assert run("alone", s2g_file) == 2
        assert run("out", "s2G.pth", features=False) == 2


def test_overwrite_replaces_features_by_units_alone_and_back(run, tmp_path):
    run("out", "s2G.pth")
    before = contents(tmp_path / "out"), parts(tmp_path / "out")
    assert run("out", "s2G.pth", features=False, overwrite=True) == 1
    assert contents(tmp_path / "out") == {}
    assert parts(tmp_path / "out") == before[1]
    assert run("out", overwrite=True) == 1
    assert contents(tmp_path / "out") == before[0]
    assert '"quantizer"' not in (tmp_path / "out" / "metadata.json").read_text()
    assert set(units_of(tmp_path / "out").values()) == {None}


def test_a_store_without_units_gets_them_from_its_features(run, tmp_path, no_encoding, caplog):
    caplog.set_level(logging.INFO)
    run.list(NAMES)
    run("whole", "s2G.pth")
    run("later")
    run("command")
    no_encoding()
    assert run("later", "s2G.pth") == 0
    assert "8 utterances saved without units: made of the features" in caplog.text
    assert run.quantize("command", "--list", str(tmp_path / "train.list")) == 0
    for store in ("later", "command"):
        assert parts(tmp_path / store) == parts(tmp_path / "whole")
        assert units_of(tmp_path / store) == units_of(tmp_path / "whole")
        assert contents(tmp_path / store) == contents(tmp_path / "whole")
        identities = [
            json.loads((tmp_path / name / "metadata.json").read_text()) for name in (store, "whole")
        ]
        assert identities[0] == identities[1]
        assert not list((tmp_path / store / ".extract").glob("quantizing*"))
    assert run.quantize("command") == 0
    [data] = parts(tmp_path / "command").values()
    assert names_in(data) == sorted(NAMES[1:])


def test_tokens_of_two_files_never_mix(run, weight, tmp_path, no_encoding, capfd):
    run("out", "s2G.pth")
    first = units_of(tmp_path / "out")
    other = s2g(seed=1)
    save_s2g(tmp_path / "other.pth", other, half=False)
    assert run("out", "other.pth") == 2
    assert "made with other settings" in run.said
    assert run.quantize("out", s2g="other.pth") == 2
    assert "--overwrite replaces them" in capfd.readouterr().err
    assert units_of(tmp_path / "out") == first
    shutil.copytree(tmp_path / "out", tmp_path / "copy")
    no_encoding()
    assert run("out", "other.pth", overwrite=True) == 1
    assert run.quantize("copy", "--overwrite", s2g="other.pth") == 0
    expected = semantic_tsv(other, tmp_path / "out", NAMES)
    assert parts(tmp_path / "out") == {PART.format(0): expected}
    assert units_of(tmp_path / "copy") == units_of(tmp_path / "out") != first


def test_a_run_without_a_quantizer_leaves_units_and_what_it_adds_gets_them_later(
    run, weight, tmp_path
):
    (tmp_path / "in" / "e.wav").rename(tmp_path / "e.wav")
    run("out", "s2G.pth")
    (tmp_path / "e.wav").rename(tmp_path / "in" / "e.wav")
    write_wav(tmp_path / "in" / "a.wav", 0.5, 77)  # another recording of that name
    assert run("out") == 1
    found = units_of(tmp_path / "out")
    assert {name for name in NAMES if found[name] is None} == {"e.wav", "a.wav"}
    save_s2g(tmp_path / "other.pth", s2g(seed=1))
    assert run("out", "other.pth") == 2
    assert run("out", "s2G.pth") == 1
    expected = semantic_tsv(weight, tmp_path / "out", NAMES)
    assert parts(tmp_path / "out") == {PART.format(0): expected}


def test_features_that_are_damaged_are_encoded_again_and_never_quantised(
    run, weight, tmp_path, capfd
):
    run("out")
    whole = contents(tmp_path / "out")
    shutil.copytree(tmp_path / "out", tmp_path / "copy")
    for store in ("out", "copy"):
        path = tmp_path / store / "4-cnhubert" / "d.wav.pt"
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 4
        path.write_bytes(data)
    assert run.quantize("copy") == 1
    assert "1 without units: their features are damaged or gone" in capfd.readouterr().err
    [data] = parts(tmp_path / "copy").values()
    assert names_in(data) == sorted({*NAMES[1:]} - {"d.wav"})
    for store in ("copy", "out"):
        assert run(store, "s2G.pth") == 1
        assert contents(tmp_path / store).keys() == whole.keys()
        assert parts(tmp_path / store) == {
            PART.format(0): semantic_tsv(weight, tmp_path / store, NAMES)
        }


def test_damaged_units_are_made_again(run, tmp_path, no_encoding):
    run("out", "s2G.pth")
    before, path = units_of(tmp_path / "out"), tmp_path / "out" / "ledger.jsonl"
    text = path.read_text()
    first = before["a.wav"].split()[0]
    assert f'"units":"{first} ' in text
    path.write_text(text.replace(f'"units":"{first} ', f'"units":"{int(first) + 1} '))
    run.list(NAMES)
    no_encoding()
    assert run("out", "s2G.pth") == 0
    assert units_of(tmp_path / "out") == {name: before[name] for name in before} | {
        "missing.wav": None
    }


def test_every_name_is_once_in_the_parts_of_any_sharding(run, weight, tmp_path):
    store, expected = tmp_path / "out", None
    for count in (2, 1, 3, 2):
        for shard in Shard(0, count).all():
            run("out", "s2G.pth", index=shard.index, count=count)
            found = [name for data in parts(store).values() for name in names_in(data)]
            assert len(found) == len(set(found))
        assert {*parts(store)} == {PART.format(index) for index in range(count)}
        for index, data in enumerate(parts(store)[PART.format(i)] for i in range(count)):
            own = [name for name in NAMES if Shard(index, count).owns(name)]
            assert data == semantic_tsv(weight, store, own)
        joined = sorted(line for data in parts(store).values() for line in data.splitlines())
        expected = expected or joined
        assert joined == expected
    assert len(expected) == 7


def test_a_file_of_another_program_stays_until_a_run_has_its_own(run, tmp_path):
    """A part that a run did not write is left where another sharding does not write it."""
    run("out")
    for index in (0, 5):
        (tmp_path / "out" / PART.format(index)).write_text("theirs\t1")
    run("out", "s2G.pth")
    found = parts(tmp_path / "out")
    assert found[PART.format(5)] == b"theirs\t1"
    assert names_in(found[PART.format(0)]) == NAMES[1:]


def test_features_and_units_are_not_both_left_out(run, tmp_path):
    assert run("out", features=False) == 2
    assert run.said == "features=false with quantizer=none keeps nothing; needed a quantizer"
    assert not (tmp_path / "out").exists()


def test_a_wrong_file_or_model_is_said_before_any_work(run, tmp_path):
    assert run("out", "none.pth") == 2
    assert "none.pth cannot be read: No such file" in run.said
    save_s2g(tmp_path / "wide.pth", s2g(width=48))
    assert run("out", "wide.pth") == 2
    assert "made for features of 48 numbers a frame, and this model gives 32" in run.said
    assert not (tmp_path / "out").exists()


def test_the_command_takes_a_quantizer(command, run, tmp_path, weight, capfd):
    words = ["dataset=folder", f"dataset.path={tmp_path / 'in'}", *TINY, "store.dir=cli"]
    assert command(*words, "quantizer=gpt_sovits", "quantizer.path=s2G.pth") == 0
    assert parts(tmp_path / "cli") == {
        PART.format(0): semantic_tsv(weight, tmp_path / "cli", sorted(NAMES))
    }
    assert "units: cli/6-name2semantic-0.tsv" in capfd.readouterr().err
    assert command(*words, "quantizer=gpt_sovit") == 2
    assert "gpt_sovits" in capfd.readouterr().err


def test_quantize_says_what_is_wrong_and_does_nothing(run, tmp_path, capfd):
    run("out")
    run("alone", "s2G.pth", features=False)
    names = ("ledger.jsonl", "metadata.json")
    before = [(tmp_path / "out" / name).read_bytes() for name in names]
    for store, s2g_file, said in [
        ("nowhere", "s2G.pth", "no metadata.json or no ledger here"),
        ("alone", "s2G.pth", "keeps units alone"),
        ("out", "", "needed --path FILE"),
        ("out", "train.list", "train.list is no file of weights"),
    ]:
        assert run.quantize(store, s2g=s2g_file) == 2
        assert said in capfd.readouterr().err
    with locked(tmp_path / "out"):
        assert run.quantize("out") == 2
    assert "has been working here" in capfd.readouterr().err
    assert before == [(tmp_path / "out" / name).read_bytes() for name in names]


# --- faults --------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process is gone: nothing catches it."""


def test_units_of_a_store_survive_kills_at_any_recording(run, tmp_path, monkeypatch):
    """Each call goes on with the journal of the one that was killed, whose last line is torn."""
    monkeypatch.setattr(run_units, "BLOCK_FRAMES", 1)
    run("out")
    run("whole", "s2G.pth")
    path, private = tmp_path / "out" / "ledger.jsonl", tmp_path / "out" / ".extract"
    before, read, made = path.read_bytes(), list[str](), run_units.ShardUnits._made

    def killed_after(number: int) -> None:
        left = iter(range(number))

        def dying(self, block):
            if next(left, None) is None:
                raise Killed
            return made(self, block)

        with monkeypatch.context() as patch:
            patch.setattr(run_units.ShardUnits, "_made", dying)
            with pytest.raises(Killed):
                run.quantize("out")

    reading = GptSovits.read
    monkeypatch.setattr(GptSovits, "read", lambda *args: read.append(args[1].id) or reading(*args))
    for number in (0, 1, 2, 1):
        read.clear()
        killed_after(number)
        assert len(read) == number + 1 + 1  # the width is asked of the first features
        assert path.read_bytes() == before
        with (private / "quantizing-0-of-1").open("ab") as file:
            file.write(b'{"of":12345,"uni')
        assert not parts(tmp_path / "out")
    read.clear()
    assert run("out", "s2G.pth") == 1
    assert len(read) == 4  # of eight
    assert units_of(tmp_path / "out") == units_of(tmp_path / "whole")
    assert parts(tmp_path / "out") == parts(tmp_path / "whole")
    assert not list(private.glob("quantizing*"))


def test_a_journal_of_another_quantizer_or_ledger_is_begun_anew(run, tmp_path, weight, monkeypatch):
    run("out")
    save_s2g(tmp_path / "other.pth", s2g(seed=1))
    journal = tmp_path / "out" / ".extract" / "quantizing-0-of-1"

    def dying(self, texts):
        raise Killed

    def leave_a_journal(*words: str, s2g: str) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(run_units.ShardUnits, "_merged", dying)
            with pytest.raises(Killed):
                run.quantize("out", *words, s2g=s2g)
        assert len(journal.read_bytes().splitlines()) == 9

    leave_a_journal(s2g="other.pth")
    leave_a_journal("--overwrite", s2g="s2G.pth")
    write_wav(tmp_path / "in" / NAMES[-1], 0.5, 99)  # another recording of the same length
    assert run("out") == 1
    assert run("out", "s2G.pth") == 1
    assert parts(tmp_path / "out") == {
        PART.format(0): semantic_tsv(weight, tmp_path / "out", NAMES)
    }


def test_a_signal_stops_the_making_of_units_and_loses_none(run, tmp_path, monkeypatch):
    monkeypatch.setattr(run_units, "BLOCK_FRAMES", 1)
    run("out")
    made = run_units.ShardUnits._made

    def interrupting(self, block):
        signal.raise_signal(signal.SIGTERM)
        return made(self, block)

    with monkeypatch.context() as patch:
        patch.setattr(run_units.ShardUnits, "_made", interrupting)
        assert run.quantize("out") == 143
    journal = tmp_path / "out" / ".extract" / "quantizing-0-of-1"
    assert len(journal.read_bytes().splitlines()) == 2
    stop = Stop()
    stop.signal_name = "SIGINT"
    assert run("out", "s2G.pth", stop=stop) == 130
    assert set(units_of(tmp_path / "out").values()) == {None}
    assert set(units_of(tmp_path / "out")) == {*NAMES, "missing.wav"}
    assert run("out", "s2G.pth") == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.fault(
    "SIGKILL at 20 random moments of runs with semantic tokens, then the same command",
    "files, units and the part's tsv equal those of an uninterrupted run",
)
def test_tokens_survive_kills(recordings, tmp_path, weight, monkeypatch):
    """Five kills a store; in every second one the features are there and units are made of them."""
    put, read = GptSovits.put, GptSovits.read
    slow = {"s": 0.0}  # of the runs that are killed
    slow_put = lambda self, item: (time.sleep(slow["s"]), put(self, item))[1]  # noqa: E731
    slow_read = lambda self, kept: (time.sleep(slow["s"]), read(self, kept))[1]  # noqa: E731
    monkeypatch.setattr(GptSovits, "put", slow_put)
    monkeypatch.setattr(GptSovits, "read", slow_read)
    monkeypatch.setattr(writers, "MAX_QUEUED_PER_WRITER", 1)
    monkeypatch.setattr(run_units, "BLOCK_FRAMES", 20)
    save_s2g(tmp_path / "s2G.pth", weight)
    tokens = ["quantizer=gpt_sovits", f"quantizer.path={tmp_path / 's2G.pth'}"]

    def begin(store: Path, *options: str):
        small = ["loader.batch_seconds=4", "loader.num_workers=0", "store.num_writers=1"]
        where = ["dataset=folder", f"dataset.path={recordings}", f"store.dir={store}"]
        return start([*where, *TINY, *small, *options], tmp_path)

    def finish(process) -> None:
        process.join(60)
        assert process.exitcode == 0

    def num_bytes(store: Path) -> int:
        files = store / "ledger.jsonl", store / ".extract" / "quantizing-0-of-1"
        return sum(path.stat().st_size for path in files if path.exists())

    def wait(process, store: Path, grown: int) -> None:
        """Until the ledger or the journal has grown, or the process has ended."""
        before = num_bytes(store)
        while process.is_alive() and num_bytes(store) < before + grown:
            time.sleep(0.002)

    rng, killed, whole = random.Random(1), 0, tmp_path / "whole"
    finish(begin(whole, *tokens))
    for number in range(4):
        store = tmp_path / f"killed{number}"
        if number % 2:
            finish(begin(store))
        slow["s"] = 0.02
        for _ in range(5):
            process = begin(store, *tokens)
            wait(process, store, rng.choice([0, 1, 1, 500, 1_500]))
            killed += process.is_alive()
            process.kill()
            process.join()
        slow["s"] = 0.0
        finish(begin(store, *tokens))
        assert contents(store) == contents(whole)
        assert units_of(store) == units_of(whole)
        assert parts(store) == parts(whole)
    assert killed >= 15, "the kills missed the runs"
