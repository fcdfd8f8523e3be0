"""Fetches the JavaScript that pages hold, from npm: `make vendor`.

`extract/report/vendor/packages.json` pins each package by its version and npm's own hash of it,
and names the files that are taken, with their hashes. To take another version, write it there with
an empty `integrity`: the new hashes are filled in. No address of a registry is kept anywhere.
"""

import base64
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "extract" / "report" / "vendor"
LIST = FOLDER / "packages.json"


def integrity(data: bytes) -> str:
    """The hash of a file, as npm and browsers write it."""
    return f"sha512-{base64.b64encode(hashlib.sha512(data).digest()).decode()}"


def fetch(package: dict) -> None:
    """Writes a package's files, and their hashes into `package`.

    Raises:
        ValueError: npm has another file under that name and version than the one that is pinned.
    """
    named = f"{package['name']}@{package['version']}"
    with tempfile.TemporaryDirectory() as scratch:
        command = ["npm", "pack", "--silent", "--pack-destination", scratch, named]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        [archive] = Path(scratch).iterdir()
        found = integrity(archive.read_bytes())
        if package["integrity"] not in ("", found):
            raise ValueError(f"{named}: {found}; pinned is {package['integrity']}")
        package["integrity"] = found
        with tarfile.open(archive) as tar:
            for name, file in package["files"].items():
                data = tar.extractfile(f"package/{file['from']}").read()
                (FOLDER / package["name"]).mkdir(exist_ok=True)
                (FOLDER / package["name"] / name).write_bytes(data)
                file["integrity"] = integrity(data)


def main() -> None:
    packages = json.loads(LIST.read_text("utf8"))
    for package in packages:
        fetch(package)
        sys.stdout.write(f"{package['name']} {package['version']}\n")
    LIST.write_text(json.dumps(packages, indent=2) + "\n", "utf8")


if __name__ == "__main__":
    main()
