"""Packages as pip would install them: modules, and metadata with an entry point."""

import os
from pathlib import Path

from extract import choices


def install(
    folder: Path, group: str, name: str, module: str, source: str, dist: str = "elsewhere"
) -> dict[str, str]:
    """Puts a package with one entry point into `folder`; returns an environment that has it.

    Args:
        folder: where packages are looked for, as `site-packages`.
        group: of the entry point, `extract.sources`.
        name: of the choice.
        module: that the entry point names, `package.module`; `source` is its text.
    """
    path = folder.joinpath(*module.split(".")).with_suffix(".py")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.parent != folder:
        (path.parent / "__init__.py").touch()
    path.write_text(source, "utf8")
    metadata = folder / f"{dist}-1.0.dist-info"
    metadata.mkdir(exist_ok=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}\n")
    before = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(folder), before]))}


def forget_packages() -> None:
    """Lets this process look for packages anew."""
    choices._entry_points.cache_clear()
    choices._offered.cache_clear()
