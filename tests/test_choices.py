"""A choice is found by its name, here or in a package that somebody installed."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from extract import choices
from extract.extras import EXTRAS, missing
from support.packages import forget_packages, install

FOUND = """
import sys
from extract import choices
print(*choices.names("sources"))
print(choices.find("sources", sys.argv[1]).__name__)
"""


def ask(folder: Path, name: str) -> "subprocess.CompletedProcess[str]":
    """What a fresh Python finds under `name`, with `folder` among its packages."""
    environment = install(folder, "extract.sources", "elsewhere", "a_source.reader", "ANSWER = 1\n")
    command = [sys.executable, "-c", FOUND, name]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_choice_of_an_installed_package_is_found(tmp_path: Path) -> None:
    found = ask(tmp_path, "elsewhere")
    assert found.returncode == 0, found.stderr
    names, module = found.stdout.splitlines()
    assert "elsewhere" in names.split()
    assert module == "a_source.reader"


def test_an_unknown_choice_names_those_that_there_are(tmp_path: Path) -> None:
    found = ask(tmp_path, "nowhere")
    assert "ValueError: nowhere: none of extract's sources; needed" in found.stderr
    assert "elsewhere" in found.stderr.splitlines()[-1]


def test_a_choice_that_needs_another_package_names_it(tmp_path: Path) -> None:
    environment = install(
        tmp_path, "extract.sources", "elsewhere", "a_source", "import not_there\n"
    )
    command = [sys.executable, "-c", FOUND, "elsewhere"]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "ValueError: elsewhere: needs the package not_there" in found.stderr


@pytest.mark.parametrize("package", EXTRAS)
def test_a_choice_that_needs_an_optional_package_names_the_command_that_installs_it(
    tmp_path, monkeypatch, package
):
    install(
        tmp_path, "extract.engines", "elsewhere", f"needs_{package}", f"import {package}.some\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, package, None)  # hidden, where it is installed
    forget_packages()
    command = rf"pip install 'extract-ssl\[{EXTRAS[package]}\]'$"
    said = f"^elsewhere: needs the package {package}, which is missing: {command}"
    try:
        with pytest.raises(ValueError, match=said):
            choices.find("engines", "elsewhere")
    finally:
        forget_packages()


def test_the_extra_that_is_named_installs_the_package():
    text = (Path(choices.__file__).parents[1] / "pyproject.toml").read_text("utf8")
    extras = tomllib.loads(text)["project"]["optional-dependencies"]
    installs = {  # where it is not the name that is imported
        "sklearn": "scikit-learn",
        "hydra_submitit_launcher": "hydra-submitit-launcher",
    }
    for package, extra in EXTRAS.items():
        names = {Requirement(line).name for line in extras[extra]}
        assert installs.get(package, package) in names
        assert missing(f"{package}.part").endswith(f": pip install 'extract-ssl[{extra}]'")
    assert missing("not_there.part") == "needs the package not_there, which is missing"


@pytest.mark.parametrize("group", choices.FOLDERS)
def test_every_module_of_a_folder_is_a_choice(group: choices.Group) -> None:
    folder = Path(*choices.FOLDERS[group].split("."))
    root = Path(choices.__file__).parents[1]
    here = {path.stem for path in (root / folder).glob("*.py")} - {"__init__"}
    assert here <= set(choices.names(group))
    for name in here:
        assert choices.find(group, name).__name__ == f"{choices.FOLDERS[group]}.{name}"
