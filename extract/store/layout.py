"""What a layout is: which files an utterance becomes in a store, and how they are read back.

Each choice of the config group `store` is a module: one of `extract/store/layouts/`, or one that an
installed package offers as an entry point of `extract.layouts`. It has two names:

    class Options(LayoutOptions): ...                 the options of `store=<name>`
    def layout(options, directory, files) -> Layout   one for each store that is opened

docs/contributing.md ("How to add a layout") has a complete one. No torch here: options are read
without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from extract.fields import checked, location, number
from extract.store.subfolders import NEEDED, is_subfolders

if TYPE_CHECKING:
    from torch import Tensor

    from extract.store.reused import Reused
    from extract.values import Encoded

# Name below the store, offset, bytes, crc32 of those bytes; no crc32 in some lines of 0.1.0.
KeptFile = tuple[str, int, int, int | None]


_SEQUENCES, _TYPES = frozenset({list, tuple}), (str, int, int, int)


class Verify(Enum):
    """How files of earlier runs are checked: by their sizes, or by reading them whole."""

    size = "size"
    checksum = "checksum"


class DType(Enum):
    """Number format of the saved features. `auto`: the encoder's, or float32 where a file cannot.

    An utterance that does not fit into float16 is saved in float32; the ledger's `dtype` says so.
    """

    auto = "auto"
    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


class TrainingAudio(Enum):
    """Whether a copy of each recording is saved at 32 kHz, as GPT-SoVITS trains on it."""

    wav32k = "wav32k"
    none = "none"


class LockKind(Enum):
    """What keeps two processes from one shard.

    `auto`: flock where it reaches all machines that see the store, else a lease; what a process
    chose first holds for the store.
    """

    auto = "auto"
    flock = "flock"
    lease = "lease"


@dataclass
class LayoutOptions:
    """Where features go and how they are kept.

    The base of every layout's `Options`.
    """

    dir: str = location("outputs/${dataset.name}/${run_name:}")  # the output folder
    layout: str = "gpt_sovits"  # which files are written: the name of a layout
    dtype: DType = DType.auto
    audio: TrainingAudio = TrainingAudio.wav32k
    # Levels of sub-folders by a hash of the id, 256 in each: for a million files of one folder.
    # auto = as the store has it; in a new one 1 where more than 50,000 recordings of the list would
    # lie in one folder, 2 where more than 1,000,000 would. Only `npy` has them
    subfolders: Any = field(default=0, metadata=checked(NEEDED, is_subfolders))
    num_writers: int = number(4, at_least=1, at_most=1024)  # threads that write
    # Saved files survive a power cut, not only a killed process. The ledger's lines of the last 5 s
    # may be lost; their recordings are then done again
    fsync: bool = True
    verify: Verify = Verify.size
    lock: LockKind = LockKind.auto


class KeptFiles(tuple[KeptFile, ...]):
    """Files of which each has the form that `is_kept_file` asks for: no need to look again."""

    __slots__ = ()


class Kept(NamedTuple):
    """One utterance whose files are whole on the disk: what its line of the ledger says of them."""

    id: str
    files: tuple[KeptFile, ...]

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Kept | None:
        """The files that a line of the ledger names; None if it names none."""
        files = record.get("files")
        if type(files) is KeptFiles:
            return cls(record["id"], files)
        if type(files) not in _SEQUENCES or not files or not all(map(is_kept_file, files)):
            return None
        return cls(record["id"], tuple(map(tuple, files)))


Records = Callable[[], Iterable[Mapping[str, Any]]]
"""Reads the lines of saved utterances anew, each time that it is called."""

Moved = Callable[[KeptFile], KeptFile | None]
"""Where a part of an archive is now, of what a line says; None where it is no longer there."""


def is_kept_file(file: Any) -> bool:
    """Whether a value of a ledger's line has the form of a `KeptFile` with a checksum."""
    return type(file) in _SEQUENCES and (*map(type, file),) == _TYPES


class Layout(Protocol):
    """The files of a store.

    What it may rely on: `create` comes first. Then one thread asks `kept`, `intact`, `ids_of_files`
    and `has_files`, and may call `discard` and `sweep`. Then `store.num_writers` threads call
    `put`, `take` and `discard` at once: **these must be safe to call from several threads**. No two
    calls at once are about the same id. After the last of them, one thread calls `close`. `read`
    may be called at any time, from any thread or process. Several processes may have the store
    open, each with ids of its own.

    What it promises: a file has its final name only when it is whole, and is never changed under
    that name, only replaced: it may have a second name in another store, and readers. An utterance
    that is kept again replaces the one before: nobody reads it twice. What was kept stays where
    its line says until it is discarded or put again.

    Memory: between `put` and the `Kept` of an utterance, `Writers` hold its line, about a kilobyte.
    How many such lines there are is the layout's choice, and so is what it holds itself.
    """

    suffixes: tuple[str, ...]
    """What it adds to an id to name files. Two ids that give the same file name are a clash."""

    folders: tuple[str, ...]
    """The folders below the store that it writes in: no recordings are looked for there. "" is the
    store's own folder, in which recordings may be; a file there with a suffix of its is none."""

    takes_layers: bool = False
    """Whether `put` takes features of several layers. Else a run that asks for several is refused
    before any work: a reader of files that hold one would take the first."""

    dtypes: tuple[str, ...] = ("float32", "float16", "bfloat16")
    """The dtypes that its files can hold, float32 among them: `put` is given no other."""

    keeps_audio: bool = True
    """Whether it saves training audio. Else a run that asks for it is refused before any work."""

    takes_subfolders: bool = False
    """Whether `store.subfolders` may put its files into sub-folders by a hash of the id, since its
    readers find them in any folder below. Else that option is refused before any work."""

    lies_beside: bool = False
    """Whether its store may be a folder of recordings: a source reads those beside its files. Then
    `folders` and `suffixes` are pairs. Else a source leaves out all that is in a store."""

    settings: Mapping[str, Any] = {}
    """What else the store's identity says: options of the layout, by their names, whose other
    value would be another place or content of files."""
    takes_url: bool = False
    """Whether its store may be at a URL: its files are then sent as objects, each once."""
    holds_many: bool = False
    """Whether its files are archives of several utterances. Then `settle` and `finish` are called,
    and at the start of a run nothing is discarded singly."""
    links: bool = False
    """Whether `take` makes another name of a file where it can. Else it copies features."""
    adds: bool = False
    """Whether another list or folder adds to a store: it is then no part of the store's identity,
    and the second recording of one name fails alone, as `duplicate_name`. Else another list is
    refused, and so is a list with two recordings of one name."""

    maps_frames: bool = False
    """Whether frame after frame lies in a file: then `map` reads only those that are used."""

    replaces_foreign: bool = False
    """Whether another program's files give way to recordings of the run that have their names. Else
    a run that would replace one is refused without `overwrite=true`."""

    def create(self) -> None:
        """Makes the folders.

        Raises:
            StoreUnusable: they cannot be made or written to.
            ValueError: one of them is a symbolic link.
        """

    def put(self, item: Encoded) -> Iterable[Kept]:
        """Takes one utterance; returns all that became whole on the disk, of other threads too.

        Its features have the dtype to save. Its training audio is empty where none is wanted.

        Mostly it is the one taken. A layout of archives returns nothing until an archive is full,
        and then all that are in it. Each utterance is returned once, by `put` or by `close`.

        Raises:
            WriteFailed: this utterance cannot be written, and is not held either; others can.
            StoreUnusable: no utterance can be written; the next run does those held again.
        """

    def take(self, item: Reused) -> Iterable[Kept]:
        """Takes one utterance with the features that another store holds; returns what `put` does.

        Called in a sweep, where a job's features are those of another one. The default copies them.
        Files of an utterance's own can be linked instead.

        Raises:
            NotReusable: they are gone or damaged there; nothing was written.
            WriteFailed, StoreUnusable: as `put`.
        """
        return self.put(item.copied())

    def close(self, *, abandon: bool = False) -> Iterable[Kept]:
        """Keeps what is held, and returns it. May be called again.

        Args:
            abandon: drop what is held, leave no unfinished file, return nothing, raise nothing.

        Raises:
            StoreUnusable: it cannot be written.
        """

    def discard(self, id: str) -> None:  # noqa: A002 - the ledger's own word
        """Removes an utterance's files, if they exist; nothing outside the store's own folders.

        Raises:
            StoreUnusable: it cannot be removed.
        """

    def discard_all(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Removes the files of many saved utterances, whose lines are dropped next.

        Called at the start of a run, while no other process works in the store. Archives may leave
        it to `settle`, which follows.

        Raises:
            StoreUnusable: as `discard`.
        """
        for record in records:
            self.discard(record["id"])

    def settle(self, mine: Records, others: Records, *, alone: bool) -> Iterator[Moved]:
        """Brings archives into agreement with the ledgers: what no line names leaves them.

        Called at the start of a run, and again once lines of this process's ledger were dropped, by
        one process at a time. So a thousand dropped utterances cost each archive one rewrite.

        Args:
            mine: the lines that may follow an utterance that moves.
            others: those of ledgers on which other processes are at work. What they name stays at
                its offset.
            alone: whether no other process works in the store; `others` has none then.

        Yields:
            Where utterances are now, each time that some moved. Once resumed, all of `mine` have
            followed.

        Raises:
            OSError: an archive cannot be read or written.
        """
        return iter(())

    def finish(self, records: Records) -> None:
        """Writes what lists the utterances of the store, whole; called by one process at a time.

        Called after the last line of a run that was not abandoned.

        Args:
            records: the lines of all ledgers.

        Raises:
            OSError: it cannot be written.
        """
        return

    def kept(self, record: Mapping[str, Any]) -> Kept | None:
        """The files that a line of the ledger names; None if this layout cannot have written it.

        Where a file's name follows from the id, a line that names another is damaged.
        """
        return Kept.of(record)

    def intact(self, kept: Kept, *, checksum: bool) -> bool:
        """Whether an utterance's files exist with the lengths that the ledger holds.

        Args:
            kept: what its line says.
            checksum: also read them and compare their checksums.

        Raises:
            OSError, ValueError: they cannot be examined, which counts as not intact.
        """

    def read(self, kept: Kept) -> Tensor:
        """The features as `put` had them: (layers, num_frames, hidden_size), in the dtype saved.

        Raises:
            OSError: the file is not there.
            ValueError: it is damaged; names it.
        """

    def map(self, kept: Kept) -> Tensor:
        """What `read` returns, memory-mapped and copied on write, where the files allow that.

        Raises:
            OSError, ValueError: as `read`.
        """
        return self.read(kept)

    def read_audio(self, kept: Kept) -> Tensor | None:
        """The training audio, (num_samples,) int16 at 32 kHz; None where none was kept.

        Raises:
            OSError, ValueError: as `read`.
        """
        return None

    def as_read(self, item: Encoded) -> Tensor:
        """What `read` will return of what `put` is given, whose features have the dtype to save."""
        return item.features.values

    def ids_of_files(self) -> Iterator[str]:
        """The ids of all files in its folders, of any program; an id may come twice."""

    def has_files(self, id: str) -> bool:  # noqa: A002
        """Whether anything exists at a path of an utterance's files."""

    def sweep(self) -> int:
        """Removes unfinished files that killed runs left; returns how many."""

    def bytes_per_second(self, width: int, itemsize: int, frame_rate: float) -> float:
        """Bytes that a second of audio takes in the store.

        Args:
            width: numbers of a frame, in all layers.
            itemsize: bytes of one of their numbers, as it is saved.
            frame_rate: frames per second.
        """


def endings_beside(layout: Layout) -> tuple[str, ...]:
    """The endings of the files that a layout keeps in the store's own folder."""
    pairs = zip(layout.folders, layout.suffixes, strict=False)
    return tuple(suffix for folder, suffix in pairs if not folder)
