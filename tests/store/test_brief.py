"""A line in brief says what the whole line says, and a line of another form is none."""

from dataclasses import replace

import pytest

from extract.store import ledger
from extract.store.brief import brief
from extract.store.ledger import Record
from extract.values import REJECTED, SAVED

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
