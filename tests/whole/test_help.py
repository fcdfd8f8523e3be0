"""Help on the command line: `--help` on one screen, `--cfg` and `--info` without a run."""

import logging
import re
from pathlib import Path

import pytest

from extract import choices, commands
from extract.config import MODULE_GROUPS
from extract.hydra_setup import conf_dir
from extract.options import options

COLUMNS, LINES = 80, 48


@pytest.fixture(autouse=True)
def logging_as_before():
    """`--info` lets Hydra set up logging, in a process that ends behind it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def shown(command, capfd):
    """Runs the command line, which must write nothing; returns what it printed."""

    def shown(*argv: str) -> str:
        assert command(*argv) == 0
        assert not list(Path.cwd().iterdir())
        return capfd.readouterr().out

    return shown


def groups_of(help_screen: str) -> dict[str, list[str]]:
    """Each group that the screen lists, with its choices."""
    found: dict[str, list[str]] = {}
    listed = help_screen.split("GROUP=CHOICE:\n\n")[1].split("\n\n")[0]
    for line in listed.splitlines():
        group = line[:13].strip() or list(found)[-1]
        found.setdefault(group, []).extend(filter(None, re.split(r",\s*", line[13:].strip())))
    return found


def test_help_fits_on_one_screen(shown):
    lines = shown("--help").rstrip("\n").splitlines()
    assert len(lines) <= LINES
    assert max(map(len, lines)) <= COLUMNS


def test_help_lists_every_choice_of_every_group_and_marks_the_defaults(shown):
    found = groups_of(shown("--help"))
    there: dict[str, set[str]] = {}
    for path in Path(conf_dir()).glob("*/*.yaml"):
        there.setdefault(path.parent.name, set()).add(path.stem)
    for group, (modules, _key) in MODULE_GROUPS.items():
        there.setdefault(group, set()).update(choices.own(modules))
    listed = {group: {one.partition(" ")[0] for one in ones} for group, ones in found.items()}
    assert listed == there
    marked = {group: one for group, ones in found.items() for one in ones if " (default)" in one}
    assert marked["model"] == "chinese_hubert_base (default)"
    assert marked["quantizer"] == "none (default)"
    assert not {"dataset", "preset"} & marked.keys()


def test_help_lists_the_choices_of_a_folder_of_the_users(shown, tmp_path_factory):
    conf = tmp_path_factory.mktemp("conf")
    (conf / "dataset").mkdir()
    (conf / "dataset" / "theirs.yaml").write_text("defaults:\n  - folder\n  - _self_\npath: x\n")
    assert "theirs" in groups_of(shown("--help", "--config-dir", str(conf)))["dataset"]


def test_help_lists_the_options_outside_the_groups_with_choices_and_the_commands(shown):
    screen = shown("--help")
    groups, listed = groups_of(screen), screen.split("defaults:\n\n")[1].split("\n\n")[0]
    outside = {name for name in options() if not name.startswith(tuple(f"{g}." for g in groups))}
    assert "device" in outside
    assert outside == {word.partition("=")[0] for word in listed.split()}
    there = {path.stem for path in Path(commands.__path__[0]).glob("[a-z]*.py")}
    listed = screen.split("each with --help:\n\n")[1].split("\n\n")[0]
    assert set(listed.strip().split(", ")) == there


def test_help_is_the_same_screen_whatever_else_is_typed(shown):
    screen = shown("--help")
    for argv in (["preset=rvc_v2"], ["-m"], ["--config-name", "gpt_sovits"]):
        assert shown("--help", *argv) == screen


def test_the_commands_that_help_names_for_more_work(shown):
    named = re.findall(r"^  python -m extract (.*--(?:cfg|info).*?)  ", shown("--help"), re.M)
    assert len(named) == 3
    for line in named:
        assert shown(*line.split())


def test_cfg_shows_one_group_with_the_options_of_its_choice(shown):
    assert "shard_mb: " in shown("--cfg", "job", "-p", "store", "store=webdataset")


@pytest.mark.parametrize(
    ("argv", "choice", "by"),
    [
        (["preset=rvc_v2"], "model rvc", "preset/rvc_v2"),
        (["preset=rvc_v2"], "preset rvc_v2", "the command line"),
        (["preset=rvc_v2", "model=local"], "model local", "the command line"),
        (["dataset=demo"], "model tiny_random", "dataset/demo"),
        (["dataset=mydata"], "model chinese_hubert_base", "config, by default"),
        (["--config-name=gpt_sovits"], "dataset gpt_sovits", "gpt_sovits"),
        (["dataset=mydata", "audio.alpha=0.3"], "audio.alpha=0.3", "the command line"),
    ],
)
def test_info_says_what_chose_each_choice(shown, argv, choice, by):
    table = shown("--info", "searchpath", *argv).split("Config search path")[0]
    rows = [" ".join(line.split()) for line in table.splitlines()]
    assert f"{choice} {by}" in rows


def test_info_finds_choices_in_a_folder_of_the_users(shown, tmp_path_factory):
    conf = tmp_path_factory.mktemp("their conf")
    (conf / "dataset").mkdir()
    (conf / "dataset" / "theirs.yaml").write_text(
        "# @package _global_\ndefaults:\n  - folder@dataset\n  - override /audio: plain\n"
    )
    said = shown("--info", "defaults", "dataset=theirs", "--config-dir", str(conf))
    table = [" ".join(line.split()) for line in said.splitlines()]
    assert "audio plain dataset/theirs" in table
    assert "dataset theirs the command line" in table


@pytest.mark.parametrize("of", [[], ["all"], ["config"], ["defaults-tree"], ["searchpath"]])
def test_info_of_every_kind_needs_no_dataset_and_starts_no_run(shown, capfd, of):
    assert shown("--info", *of)


def test_a_dataset_that_was_not_chosen_is_said_beside_what_is_shown(command, capfd, monkeypatch):
    monkeypatch.setattr(logging.root, "handlers", [])  # of runs in this process before
    for argv in (["--info", "defaults"], ["--cfg", "job"], ["--cfg=job"]):
        assert command(*argv) == 0
        out, err = capfd.readouterr()
        assert ("demo" in out, err) == (True, "with dataset=demo, since no dataset is chosen:\n")
        assert command(*argv, "dataset=folder") == 0
        out, err = capfd.readouterr()
        assert ("demo" in out, err) == (False, "")


@pytest.mark.parametrize("flag", [["--info"], ["--cfg", "job"]])
@pytest.mark.parametrize("sweep", ["-m", "--multirun"])
def test_a_sweep_is_no_config_to_show(command, capfd, tmp_path, flag, sweep):
    assert command("dataset=demo", "audio.alpha=0.3,0.5", sweep, *flag) == 2
    said = capfd.readouterr().err
    assert "leave out -m" in said
    assert "Traceback" not in said
