"""Pages by Jinja2: one file that holds its scripts, its style, its pictures and its sounds.

A page asks no network. Its policy names the hash of each script that was inlined, so that no other
script runs, whatever a store's names hold. Jinja2 escapes all text.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from extract.files import replace_whole
from extract.text import shown

HERE = Path(__file__).parent
TEMPLATES = HERE / "templates"
SCRIPTS = (
    "vendor/uplot/uPlot.iife.min.js",
    "vendor/wavesurfer.js/wavesurfer.min.js",
    "vendor/wavesurfer.js/spectrogram.min.js",
    "templates/page.js",
)
STYLES = ("vendor/uplot/uPlot.min.css", "templates/page.css")

# `data:` and `blob:` are the page's own bytes: pictures, sounds, and what wavesurfer.js decodes.
# Its waveforms bring a <style> of their own.
POLICY = (
    "default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data: blob:; "
    "media-src data: blob:; connect-src data: blob:; base-uri 'none'; form-action 'none'"
)
MAX_TEXT = 300  # characters of a text that a store holds: names, details, settings


@dataclass(frozen=True)
class Table:
    """A table as `macros.html` draws it; the first cell of a row is the row's head."""

    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    is_sortable: bool = True


def write(template: str, target: Path, values: Mapping[str, Any]) -> None:
    """Writes a page, whole or not at all.

    Args:
        template: a file of `templates/` that extends `base.html`.
        target: the page's file.
        values: of the template. An iterator among them is asked for one item at a time, and the
            page is written as it comes.

    Raises:
        OSError: the page cannot be written.
    """
    replace_whole(target, rendered(template, values), fsync=False)


def rendered(template: str, values: Mapping[str, Any]) -> Iterator[bytes]:
    """The page in parts, made as they are asked for."""
    scripts, styles = SCRIPTS + _own(template, ".js"), STYLES + _own(template, ".css")
    inlined = {"scripts": _texts(scripts), "styles": _texts(styles), "policy": _policy(scripts)}
    for part in _environment().get_template(template).generate({**inlined, **values}):
        yield part.encode("utf8", "backslashreplace")


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["shown"] = name_of
    return environment


@functools.cache
def _texts(names: Sequence[str]) -> tuple[Markup, ...]:
    """Scripts or styles of this package, as the page holds them."""
    return tuple(Markup((HERE / name).read_bytes().decode()) for name in names)


def _own(template: str, ending: str) -> tuple[str, ...]:
    """The script or the style that is one template's own, if it has one: a file of its name."""
    name = f"templates/{Path(template).stem}{ending}"
    return (name,) if (HERE / name).is_file() else ()


@functools.cache
def _policy(scripts: Sequence[str]) -> str:
    hashes = (hashlib.sha256(script.encode()).digest() for script in _texts(scripts))
    allowed = " ".join(f"'sha256-{base64.b64encode(one).decode()}'" for one in hashes)
    return POLICY.format(scripts=allowed)


def name_of(text: object) -> str:
    """A text of the store's as the page shows it: printable, of bounded length, not yet escaped."""
    return shown(str(text), MAX_TEXT)


def data_uri(kind: str, data: bytes) -> str:
    """`data` as the address of a picture or a sound that is in the page itself."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def table_of(
    caption: str,
    heads: Sequence[str],
    rows: Iterable[Iterable[object]],
    *,
    is_sortable: bool = True,
) -> Table:
    """A table of foreign texts, each made printable and short."""
    return Table(caption, heads, [[name_of(cell) for cell in row] for row in rows], is_sortable)
