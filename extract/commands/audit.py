"""`python -m extract audit STORE`: whether a store is what its ledgers say."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from extract import exits
from extract.audit.findings import KINDS, Kind
from extract.text import count, shown
from extract.urls import is_url, redacted

if TYPE_CHECKING:
    from extract.audit.findings import Findings

MAX_CELL = 200  # characters of an example
SAID_EACH = 100_000  # lines

DESCRIPTION = """\
Audits a store: every utterance has one line, with a reason of the closed list; every saved one has
its files, whole, readable, of the right shape, dtype and length, and finite; no file is there that
no line names. Reads all files of the store, unless --sample is given, and changes nothing, unless
--fix is given. Audit a store while no run works in it."""


def main(argv: Sequence[str]) -> int:
    """Prints what is wrong with a store.

    Returns:
        0: nothing; 1: something, or a ledger cannot be read; 2: the folder is no store, or
        something cannot be fixed; 130: Ctrl-C.
    """
    options = _parser().parse_args(argv)
    from extract.audit.audit import audit  # NumPy, for which `--help` does not wait
    from extract.audit.ledgers import ledgers
    from extract.store.at_url import folder_with_all  # copies; the audit reads the folder

    try:
        if options.fix and is_url(options.store):
            said = "--fix changes a folder of this machine alone"
            return _refused(f"{redacted(options.store)}: {said}")
        directory = folder_with_all(options.store)
        where = redacted(options.store) if is_url(options.store) else str(directory)
        if not directory.is_dir() or not ledgers(directory):
            return _refused(f"{where}: no ledger here; needed the folder of a run")
        listed = None if options.list is None else Path(options.list).expanduser()
        findings = audit(directory, listed, options.sample, _progress())
        ignored = set(options.ignore)
        _write(findings, where, ignored, as_json=options.json)
        if options.fix and findings.without(ignored):
            return _fix(directory, findings)
        return exits.SOME_FAILED.code if findings.without(ignored) else exits.DONE.code
    except ValueError as error:
        return _refused(str(error))
    except OSError as error:
        sys.stderr.write(f"extract audit: {shown(str(error), MAX_CELL)}\n")
        return exits.UNREADABLE.code
    except KeyboardInterrupt:
        return exits.INTERRUPTED.code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("extract audit", description=DESCRIPTION)
    parser.add_argument("store", metavar="STORE", help="the folder of ledger.jsonl, or its URL")
    parser.add_argument(
        "--list", metavar="FILE", help="ids, one a line, that must have one; else what runs noted"
    )
    parser.add_argument(
        "--sample", type=_share, default=1.0, metavar="SHARE", help="read only so many: 0.01"
    )
    parser.add_argument(
        "--ignore",
        action="append",
        default=[],
        choices=get_args(Kind),
        metavar="KIND",
        help="what is no breach here: `stray` in a folder that other programs write to",
    )
    parser.add_argument(
        "--fix", action="store_true", help="forget broken utterances: the next run does them again"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    return parser


def _share(text: str) -> float:
    share = float(text)
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text}; needed 0 to 1")
    return share


def _refused(said: str) -> int:
    sys.stderr.write(f"extract audit: {shown(said, 2 * MAX_CELL)}\n")
    return exits.USAGE.code


def _progress() -> Callable[[int], None]:
    """Says every hundred thousand lines how far it is."""
    num = 0

    def progress(more: int) -> None:
        nonlocal num
        before, num = num, num + more
        if before // SAID_EACH < num // SAID_EACH:
            sys.stderr.write(f"{num:,} lines\n")

    return progress


def _write(findings: Findings, where: str, ignored: set[Kind], *, as_json: bool) -> None:
    if as_json:
        said = {
            "store": where,
            "lines": findings.num_lines,
            "saved": findings.num_saved,
            "read": findings.num_read,
            "not_audited": findings.not_audited or None,
            "has_list": findings.has_list,
            "breaches": dict(findings.counts),
            "examples": findings.examples,
            "ignored": sorted(ignored),
        }
        sys.stdout.write(json.dumps(said, ensure_ascii=False) + "\n")
        return
    sys.stdout.write("".join(f"{line}\n" for line in _lines(findings, ignored)))


def _lines(findings: Findings, ignored: set[Kind]) -> list[str]:
    saved = f"{findings.num_saved:,} saved, files of {findings.num_read:,} read"
    lines = [f"{count(findings.num_lines, 'line')}, {saved}"]
    if findings.not_audited:
        lines.append(f"files were not audited: {findings.not_audited}")
    if not findings.has_list:
        lines.append("no run has noted its list here: --list FILE finds what has no line")
    for kind, number in sorted(findings.counts.items()):
        ending = " (ignored)" if kind in ignored else ""
        lines.append(f"{kind}: {number:,}{ending}: {KINDS[kind]}")
        lines += (f"  {shown(example, MAX_CELL)}" for example in findings.examples[kind])
        if number > len(findings.examples[kind]):
            lines.append(f"  and {number - len(findings.examples[kind]):,} more")
    if not findings.without(ignored):
        lines.append("nothing is wrong")
    return lines


def _fix(directory: Path, findings: Findings) -> int:
    """Forgets what is broken; returns the exit code."""
    from extract.store.forgetting import forget  # the store's own code: the audit is over
    from extract.write_errors import StoreUnusable

    try:
        removed = forget(directory, findings.broken)
    except StoreUnusable as error:
        sys.stderr.write(f"extract audit: {shown(str(error), MAX_CELL)}\n")
        return exits.STORE_UNUSABLE.code
    sys.stdout.write(
        f"fixed: {count(removed, 'line')} removed; the next run does those utterances again. "
        "Stray files stay, and unfinished ones go when a run begins\n"
    )
    return exits.SOME_FAILED.code
