"""A line in brief says what the whole line says, and a line of another form is none."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from extract.manifest.manifest import Manifest
from extract.store import ledger, resume
from extract.store.brief import brief
from extract.store.layouts.gpt_sovits import names
from extract.store.ledger import Record
from extract.store.resume import ResumePolicy, remaining
from extract.store.store import Store
from extract.values import REJECTED, SAVED, Entry

RECORD = Record(
    "höhe/a b.wav",
    "/there/höhe/a b.wav",
    SAVED,
    peak=0.25,
    duration_s=1.5e-05,
    num_frames=62,
    dtype="float16",
    retried_fp32=False,
    clipped_samples=0,
    source_size=12844,
    source_mtime_ns=1795689007442919015,
    files=(("4-cnhubert/höhe/a b.wav.pt", 0, 1000, 12), ("5-wav32k/höhe/a b.wav", 0, 0, 0)),
)
ALIKE = [
    RECORD,
    replace(RECORD, files=RECORD.files[:1]),
    replace(RECORD, clipped_samples=None, dtype="float32", retried_fp32=True, peak=0, duration_s=7),
]
OTHERS = [
    replace(RECORD, id='a "b".wav'),
    replace(RECORD, path="back\\slash"),
    replace(RECORD, units="1 2", units_crc32=3),
    replace(RECORD, extra='{"text":"a"}'),
    replace(RECORD, shared="0"),
    replace(RECORD, files=None),
    replace(RECORD, source_size=-1, source_mtime_ns=-1),
    Record("a", "/a", REJECTED, "too_long", "too long", source_size=1, source_mtime_ns=1),
]


def is_said(line: bytes) -> bool:
    """Whether a line has a brief form; it then says what the whole record says."""
    found, whole = brief(line), ledger.parse(line, known={RECORD.id})
    if found is None:
        return False
    if ledger.check_id(found["id"]):
        assert whole is None
        return True
    assert whole is not None
    found["files"] = [list(file) for file in found["files"]]
    assert found == {key: whole[key] for key in found}
    assert whole["reason"] is None
    assert not {"shared", "units", "extra", "source"} & whole.keys()
    return True


@pytest.mark.parametrize("record", ALIKE)
def test_a_saved_utterances_line_has_a_brief_form(record):
    assert is_said(record.line())


@pytest.mark.parametrize("record", OTHERS)
def test_a_line_of_another_form_is_for_the_parser(record):
    assert not is_said(record.line())


def test_no_byte_that_is_changed_lost_or_added_makes_a_brief_form_of_what_is_no_record():
    line = RECORD.line()
    num_said = 0
    for at in range(len(line)):
        for byte in b'0-}"\\,:[ e.\n\x00\x1f\xff':
            one = bytes([byte])
            for changed in (line[:at] + one + line[at + 1 :], line[:at] + one + line[at:]):
                num_said += is_said(changed)
        num_said += is_said(line[:at] + line[at + 1 :])
        assert not is_said(line[:at])
    assert num_said > 100  # a letter of a name, a digit of a number


def saved(folder: Path, number: int) -> Record:
    """The line of a recording, which is made, and so is its file in the store."""
    path, name = folder / "in" / f"{number}.wav", names(f"{number}.wav")[0]
    path.write_bytes(bytes(number + 1))
    (folder / name).write_bytes(bytes(10))
    os.utime(path, ns=(number, number))
    files = ((name, 0, 10, 7),)
    stamp = {"source_size": number + 1, "source_mtime_ns": number}
    return replace(RECORD, id=path.name, path=str(path), **stamp, files=files, clipped_samples=3)


def without(path: Path, one: Record) -> Record:
    path.unlink()
    return one


def file_of(one: Record, name: str = "", size: int = 10) -> Record:
    return replace(one, files=((name or one.files[0][0], 0, size, 7),))


CHANGES = {  # of a saved utterance, to the lines that a ledger then has
    "as before": lambda _store, one: [one],
    "another time": lambda _store, one: [replace(one, source_mtime_ns=99)],
    "a recording that is gone": lambda _store, one: [without(Path(one.path), one)],
    "a file that is gone": lambda store, one: [without(store / one.files[0][0], one)],
    "a file of another size": lambda _store, one: [file_of(one, size=9)],
    "a file of another id": lambda _store, one: [file_of(one, "4-cnhubert/0.wav.pt")],
    "another recording": lambda _store, one: [replace(one, path=f"{one.path}x")],
    "an id that is not listed": lambda _store, one: [replace(one, id="unlisted.wav")],
    "two lines": lambda _store, one: [one, replace(one, clipped_samples=0)],
    "two lines, the second true": lambda _store, one: [replace(one, source_size=0), one],
    "rejected": lambda _store, one: [replace(one, status=REJECTED, reason="silent", files=None)],
}
KEPT = ["as before", "a recording that is gone", *[*CHANGES][-3:]]


def test_a_line_in_brief_is_judged_as_the_whole_line(tmp_path, monkeypatch):
    def judged() -> tuple[object, ...]:
        path.write_bytes(b"".join(one.line() for one in lines))
        kept: list[str] = []
        policy = ResumePolicy()
        rest = remaining(manifest, store, path, policy, lambda one: kept.append(one["id"]))
        arrays = (rest.todo.tolist(), rest.unseen.tolist(), rest.shared.tolist())
        numbers = (rest.kept, rest.kept_s, rest.kept_clipped, rest.renamed, rest.lent)
        return arrays, numbers, kept, path.read_bytes()

    store, path = Store(tmp_path), tmp_path / "ledger.jsonl"
    store.create()
    (tmp_path / "in").mkdir()
    good = [saved(tmp_path, number) for number in range(len(CHANGES))]
    manifest = Manifest.from_entries([Entry(one.id, one.path) for one in good])
    changes = zip(CHANGES.values(), good, strict=True)
    lines = [line for change, one in changes for line in change(tmp_path, one)]
    in_brief = judged()
    todo = in_brief[0][0]
    assert [name for name, again in zip(CHANGES, todo, strict=True) if not again] == KEPT
    monkeypatch.setattr(resume, "brief", lambda line: None)
    assert judged() == in_brief
