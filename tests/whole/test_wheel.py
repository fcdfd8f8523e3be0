"""What a user installs: the wheel holds all that the command needs, and runs in an empty folder."""

import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import extract
from support.recordings import DEMO
from support.stores import audit, ids_of

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    result = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the source distribution, and with the wheel that is built of that."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(built) -> Path:
    [wheel] = built.glob("*.whl")
    return wheel


def test_what_pip_is_told(wheel):
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = message_from_bytes(archive.read(name))
    assert (metadata["Name"], metadata["Version"]) == ("extract-ssl", extract.__version__)
    assert metadata["Requires-Python"] == ">=3.11"
    pythons = {line.split(" :: ")[-1] for line in metadata.get_all("Classifier")}
    assert {"3.11", "3.12", "3.13", "Typed", "Linux"} <= pythons
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Description-Content-Type"] == "text/markdown"


def test_the_source_distribution_holds_what_a_wheel_is_built_of(built):
    [sdist] = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    options = {str(path.relative_to(ROOT)) for path in (ROOT / "conf").rglob("*.yaml")}
    clips = {f"extract/demo/{path.name}" for path in DEMO.iterdir() if path.is_file()}
    assert options | clips | {"LICENSE", "README.md", "extract/py.typed"} <= names


def test_the_wheel_holds_code_options_clips_and_licences(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "extract").rglob("*.py")}
    options = {
        f"extract/{path.relative_to(ROOT)}" for path in (ROOT / "conf").rglob("*") if path.is_file()
    }
    clips = {f"extract/demo/{path.name}" for path in DEMO.iterdir() if path.is_file()}
    pages = (ROOT / "extract" / "report" / folder for folder in ("templates", "vendor"))
    page_files = {
        str(path.relative_to(ROOT)) for one in pages for path in one.rglob("*") if path.is_file()
    }
    assert len(options) > 10
    assert "extract/demo/LICENSE" in clips
    assert len([name for name in page_files if name.endswith("/LICENSE")]) == 2
    assert modules | options | clips | page_files | {"extract/py.typed"} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith(("tests", "benchmarks", "outputs"))]
    assert not [name for name in names if "__pycache__" in name]


def test_the_installed_wheel_runs_the_demo_from_an_empty_folder(wheel, tmp_path):
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    pip = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"]
    run(sys.executable, *pip, "--disable-pip-version-check", "--target", site, wheel, cwd=empty)
    environment = {"PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2"}
    environment["EXTRACT_REPORT"] = "html"  # the default outside of tests
    where = run(
        sys.executable, "-c", "import extract; print(extract.__file__)", cwd=empty, **environment
    )
    assert where.startswith(str(site))
    run(sys.executable, "-m", "extract", "dataset=demo", "device=cpu", cwd=empty, **environment)
    [store] = (empty / "outputs" / "demo").iterdir()
    clips = {name for name in ids_of(DEMO) if "_" in name}
    audit(store, clips)
    assert len(list((store / "4-cnhubert").iterdir())) == len(clips) >= 12
    page = (store / "report.html").read_text("utf8")
    assert page.count("<audio controls") == 12
    assert "wavesurfer" in page


def bounds(requirement: Requirement, *operators: str) -> list[Version]:
    """Versions that a requirement names after one of `operators`."""
    return [Version(one.version) for one in requirement.specifier if one.operator in operators]


def test_the_oldest_versions_tested_are_the_oldest_admitted_and_no_new_major_is():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["project"]
    admitted = {need.name: need for need in map(Requirement, project["dependencies"])}
    lines = (ROOT / "constraints-oldest.txt").read_text("utf8").splitlines()
    tested = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert {need.name: bounds(need, "==") for need in tested} == {
        name: bounds(need, ">=") for name, need in admitted.items()
    }
    assert all(len(bounds(need, "<")) == 1 for need in admitted.values())


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.cpu"])
def test_an_image_is_made_of_what_is_sent_to_docker(name):
    lines = (ROOT / name).read_text("utf8").splitlines()
    copied = {path for line in lines if line.startswith("COPY ") for path in line.split()[1:-1]}
    ignored = (ROOT / ".dockerignore").read_text("utf8").splitlines()
    sent = {line[1:] for line in ignored if line.startswith("!")}
    assert copied == sent
    assert {"pyproject.toml", "README.md", "LICENSE", "conf", "extract"} == copied
    assert all((ROOT / path).exists() for path in copied)
    assert "USER extract" in lines
    assert lines.index("USER extract") < lines.index('ENTRYPOINT ["python", "-m", "extract"]')
