"""The README and the pages say what is so."""

import pkgutil
import re
from enum import Enum
from pathlib import Path

import pytest
from omegaconf import MISSING

import extract
from extract import choices, exits
from extract.hydra_setup import conf_dir
from extract.options import options
from extract.values import STATUS_OF
from support import options_page
from support.faults import fault_row, faults
from support.recordings import DEMO
from support.stores import audit, ids_of

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf8")
PAGES = {path.stem: path.read_text("utf8") for path in sorted((ROOT / "docs").glob("*.md"))}
MAX_LINES = 130


def section(page: str, heading: str) -> str:
    """The text below a heading of any level, up to the next one."""
    return re.split(r"^#+ ", page.split(f" {heading}\n")[1], flags=re.MULTILINE)[0]


def test_the_readme_is_short():
    assert len(README.splitlines()) <= MAX_LINES


def anchors(page: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


LINKS = re.findall(r"\]\(([^)]+)\)|<img src=\"([^\"]+)\"", README)


@pytest.mark.parametrize("link", sorted({one or other for one, other in LINKS}))
def test_every_link_of_the_readme_leads_somewhere(link):
    path, _, anchor = link.partition("#")
    assert (ROOT / path).is_file()
    assert not anchor or anchor in anchors((ROOT / path).read_text("utf8"))


def test_every_page_is_linked_in_the_readme_and_in_the_navigation():
    pages = {f"{name}.md" for name in PAGES}
    linked = {Path(one).name for one, _other in LINKS if one.startswith("docs/")}
    assert {link.partition("#")[0] for link in linked} == pages - {"index.md"}
    assert set(re.findall(r": (\w+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)) == pages


@pytest.mark.parametrize("page", [README, PAGES["training"]], ids=["README", "training"])
def test_the_first_python_example_runs(page, capsys):
    example = page.split("```python\n")[1].split("```")[0]
    for real, small in {
        '"data/mydata"': repr(str(DEMO)),
        '"TencentGameMate/chinese-hubert-base"': '"tiny_random"',
        'device="cuda:0"': 'device="cpu"',
        "num_workers=4": "num_workers=0",
    }.items():
        assert real in example
        example = example.replace(real, small)
    names = {}
    exec(example, names)
    assert len(names["dataset"]) == 12
    shapes = re.findall(r"torch.Size\(\[(\d+), \d+, 32\]\)", capsys.readouterr().out)
    assert sum(map(int, shapes)) == (12 if page is README else 0)


def test_the_fault_table_is_the_one_the_tests_write():
    assert len(faults()) >= 12
    table = section(PAGES["faults"], "What the tests do to a run")
    rows = [line for line in table.splitlines() if line.endswith("| nothing |")]
    assert sorted(rows) == sorted(fault_row(*fault) for fault in faults())


def test_the_table_of_exit_codes_has_every_code_with_its_words_and_no_other():
    table: dict[int, set[str]] = {}
    for codes, words, text in rows(section(PAGES["faults"], "Exit codes"))[1:]:
        assert text
        for code in codes.split(", "):
            table[int(code)] = set(re.findall(r"`([^`]+)`", words))
    of_show = {exits.UNREADABLE}  # in a sentence below the table that `extract show` prints
    known = [one for one in vars(exits).values() if isinstance(one, exits.Exit)]
    for one in set(known) - of_show:
        assert one.meaning in table[one.code]
        table[one.code].discard(one.meaning)
    assert not set().union(*table.values())
    assert set(table) == {one.code for one in known}


def test_the_python_example_of_a_run_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    example = PAGES["api"].split("```python\n")[1].split("```")[0]
    for real, small in {
        '"data/mydata"': repr(str(DEMO)),
        '"TencentGameMate/chinese-hubert-base"': '"tiny_random"',
    }.items():
        assert real in example
        example = example.replace(real, small)
    exec(example, {"__name__": "__main__"})
    assert capsys.readouterr().out == "12 saved, 0 failed\n"
    audit(tmp_path / "outputs" / "mydata", ids_of(DEMO) - {"LICENSE", "README.md"})


def test_every_reason_is_named_and_no_other():
    table = section(PAGES["faults"], "The reasons")
    for status in ("rejected", "failed"):
        row = next(line for line in table.splitlines() if line.startswith(f"| `{status}`"))
        named = set(re.findall(r"`(\w+)`", row)) - {status}
        assert named == {reason for reason, its in STATUS_OF.items() if its == status}


OPTION = re.compile(
    r"(?<![/.])\b((?:audio|loader|store|shard|dataset|model|quantizer)\.(?!safetensors|layouts|all\b)\w+)"
)
OPTIONS = sorted({name for text in [README, *PAGES.values()] for name in OPTION.findall(text)})


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_named_exists(option):
    assert option in options()


def test_the_page_of_options_is_made_from_the_schema():
    assert PAGES["options"] == options_page.page()


def test_every_option_is_explained():
    for cells in tables_of_options():
        assert all(cells), cells


def rows(text):
    """The rows of the tables in `text`, each as a list of cells."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    return [[cell.strip().replace(r"\|", "|") for cell in row] for row in cells]


def tables_of_options():
    """Name, default, values and text of every option on its page."""
    cells = rows(PAGES["options"].split("## Every option")[1])
    return [row for row in cells if row[0] != "option"]


def shown(default):
    """A default of the schema as the page writes it; None: it is said in words."""
    if default == MISSING:
        return None
    if default is None or isinstance(default, bool):
        return {None: "`null`", True: "`true`", False: "`false`"}[default]
    if isinstance(default, Enum):
        return f"`{default.name}`"
    if isinstance(default, tuple):  # as the command line takes it
        return f"`[{','.join(map(str, default))}]`"
    return f"{default:g}" if isinstance(default, int | float) else f"`{default}`"


def test_the_table_of_options_has_every_option_with_its_default_and_no_other():
    table = {name.strip("`"): default for name, default, _values, _text in tables_of_options()}
    said_in_words = {name: text for name, text in table.items() if text.startswith("by ")}
    expected = {name: shown(option.default) for name, option in options().items()}
    assert table == expected | {k: said_in_words.get(k) for k, v in expected.items() if v is None}
    assert {name for name, text in expected.items() if text is None} == set(said_in_words)


def test_the_table_of_choices_has_every_choice_and_no_other():
    found = {
        tuple(choice.strip("`").split("="))
        for choice, _text in rows(section(PAGES["options"], "Choices"))
        if choice != "choice"
    }
    groups = {"dataset", "model", "audio", "store", "preset", "quantizer", "engine", "report"}
    there = {(path.parent.name, path.stem) for path in Path(conf_dir()).glob("*/*.yaml")}
    there |= {("dataset", source) for source in choices.own("sources")}
    there |= {("store", layout) for layout in choices.own("layouts")}
    there |= {("quantizer", quantizer) for quantizer in choices.own("quantizers")}
    there |= {("engine", engine) for engine in choices.own("engines")}
    assert found == {choice for choice in there if choice[0] in groups}
    assert {choice for choice in there if choice[0] not in groups} == {("loader", "default")}


def test_the_table_of_models_has_every_model_and_no_other():
    first = [row[0].strip("`") for row in rows(PAGES["models"].split("## ")[0])]
    assert set(first) - {"model="} == {path.stem for path in Path(conf_dir(), "model").iterdir()}


def test_the_table_of_modules_has_every_module_and_no_other():
    table = section(PAGES["contributing"], "The way of a recording")
    named = [
        ".".join(filter(None, ("extract", package.strip("`/").replace("/", "."), name)))
        for package, modules, _text in rows(table)
        for name in re.findall(r"`(\w+)`", modules)
    ]
    found = pkgutil.walk_packages(extract.__path__, "extract.")
    there = {module.name for module in found if not module.ispkg} - {"extract.__main__"}
    assert sorted(named) == sorted(there)
