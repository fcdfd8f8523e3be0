"""GPT-SoVITS's WebUI starts `extract` in the place of its own feature step."""

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from extract import app
from extract.run import assembled, job
from extract.run.auto import LoaderPlan
from support.models import folder_of, small_model
from support.recordings import write_wav
from support.semantic import s2g, save_s2g, semantic_tsv
from support.stores import audit, contents, ledger

PAGE = Path(__file__).parents[2].joinpath("docs", "coming_from_gpt_sovits.md").read_text("utf8")
BLOCKS = re.findall(r"```python\n(.+?)\n```", PAGE, re.DOTALL)

MODEL = "GPT_SoVITS/pretrained_models/chinese-hubert-base"
STORE = "logs/mine"
# Modules of the WebUI's folder, and one that a package of ours would find there.
DECOYS = ("config.py", "api.py", "utils.py", "tools/__init__.py", "text/__init__.py", "av.py")

NAMES = [f"{number}.wav" for number in (0, 1, 2, 3, 8, 9, 18, 19)]  # the last four in part 1 of 2
BROKEN = "坏 😀.wav"


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    return folder_of(small_model("group"), tmp_path_factory.mktemp("model") / "chinese-hubert-base")


@pytest.fixture
def webui(tmp_path, monkeypatch, model) -> Path:
    """The WebUI's folder, where it starts its steps, with a list and its recordings."""
    folder = tmp_path / "webui"
    for name in DECOYS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"raise SystemExit('the {name} of the WebUI')")
    (folder / MODEL).parent.mkdir(parents=True)
    (folder / MODEL).symlink_to(model)
    for seed, name in enumerate(NAMES):
        write_wav(folder / "raw" / name, 0.4 + 0.1 * seed, seed)
    write_list(folder / "first.list", *(f"raw/{name}" for name in NAMES))
    monkeypatch.chdir(folder)
    return folder


def write_list(path: Path, *recordings: str, more: str = "") -> None:
    path.write_text("".join(f"{name}|me|zh|text\n" for name in recordings) + more, "utf8")


def parts(gpu_numbers: str = "0-0", inp_text: str = "first.list", inp_wav_dir: str = ""):
    """The environment of each process, as `open1b` of webui.py sets it."""
    config = {
        "inp_text": inp_text,
        "inp_wav_dir": inp_wav_dir,
        "exp_name": "mine",
        "opt_dir": STORE,
        "cnhubert_base_dir": MODEL,
        "sv_path": "GPT_SoVITS/pretrained_models/sv/pretrained_eres2netv2w24s4ep4.ckpt",
        "is_half": str(True),
        "version": "v2Pro",
    }
    gpu_names = gpu_numbers.split("-")
    for i_part, gpu in enumerate(gpu_names):
        part = {"i_part": str(i_part), "all_parts": str(len(gpu_names))}
        yield {**config, **part, "_CUDA_VISIBLE_DEVICES": gpu}


@pytest.fixture
def run(command, webui, monkeypatch):
    """The step in this process, a part after the other; returns their exit codes."""
    monkeypatch.chdir(webui)  # `command` has left it

    def run(gpu_numbers: str = "0-0", *words: str, **changes: str) -> list[int]:
        codes = []
        for environment in parts(gpu_numbers, **changes):
            for name, value in environment.items():
                monkeypatch.setenv(name, value)
            codes.append(command("--config-name", "gpt_sovits", "loader.num_workers=0", *words))
        return codes

    return run


def times(store: str = STORE) -> dict[str, int]:
    """When each file of an utterance was written."""
    files = Path(store).glob("[4-6]-*/*")
    return {path.name: path.stat().st_mtime_ns for path in files}


def lines(store: str = STORE) -> dict[str, dict]:
    records = ledger(Path(store))
    assert len({record["id"] for record in records}) == len(records)
    return {record["id"]: record for record in records}


# --- as the WebUI starts it ----------------------------------------------------------------------


def test_the_line_of_the_page_does_two_parts_at_once_as_the_plain_command_does(
    webui, command, monkeypatch, tmp_path
):
    """Beside its `config.py` and `tools`, on a console that cannot encode all names."""
    (webui / "raw" / BROKEN).write_bytes(b"RIFF but no recording")
    write_wav(webui / "other" / "3.wav", 0.7)
    write_list(webui / "first.list", *(f"raw/{name}" for name in [*NAMES, BROKEN]), "other/3.wav")
    monkeypatch.setenv("EXTRACT_PYTHON", sys.executable)
    monkeypatch.setenv("PYTHONIOENCODING", "cp936")
    names = {"os": os}
    exec(BLOCKS[0], names)
    assert names["cmd"] == f'"{sys.executable}" -m extract --config-name gpt_sovits'
    processes = []
    monkeypatch.chdir(webui)
    for environment in parts():
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with open(tmp_path / f"console{len(processes)}", "wb") as console:
            processes.append(
                subprocess.Popen(names["cmd"], shell=True, stdout=console, stderr=subprocess.STDOUT)
            )
    codes = [process.wait(timeout=240) for process in processes]
    said = [(tmp_path / f"console{part}").read_bytes().decode("cp936") for part in range(2)]
    assert sorted(codes) in ([0, 1], [1, 1]), said
    duplicate = f"{webui}/other/3.wav"
    audit(webui / STORE, {*NAMES, BROKEN, duplicate})
    assert {name: line["reason"] for name, line in lines().items() if line["reason"]} == {
        BROKEN: "undecodable",
        duplicate: "duplicate_name",
    }
    for part, text in enumerate(said):
        assert "\x1b" not in text
        assert "the WebUI" not in text
        assert f"part {part} of 2" in text
        assert (codes[part] == 1) == text.splitlines()[-1].startswith("failed: ")
    assert "failed: 坏 \\U0001f600.wav: undecodable" in "".join(said)
    assert "0.6 s or shorter" in "".join(said)

    plain = ["dataset=gpt_sovits", "dataset.path=first.list", "store.dir=plain", "device=cpu"]
    plain += ["model=local", f"model.path={MODEL}", "loader.num_workers=0", "shard.count=2"]
    monkeypatch.chdir(webui)
    for part in range(2):
        assert command(*plain, f"shard.index={part}") == codes[part]
    assert contents(webui / STORE) == contents(webui / "plain")
    assert len(contents(webui / STORE)) == 2 * len(NAMES)


def test_the_line_with_a_quantizer_writes_the_parts_that_the_next_step_looks_for(
    run, webui, monkeypatch
):
    monkeypatch.setenv("EXTRACT_PYTHON", sys.executable)
    weight = s2g(width=48)
    save_s2g(webui / "s2G.pth", weight, half=False)
    line = eval(BLOCKS[3].partition("cmd = ")[2], {"os": os, "S2G": "s2G.pth"})
    words = [word for word in shlex.split(line) if word.startswith("quantizer")]
    assert len(words) == 2
    assert run("0-0", *words) == [0, 0]
    rows = [
        row
        for part in (0, 1)
        for row in Path(f"{STORE}/6-name2semantic-{part}.tsv").read_text("utf8").splitlines()
    ]
    whole = semantic_tsv(weight, Path(STORE), NAMES).decode().splitlines()
    assert sorted(rows) == sorted(whole)
    assert len(rows) == len(NAMES)


def test_the_two_lines_of_the_page_show_a_failure():
    def shown(*codes: int) -> str:
        processes = [SimpleNamespace(wait=lambda code=code: code) for code in codes]
        names = {"ps1b": processes, "process_name_1b": "1Ba", "process_info": lambda *said: said}
        exec(BLOCKS[1], names)
        return eval(f"({BLOCKS[2]})", names)[0][1]

    assert [shown(0, 0), shown(0, 1), shown(2, 0)] == ["finish", "failed", "failed"]


# --- what it reads -------------------------------------------------------------------------------


@pytest.fixture
def configs(monkeypatch):
    """What `run_shard` would be given; nothing is run."""
    given = []

    def run_shard(config, shard, *_, **_options):
        given.append((config, shard))
        raise ValueError("that is enough")

    monkeypatch.setattr(job, "run_shard", run_shard)
    return given


def test_each_variable_is_the_option_of_the_page(run, configs, monkeypatch):
    assert run("3-0-1", inp_wav_dir="raw") == [2, 2, 2]
    config, shard = configs[1]
    assert (shard.index, shard.count, config.loader.side_by_side) == (1, 3, 3)
    assert [config.device for config, _ in configs] == ["auto:3", "auto:0", "auto:1"]
    assert (config.dataset.path, config.dataset.audio_dir) == ("first.list", "raw")
    assert (config.dataset.kind, config.dataset.name) == ("gpt_sovits", "mine")
    assert (config.model.path, config.store.dir) == (MODEL, STORE)
    assert config.store.layout == "gpt_sovits"
    named = set(re.findall(r"`(\w+)`", PAGE.split("## What it reads")[1].split("\n\n")[1]))
    assert set(next(parts())) - {"sv_path", "version"} <= named


def test_the_command_line_comes_before_the_environment(run, configs, monkeypatch):
    monkeypatch.delenv("inp_text", raising=False)
    words = ["store.dir=a(1)", "precision=bf16", "device=cpu", "shard.count=5"]
    run("0", *words, "loader.side_by_side=1")
    config, shard = configs[0]
    assert (config.store.dir, config.precision.name, config.device) == ("a(1)", "bf16", "cpu")
    assert (shard.count, config.loader.side_by_side) == (5, 1)


@pytest.mark.parametrize(
    ("is_half", "precision"), [("True", "auto"), ("False", "fp32"), (None, "auto")]
)
def test_is_half_is_a_word(run, configs, monkeypatch, is_half, precision):
    environment = next(parts())
    monkeypatch.setitem(globals(), "parts", lambda *_: [environment])
    if is_half is None:
        monkeypatch.delenv("is_half", raising=False)
        del environment["is_half"]
    else:
        environment["is_half"] = is_half
    run()
    assert configs[0][0].precision.name == precision


def test_variables_that_are_missing_are_named_with_whom_the_config_is_for(
    run, command, monkeypatch, capfd
):
    for name, value in next(parts()).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("inp_text")
    monkeypatch.delenv("all_parts")
    assert command("--config-name", "gpt_sovits") == 2
    said = " ".join(capfd.readouterr().err.split())
    assert said.startswith("inp_text, all_parts: not in the environment")
    assert "for GPT-SoVITS's WebUI" in said
    assert command("--config-name=gpt_sovits", "--cfg", "job") == 0
    assert "kind: gpt_sovits" in capfd.readouterr().out
    monkeypatch.setenv("inp_text", "first.list")
    monkeypatch.setenv("all_parts", "2")
    monkeypatch.setenv("is_half", "perhaps")
    assert command("--config-name", "gpt_sovits") == 2
    assert "is_half: 'perhaps'; needed True or False" in capfd.readouterr().err
    assert not Path("logs").exists()


# --- part by part, list by list ------------------------------------------------------------------


def test_a_list_part_by_part_and_in_other_parts_is_done_once(run, webui, capfd):
    assert run("0", "shard.index=1", "shard.count=2") == [0]
    assert 0 < len(lines()) < len(NAMES)
    assert run("0", "shard.index=0", "shard.count=2") == [0]
    audit(webui / STORE, set(NAMES))
    before = times()
    for gpu_numbers in ("0", "0-0-1", "0-0"):
        assert set(run(gpu_numbers)) == {0}
        assert times() == before
        audit(webui / STORE, set(NAMES))
    assert capfd.readouterr().err.count("\n0 of ") == 6


def test_another_list_adds_and_replaces_a_name_of_another_recording(run, webui, capfd):
    write_list(webui / "first.list", *(f"raw/{name}" for name in NAMES[:4]), more="no fields\n")
    assert sorted(run()) == [0, 1]
    before, wavs = times(), contents(webui / STORE)
    write_wav(webui / "more" / "2.wav", 0.9, 99)
    second = ("more/2.wav", "raw/1.wav", "raw/8.wav")
    write_list(webui / "second.list", *second, more="raw/9.wav|too few fields\n")
    capfd.readouterr()
    assert 1 in run(inp_text="second.list")
    assert "gave to others: 1, done again" in capfd.readouterr().err
    audit(webui / STORE, {*NAMES[:5], "first.list:5", "second.list:4"})
    after = times()
    assert {name for name in before if after[name] != before[name]} == {"2.wav", "2.wav.pt"}
    assert lines()["2.wav"]["path"] == f"{webui}/more/2.wav"
    assert contents(webui / STORE)["5-wav32k/2.wav"] != wavs["5-wav32k/2.wav"]
    assert lines()["first.list:5"]["source"] == f"{webui}/first.list"
    made_with = json.loads((webui / STORE / "metadata.json").read_text())["made_with"]
    assert made_with["dataset"] == f"{webui}/second.list"

    write_list(webui / "first.list", *(f"raw/{name}" for name in NAMES[:4]))
    assert run() == [0, 0], "what is mended in a list is no longer in the ledger"
    assert {"2.wav", "8.wav", "second.list:4"} <= lines().keys()
    assert "first.list:5" not in lines()
    assert contents(webui / STORE)["5-wav32k/2.wav"] == wavs["5-wav32k/2.wav"]


def test_the_same_recording_by_another_path_is_no_other_recording(run, webui, capfd):
    write_list(webui / "first.list", "raw/0.wav")
    assert run("0") == [0]
    before = times()
    (webui / "link").symlink_to("raw")
    write_list(webui / "second.list", "link/0.wav")
    assert run("0", inp_text="second.list") == [0]
    assert times() == before


def test_equal_bytes_and_times_elsewhere_are_another_recording(run, webui):
    """Tools that copy keep times, and clips of one length have one size."""
    write_list(webui / "first.list", "raw/0.wav")
    assert run("0") == [0]
    before = times()
    (webui / "more").mkdir()
    shutil.copy2(webui / "raw" / "0.wav", webui / "more" / "0.wav")
    write_list(webui / "second.list", "more/0.wav")
    assert run("0", inp_text="second.list") == [0]
    assert set(times()) == set(before)
    assert all(times()[name] != before[name] for name in before)


def test_a_list_of_missing_recordings_takes_no_features_away(run, webui, capfd):
    assert run("0") == [0]
    before = times()
    capfd.readouterr()
    assert run("0", inp_wav_dir="logs") == [0]
    assert "gave to others: 8; those files stay" in capfd.readouterr().err
    assert times() == before
    assert run("0") == [0]
    assert times() == before


def test_of_two_recordings_of_one_name_the_first_is_taken(run, webui, capfd):
    for folder in ("a", "b", "c"):
        write_wav(webui / folder / "same.wav", 0.5, ord(folder))
    write_list(
        webui / "first.list",
        *("b/same.wav", "raw/0.wav", "a/same.wav", "b/same.wav", "c/same.wav", "a/same.wav"),
    )
    for _ in range(2):
        assert run("0") == [1]
        assert {id_: line["reason"] for id_, line in lines().items()} == {
            "same.wav": None,
            "0.wav": None,
            f"{webui}/a/same.wav": "duplicate_name",
            f"{webui}/c/same.wav": "duplicate_name",
        }
        assert lines()["same.wav"]["path"] == f"{webui}/b/same.wav"
        assert f"{webui}/b/same.wav, which comes first" in lines()[f"{webui}/a/same.wav"]["detail"]
    assert capfd.readouterr().err.splitlines()[-1].startswith("failed: ")
    write_list(webui / "second.list", "a/same.wav", "c/same.wav")
    assert run("0", inp_text="second.list") == [1]
    assert lines()["same.wav"]["path"] == f"{webui}/a/same.wav"
    audit(webui / STORE, {"same.wav", "0.wav", f"{webui}/a/same.wav", f"{webui}/c/same.wav"})


def test_parts_at_once_share_cores_memory_and_terminal(run, monkeypatch):
    """On a CPU the threads; the plan of a GPU's memory is in tests/run/test_auto.py."""
    monkeypatch.setattr("extract.run.auto.cores", lambda: 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    threads, planned, consoles = [], [], []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    choose = assembled.choose

    def planning(*args: Any, **more: Any) -> LoaderPlan:
        planned.append(more["side_by_side"])
        return choose(*args, **more)

    monkeypatch.setattr(assembled, "choose", planning)

    def console() -> Console:
        screen = Console(file=io.StringIO(), force_terminal=True, legacy_windows=False)
        consoles.append(screen)
        return screen

    monkeypatch.setattr(app, "stderr_console", console)
    assert run("0-0") == [0, 0]
    assert (threads, planned) == ([4, 4], [2, 2])
    assert not any("\x1b[?25" in one.file.getvalue() for one in consoles), "no bar"
    assert run("0", "overwrite=true") == [0]
    assert (threads, planned) == ([4, 4], [2, 2, 1])
    assert "\x1b[?25" in consoles[-1].file.getvalue()
