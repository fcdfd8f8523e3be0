"""The scripts of `examples/`, and their commands as examples/README.md has them."""

import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType

from support.recordings import DEMO

FOLDER = Path(__file__).parents[2] / "examples"
PAGE = (FOLDER / "README.md").read_text("utf8")
SMALL = ["--model", "tiny_random", "--device", "cpu", "--num-workers", "0"]


def example(name: str) -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def command(name: str) -> list[str]:
    """The arguments that the page gives to the script; for the demo and a small model."""
    [line] = re.findall(rf"^python examples/{name}\.py (.*)$", PAGE, re.M)
    return [str(DEMO) if word == "recordings" else word for word in shlex.split(line)] + SMALL
