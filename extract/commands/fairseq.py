"""`python -m extract fairseq STORE TSV DIR`: a store's features as fairseq's k-means reads them.

Writes what `examples/hubert/simple_kmeans/dump_hubert_feature.py` writes, from which its
`learn_kmeans.py` and `dump_km_label.py` go on:

    DIR/SPLIT_RANK_NSHARD.npy  (frames, dimensions) float32: all frames of the shard's utterances
    DIR/SPLIT_RANK_NSHARD.len  the number of frames of each, one a line, in the order of the tsv

SPLIT is the tsv's name. A line of the tsv whose utterance has no features has 0 frames, so that the
lines of all these files, and of the `.km` made of them, stay those of the tsv.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract import choices, exits
from extract.files import replace_whole
from extract.manifest.source import Output
from extract.store.ledger import read
from extract.text import count, printable
from extract.values import SAVED, Failure

LAYOUT = "npy"  # the layout whose files are read


@dataclass(frozen=True)
class _Line:
    """What a line of the tsv has in the store."""

    path: Path | None  # of its features; None: there are none
    num_frames: int


def main(argv: Sequence[str]) -> int:
    """Writes the shards; prints one line for each, and one for the lines without features.

    Returns:
        0: every line of the tsv has features; 1: some have none, or a file cannot be written;
        2: no such store or list, a damaged file of features, or too many shards; 130: Ctrl-C.
    """
    options = _parser().parse_args(argv)
    try:
        lines = _lines(Path(options.store), options.tsv)
        name = Path(options.dir) / Path(options.tsv).stem
        for rank, shard in enumerate(_shards(lines, options.nshard)):
            _write(shard, f"{name}_{rank}_{options.nshard}")
    except (ValueError, OSError) as error:
        sys.stderr.write(f"extract fairseq: {printable(str(error))}\n")
        return exits.UNREADABLE.code if isinstance(error, OSError) else exits.USAGE.code
    except KeyboardInterrupt:
        return exits.INTERRUPTED.code
    missing = sum(line.path is None for line in lines)
    if missing:
        sys.stderr.write(
            f"{count(missing, 'line')} of {printable(options.tsv)} without features, 0 frames "
            f"each; python -m extract show {printable(options.store)} says why\n"
        )
    return exits.SOME_FAILED.code if missing else exits.DONE.code


def _parser() -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("extract fairseq", description=__doc__, formatter_class=form)
    parser.add_argument("store", metavar="STORE", help="the folder of a run with store=npy")
    parser.add_argument("tsv", metavar="TSV", help="the list of that run")
    parser.add_argument("dir", metavar="DIR", help="where to write")
    parser.add_argument("--nshard", type=int, default=1, help="in how many parts (1)")
    return parser


def _lines(store: Path, tsv: str) -> list[_Line]:
    """What each line of the list has in the store, in the list's order.

    Raises:
        ValueError: no such list, no ledger in the store, or no features in it.
    """
    saved = {one["id"]: _saved(store, one) for one in read(store) if one["status"] == SAVED}
    if not saved:
        raise ValueError(f"{store}: no features; needed the folder of a run with store={LAYOUT}")
    source: Any = choices.find("sources", "tsv")
    entries = source.read(source.Options(path=tsv), Output())
    nothing = _Line(None, 0)
    return [nothing if isinstance(e, Failure) else saved.get(e.id, nothing) for e in entries]


def _saved(store: Path, record: dict[str, Any]) -> _Line:
    name, num_frames = record["files"][0][0], record["num_frames"]
    if not name.endswith(".npy"):
        raise ValueError(f"{store}: {name} is no file of the layout {LAYOUT}; needed that one")
    return _Line(store / name, num_frames)


def _shards(lines: Sequence[_Line], num: int) -> list[Sequence[_Line]]:
    """Consecutive parts of the list, as fairseq's `get_shard_range` has them.

    Raises:
        ValueError: one of them would have no features, which fairseq's readers cannot map.
    """
    edges = [round(len(lines) / num * rank) for rank in range(num + 1)] if num > 0 else []
    shards = [lines[start:end] for start, end in pairwise(edges)]
    if not shards or not all(any(line.path for line in shard) for shard in shards):
        found = f"--nshard {num}: {count(len(lines), 'line')}"
        raise ValueError(f"{found}; needed shards that each have an utterance with features")
    return shards


def _write(shard: Sequence[_Line], name: str) -> None:
    """Writes both files of a shard, the features first; each is whole or not there."""
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    replace_whole(Path(f"{name}.npy"), _npy(shard))
    replace_whole(Path(f"{name}.len"), "".join(f"{one.num_frames}\n" for one in shard).encode())
    total = sum(one.num_frames for one in shard)
    print(f"{name}.npy: {count(len(shard), 'utterance')}, {count(total, 'frame')}")  # noqa: T201


def _npy(shard: Sequence[_Line]) -> Iterator[bytes]:
    """The bytes of one array of all frames of `shard`, an utterance at a time."""
    kept = [line for line in shard if line.path is not None]
    width = _features(kept[0]).shape[1]
    header = io.BytesIO()
    shape = sum(line.num_frames for line in kept), width
    about = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, about)
    yield header.getvalue()
    for line in kept:
        features, needed = _features(line), (line.num_frames, width)
        if features.shape != needed:
            raise ValueError(f"{line.path}: shape {features.shape}; needed {needed}")
        yield features.astype("<f4", copy=False).tobytes()


def _features(line: _Line) -> NDArray[Any]:
    """(frames, dimensions) of one utterance."""
    assert line.path is not None
    try:
        found: NDArray[Any] = np.load(line.path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        said = f"{line.path}: cannot be read: {error}; the same run makes it again"
        raise ValueError(said) from error
    if found.ndim != 2:
        raise ValueError(f"{line.path}: {found.ndim} axes; needed frames and dimensions, one layer")
    return found
