"""Completion by TAB: what Hydra and the schemas know, asked as bash asks it."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from extract import choices, commands
from extract.hydra_setup import conf_dir, default_choices
from extract.values import Gain
from support.packages import install

OWN_COMMANDS = {path.stem for path in Path(commands.__path__[0]).glob("[a-z]*.py")}


@pytest.fixture
def completed(command, monkeypatch, capfd):
    """What a line may go on with; nothing is said beside it, since the user is typing."""

    def completed(line: str) -> set[str]:
        monkeypatch.setenv("COMP_LINE", line)
        assert command("-sc", "query=bash") == 0
        out, err = capfd.readouterr()
        assert not err
        return set(out.split())

    return completed


@pytest.mark.parametrize("start", ["extract ", "/bin/python3 -m extract "])
def test_the_first_word_is_a_group_an_option_or_a_command(completed, start):
    found = completed(start)
    groups = {f"{group}=" for group in default_choices()}
    assert groups | OWN_COMMANDS | {"device=", "seed="} <= found
    assert not {one for one in found if one.startswith(("hydra", "schema"))}
    assert completed(f"{start}dev") == {"device="}


@pytest.mark.parametrize("group", ["dataset", "store", "quantizer", "preset", "model"])
def test_a_group_is_completed_with_its_choices_modules_among_them(completed, group):
    files = {path.stem for path in Path(conf_dir(), group).glob("*.yaml")}
    folder = {"dataset": "sources", "store": "layouts", "quantizer": "quantizers"}.get(group)
    there = files | set(choices.own(folder) if folder else ())
    assert completed(f"extract {group}=") == {f"{group}={choice}" for choice in there}


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("store=kaldi store.ark", {"store.ark_mb="}),
        ("store=npy store.ark", set()),
        ("preset=rvc_v2 store.fo", {"store.folder="}),
        ("dataset=csv,folder -m dataset.del", {"dataset.delimiter="}),
        ("audio.al", {"audio.alpha="}),  # no dataset yet
        ("audio.pad_", {"audio.pad_samples="}),  # a list is an option too
        ("dataset=folder dataset.path=a(1) it's audio.al", {"audio.alpha="}),  # no words of Hydra's
        ("dataset=nope audio.al", set()),
        ("audio.gain=", {f"audio.gain={gain.name}" for gain in Gain}),
        ("retry_failed=t", {"retry_failed=true"}),
        ("dataset=folder dataset.path=", set()),  # the shell knows files
        ("--i", {"--info"}),
        ("show ", set()),
        ("show st", set()),
    ],
)
def test_options_are_those_of_the_choices_made(completed, line, found):
    assert completed(f"extract {line}") == found


def test_a_choice_of_an_installed_package_is_completed(completed, tmp_path, monkeypatch):
    packages = tmp_path / "packages"
    source = (
        "from dataclasses import dataclass\nfrom extract.manifest.source import SourceOptions\n"
    )
    source += "@dataclass\nclass Options(SourceOptions):\n    every: int = 1\n"
    environment = install(packages, "extract.sources", "lines", "my_package.lines", source)
    environment["COMP_LINE"] = "extract dataset=lines dataset.ev"
    asked = [sys.executable, "-m", "extract", "-sc", "query=bash"]
    ran = subprocess.run(asked, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert (ran.stdout, ran.stderr) == ("dataset.every=\n", "")


BASH = """
eval "$(python -m extract -sc install=bash)"
tab() {
    COMP_LINE=$1 COMP_POINT=${#1} COMPREPLY=()
    COMP_WORDBREAKS=$2
    "$(complete -p "${1%% *}" | sed 's/.*-F \\([^ ]*\\) .*/\\1/')"
    echo "${COMPREPLY[*]}"
}
tab "python -m extract store=web" $' \\t\\n='
tab "python -m extract store=web" $' \\t\\n'
tab "python elsewhere.py store=web" $' \\t\\n='
eval "$(python -m extract -sc uninstall=bash)"
complete -p python extract
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a shell of POSIX")
def test_bash_completes_python_m_extract(tmp_path):
    """`=` parts words in bash, unless somebody has changed that."""
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    environment = {**os.environ, "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
    asked = ["bash", "--norc", "-c", BASH]
    ran = subprocess.run(asked, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert ran.stdout.splitlines() == ["webdataset", "store=webdataset", ""]
    assert ran.stderr.count("no completion specification") == 2
    assert len(ran.stderr.splitlines()) == 2


def test_the_console_script_completes_its_own_name_alone(command, capfd, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/extract"])
    assert command("-sc", "install=bash") == 0
    assert capfd.readouterr().out.splitlines()[-1].endswith("-F _extract_complete extract")


@pytest.mark.parametrize("shell", ["fish"])
def test_other_shells_have_hydras_own_script(command, capfd, shell):
    assert command("-sc", f"install={shell}") == 0
    assert f"-sc query={shell}" in capfd.readouterr().out
