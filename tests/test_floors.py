"""The house stands: imports go down, and each large library has one door."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "extract"

FLOORS = (
    "frames wav ffmpeg decode audio strings ids clashes text files lists folders manifest config "  # noqa: ISC004
    "options internal architecture resampling",
    "dataset model_files",
    "plan batching lengths machine workers",
    "packing products positions weights first_layer_kernel first_layer convolutions hubert models "  # noqa: ISC004
    "encoder encoding formats store ledger foreign metadata resume lock opening loading writing",
    "pipeline progress summary",
    "stopping streams words build job app commands __main__ __init__",
)
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names.split()}
DOORS = {
    "transformers": {"models"},
    "hydra": {"app", "__main__"},
    "omegaconf": {"app", "config"},
    "triton": {"first_layer_kernel"},
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def imports(source: str) -> set[str]:
    """Full names of all that `source` imports, wherever it does; for `from a import b`: a, a.b."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return found


def faults(name: str, source: str, floor_of: dict[str, int] = FLOOR) -> list[str]:
    """What is wrong with the imports of the module `name`."""
    wrong = []
    for imported in sorted(imports(source)):
        root, _, rest = imported.partition(".")
        target = rest.partition(".")[0]
        if not root:
            wrong.append(f"{name} imports {imported}: write extract.* in full")
        elif root == "extract" and floor_of.get(target, 0) > floor_of[name]:
            wrong.append(f"{name} imports {imported}: from a floor above")
        elif root in DOORS and name not in DOORS[root]:
            wrong.append(f"{name} imports {imported}: only {sorted(DOORS[root])} may")
    return wrong


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_imports_go_down(path):
    name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert name in FLOOR, f"{name} stands on no floor: give it one in tests/test_floors.py"
    assert not faults(name, path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("audio", "from extract.data.dataset import AudioDataset"),
        ("audio", "import extract.app"),
        ("store", "def f():\n    from extract import pipeline"),
        ("audio", "from .dataset import AudioDataset"),
        ("store", "import transformers.utils"),
        ("job", "from omegaconf import OmegaConf"),
        ("config", "from hydra import main"),
    ],
)
def test_a_wrong_import_is_found(name, source):
    assert faults(name, source)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("dataset", "from extract.audio.prepare import prepare"),
        ("store", "from extract.store.ledger import Ledger"),
        ("models", "import transformers"),
        ("app", "import hydra, omegaconf, extract.run.pipeline"),
        ("audio", "import soxr"),
    ],
)
def test_a_right_import_is_not(name, source):
    assert not faults(name, source)


def test_workers_import_neither_torch_nor_hydra_for_the_manifest():
    names = ("strings", "ids", "lists", "folders", "manifest", "frames", "plan")
    sources = {name: (PACKAGE / f"{name}.py").read_text(encoding="utf-8") for name in names}
    heavy = {"torch", "hydra", "omegaconf", "transformers"}
    for name, source in sources.items():
        assert not heavy & {imported.partition(".")[0] for imported in imports(source)}, name
