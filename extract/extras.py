"""Packages that only some choices need, and the command that installs one that is missing.

Each is an extra of `pyproject.toml`, named after what it is for. A module imports one inside the
function that needs it:

    try:
        import datasets
    except ModuleNotFoundError as error:
        raise ValueError(f"dataset=hf: {missing(error.name)}") from error
"""

from __future__ import annotations

EXTRAS: dict[str, str] = {  # the name that is imported: the extra that installs it
    "aiobotocore": "remote",
    "aiohttp": "remote",
    "datasets": "hf",
    "fsspec": "remote",
    "hydra_submitit_launcher": "slurm",  # a plugin, by the name of what pip installs
    "s3fs": "remote",
    "pyarrow": "parquet",
    "ray": "ray",
    "tensorboard": "tensorboard",
    "sklearn": "units",
}


def missing(name: str | None) -> str:
    """What to say of a package that is not installed: its name and the command that installs it.

    Args:
        name: of the module whose import failed, `ModuleNotFoundError.name`: `datasets.features`.
    """
    package = (name or "").partition(".")[0]
    said = f"needs the package {package}, which is missing"
    extra = EXTRAS.get(package)
    return f"{said}: pip install 'extract-ssl[{extra}]'" if extra else said
