"""The JavaScript that pages hold: as npm has it, and such that a page may hold it."""

import json

import pytest

from extract.report import pages
from support.vendored import FOLDER, LIST, integrity

PACKAGES = json.loads(LIST.read_text("utf8"))
FILES = [(package["name"], name) for package in PACKAGES for name in package["files"]]


@pytest.mark.parametrize(("package", "name"), FILES)
def test_a_file_is_the_one_that_is_pinned(package, name):
    [pinned] = [one["files"][name] for one in PACKAGES if one["name"] == package]
    assert integrity((FOLDER / package / name).read_bytes()) == pinned["integrity"]


def test_each_package_is_pinned_with_its_licence_and_no_file_is_there_beside():
    there = {path.relative_to(FOLDER) for path in FOLDER.rglob("*") if path.is_file()} - {
        LIST.relative_to(FOLDER)
    }
    assert {tuple(path.parts) for path in there} == set(FILES)
    for package in PACKAGES:
        assert package["version"].count(".") == 2
        assert package["integrity"].startswith("sha512-")
        assert "LICENSE" in package["files"]
        assert "://" not in json.dumps(package)


def test_pages_take_each_script_and_style_that_is_vendored():
    taken = {name for name in (*pages.SCRIPTS, *pages.STYLES) if name.startswith("vendor/")}
    assert taken == {f"vendor/{package}/{name}" for package, name in FILES if name != "LICENSE"}


@pytest.mark.parametrize("name", [*pages.SCRIPTS, *pages.STYLES])
def test_nothing_inlined_ends_its_element(name):
    text = (pages.HERE / name).read_text("utf8").lower()
    ends = ("</script", "<!--") if name.endswith(".js") else ("</style",)
    assert not [word for word in ends if word in text]
