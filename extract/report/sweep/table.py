"""`sweep.csv`: one row a job, for spreadsheets and data frames."""

from __future__ import annotations

import csv
import io
from dataclasses import astuple, fields

from extract.manifest.folders import SWEEP_CSV, SWEEP_MARKS
from extract.report.sweep.numbers import Numbers, Sweep
from extract.store.export import BOM, cell


def csv_of(sweep: Sweep) -> bytes:
    """The file's bytes: UTF-8 with its mark, CRLF (RFC 4180), heads first; an empty cell is None.

    Columns: the job's number from 1, its store, the settings that differ, then `Numbers`.
    """
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    buffer.write(BOM)
    heads = ["job", "store", *sweep.keys, *(field.name for field in fields(Numbers))]
    writer.writerow(map(cell, heads))
    for number, job in enumerate(sweep.jobs, 1):
        values = (number, job.name, *job.settings.values(), *astuple(job.numbers))
        writer.writerow(map(cell, values))
    data = buffer.getvalue().encode()
    assert data.startswith(SWEEP_MARKS[SWEEP_CSV])  # by which it is known as this program's
    return data
