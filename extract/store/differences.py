"""How the identities of a store and of a run differ, in words for the user."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from itertools import islice
from typing import Any

from extract.manifest.paths import same_place
from extract.store.metadata import GATES, LATER_SETTINGS, QUANTIZER, SOURCE, Identity
from extract.text import printable

WAYS_OUT = (
    "Ways out: another store.dir=DIR, the store's own settings, or overwrite=true "
    "to replace what is there."
)

WIDTH = 24  # characters of a value that a message shows
MAX_ROWS = 20  # of a message; a store's metadata may hold anything


@dataclass(frozen=True)
class Comparison:
    """How a store's identity differs from a run's."""

    differing: dict[str, tuple[Any, Any]]  # key -> (in the store, in this run)

    @property
    def only_gates(self) -> bool:
        """Whether the same recordings would give the same numbers, but not all the same pass."""
        return bool(self.differing) and set(self.differing) <= {f"audio.{gate}" for gate in GATES}

    @property
    def only_units(self) -> bool:
        """Whether the features would be the same, and only their units others."""
        return set(self.differing) == {QUANTIZER}

    def message(self, where: str) -> str:
        """A table of the settings that differ, in the store and in this run, and the ways out.

        `where` is the store, as `Store.shown` says it.
        """
        rows = [("", "in the store", "this run")]
        for key, (theirs, ours) in islice(self.differing.items(), MAX_ROWS):
            rows.append((_cut(printable(key)), *shown_apart(theirs, ours)))
        if len(self.differing) > MAX_ROWS:
            rows.append((f"and {len(self.differing) - MAX_ROWS} more", "", ""))
        width = max(len(key) for key, _theirs, _ours in rows)
        table = [f"  {key:<{width}}  {one:>{WIDTH}}  {two:>{WIDTH}}" for key, one, two in rows]
        head = f"{where}: made with other settings; one store holds one kind of features"
        return "\n".join([head, *table, WAYS_OUT])


def compare(store: Identity | None, run: Identity) -> Comparison:
    """Keys whose values differ; none where the store is new.

    A store to which another list adds may name its first one: earlier versions wrote that. Only one
    side's quantizer is no difference: units are made of saved features later, and a run without one
    leaves those that are there.
    """
    if store is None:
        return Comparison({})
    if None in (store.get(QUANTIZER), run.get(QUANTIZER)):
        store = {key: value for key, value in store.items() if key != QUANTIZER}
        run = {key: value for key, value in run.items() if key != QUANTIZER}
    if SOURCE not in run:
        store = {key: value for key, value in store.items() if key != SOURCE}
    elif same_place(store.get(SOURCE), run[SOURCE]):
        store = {**store, SOURCE: run[SOURCE]}
    store, run = {**LATER_SETTINGS, **store}, {**LATER_SETTINGS, **run}
    keys = [*run, *(key for key in store if key not in run)]
    return Comparison(
        {key: (store.get(key), run.get(key)) for key in keys if store.get(key) != run.get(key)}
    )


def shown_apart(theirs: Any, ours: Any) -> tuple[str, str]:
    """Two values that differ, printable, at most `WIDTH` characters each, and never alike.

    Long ones are shown from where they differ: two paths may share their beginning.
    """
    texts = printable(str(theirs)), printable(str(ours))
    if texts[0] == texts[1]:  # 1 and "1", null and "None"
        texts = printable(repr(theirs)), printable(repr(ours))
    if _look(texts[0]) == _look(texts[1]):  # an accent as one character, or as two
        texts = ascii(theirs), ascii(ours)
    pairs = enumerate(zip(*texts, strict=False))
    same = next((at for at, (one, two) in pairs if one != two), min(map(len, texts)))
    return _cut(texts[0], same), _cut(texts[1], same)


def _look(text: str) -> str:
    """`text` with an accented letter as one character, since both forms look alike."""
    return unicodedata.normalize("NFKC", text)


def _cut(text: str, start: int = 0) -> str:
    """`text` in at most `WIDTH` characters, with the one at `start` among them."""
    if len(text) <= WIDTH:
        return text
    if start < WIDTH - 3:
        return f"{text[: WIDTH - 3]}..."
    tail = text[start - 6 :]
    return f"...{tail}" if len(tail) <= WIDTH - 3 else f"...{tail[: WIDTH - 6]}..."
