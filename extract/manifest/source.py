"""What a source is: a module of `manifest/sources/`, or of an installed package.

It has a class `Options(SourceOptions)`, the schema of `dataset=<name>`, and the two functions of
`Source`. It may also have `opener(options) -> Opener` where its paths are not those of files on
this machine. docs/contributing.md, "How to add a source", has one from beginning to end.

No NumPy: `--help` loads the options of the source that is chosen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from extract import choices
from extract.fields import MISSING
from extract.manifest.folders import WRITTEN
from extract.manifest.ids import SUFFIXES
from extract.values import Entry, Failure

if TYPE_CHECKING:
    from extract.manifest.clashes import Clash
    from extract.manifest.manifest import Manifest


@dataclass
class SourceOptions:
    """Which recordings."""

    name: str = MISSING  # names the output folder
    kind: str = MISSING  # what lists the recordings: the name of a source


@dataclass(frozen=True)
class Output:
    """The store that this run will write, as far as a source has to know it.

    A source that looks for files leaves those of the store out; one that checks ids itself, to say
    where a bad one stands, asks `check_id(id, max_part_bytes(suffixes))`.
    """

    store: str | None = None  # the store's folder, which need not exist; None: none is written
    folders: tuple[str, ...] = WRITTEN  # in which its layout keeps files
    suffixes: tuple[str, ...] = SUFFIXES  # what its layout adds to an id
    folds_case: bool = False  # whether `A` and `a` are one file there
    # Endings of the layout's files in the store's own folder, where recordings may lie beside them;
    # None: no recordings are in a store of this layout
    beside: tuple[str, ...] | None = None
    duplicates_fail: bool = False  # whether of two recordings of one name the later one fails alone


class Source(Protocol):
    """The functions of a source's module. `options` is what its class `Options` holds."""

    def source(self, options: Any) -> str:
        """The one name of what is read, however the options spell it: `paths.canonical` of a path.

        It is part of a store's identity: a run that reads another source needs another store.

        Raises:
            ValueError: there is no such folder, list or data set.
        """
        ...

    def read(self, options: Any, output: Output) -> Iterator[Entry | Failure]:
        """The recordings, one at a time, in the source's order. It opens none of them.

        What cannot become an `Entry` is a `Failure.of_source`, never a gap. Ids are checked, and
        clashes found, by `Manifest.from_entries`.

        Raises:
            ValueError: the options cannot be carried out. All is read before any work starts.
        """
        ...


def listed_ids(options: SourceOptions, output: Output) -> list[str | None]:
    """The id of each item of a source in its order, for files whose lines follow a list.

    A recording that is listed again has its id again. None stands for what is no recording of the
    manifest: a bad line, or the later one of two recordings of one name.
    """
    module: Any = choices.find("sources", options.kind)
    first: dict[str, tuple[str, float, float | None]] = {}

    def id_of(entry: Entry | Failure) -> str | None:
        if isinstance(entry, Failure):
            return None
        part = entry.path, entry.offset_s, entry.duration_s
        return entry.id if first.setdefault(entry.id, part) == part else None

    return [id_of(entry) for entry in module.read(options, output)]


def read_source(
    options: SourceOptions, output: Output, clashes: list[Clash] | None = None
) -> Manifest:
    """The recordings that the source named by `options.kind` lists.

    Args:
        options: of the source.
        output: what the run will write.
        clashes: see `Manifest.from_entries`.

    Raises:
        ValueError: no such source, what the source raises, or two recordings would write the same
            file, unless the later one is to fail for that.
    """
    from extract.manifest.manifest import Manifest  # NumPy

    module: Any = choices.find("sources", options.kind)
    source: Source = module
    name = source.source(options)
    entries = source.read(options, output)
    manifest = Manifest.from_entries(
        entries, name, output.suffixes, output.folds_case, output.duplicates_fail, clashes
    )
    opener = getattr(module, "opener", None)
    return replace(manifest, opener=opener(options)) if opener else manifest
