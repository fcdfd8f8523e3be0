"""`sweep.html`: what the template shows of a sweep."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from extract import __version__
from extract.manifest.folders import SWEEP_CSV, SWEEP_TITLE
from extract.report import pages
from extract.report.pages import name_of, table_of
from extract.report.sweep.counts import NUM_HELD
from extract.report.sweep.heard import NUM_JOBS, Heard, heard
from extract.report.sweep.multiples import heads, label_of, multiples, rows
from extract.report.sweep.numbers import Sweep

MAX_ROWS = 1000  # jobs in the table; `sweep.csv` has all
MAX_NOTES = 100

SECTIONS = (("jobs", "Jobs"), ("settings", "Over the settings"), ("listen", "Listen"))


def page_of(sweep: Sweep, folder: Path) -> bytes:
    """The page of a sweep whose stores are in `folder`."""
    return b"".join(pages.rendered("sweep.html", values(sweep, folder)))


def values(sweep: Sweep, folder: Path) -> Mapping[str, Any]:
    """What the template is given."""
    charts, same = multiples(sweep)
    utterances = list(heard(sweep))
    caption = f"Jobs: {len(sweep.jobs):,}"
    if len(sweep.jobs) > MAX_ROWS:
        caption = f"The first {MAX_ROWS:,} of {len(sweep.jobs):,} jobs; {SWEEP_CSV} has all"
    return {
        "title": f"{SWEEP_TITLE}{name_of(folder.resolve().name)}",
        "sections": SECTIONS,
        "table": table_of(caption, list(heads(sweep)), islice(rows(sweep), MAX_ROWS)),
        "notes": list(_notes(sweep)),
        "about_sample": _about_sample(sweep),
        "about_drift": _about_drift(sweep),
        "csv": SWEEP_CSV,
        "charts": charts,
        "same": same,
        "utterances": utterances,
        "about_sounds": _about_sounds(sweep, utterances),
        "made_of": f"Of the stores in {name_of(folder.resolve())}, by extract {__version__} on "
        f"Python {platform.python_version()}.",
    }


def _notes(sweep: Sweep) -> Iterator[tuple[str, str]]:
    """A job by name, and what a reader of its row has to know."""
    noted = [job for job in sweep.jobs if job.numbers.notes]
    for job in noted[:MAX_NOTES]:
        yield job.name, name_of(job.numbers.notes)
    if len(noted) > MAX_NOTES:
        yield f"{len(noted) - MAX_NOTES:,} more", f"in {SWEEP_CSV}"


def _about_sample(sweep: Sweep) -> str:
    if not sweep.sample:
        return "No utterance is saved in all stores: loudness, RMS and drift were not measured."
    if sweep.num_common == len(sweep.sample):
        which = f"the {len(sweep.sample):,} that all jobs have saved"
    else:
        more = " or more" if sweep.num_common >= NUM_HELD else ""
        which = (
            f"{len(sweep.sample):,} of the {sweep.num_common:,}{more} that all jobs have saved, "
            "drawn at random: the same ones in every store"
        )
    return (
        "Clipped samples and peaks are of all saved utterances. Loudness, RMS and drift are of "
        f"{which}."
    )


def _about_drift(sweep: Sweep) -> str:
    job = sweep.jobs[sweep.reference]
    why = "the defaults" if sweep.at_defaults else "the first job: none has the defaults"
    return (
        f"Feature drift is against job {sweep.reference + 1}: {label_of(job) or job.name}, {why}."
    )


def _about_sounds(sweep: Sweep, utterances: list[Heard]) -> str:
    """How many utterances and jobs are played of how many."""
    if not utterances:
        why = next((job.member.no_audio for job in sweep.jobs if job.member.no_audio), "")
        return f"No sounds: {why or 'no training audio could be read'}."
    jobs = sum(1 for job in sweep.jobs if not job.member.no_audio and job.member.store is not None)
    said = f"{len(utterances)} of the {len(sweep.sample):,} measured utterances"
    if jobs > NUM_JOBS:
        said += f", of the first {NUM_JOBS} of {jobs:,} jobs that keep training audio"
    cut = next((one.cut_s for one in utterances if one.cut_s is not None), None)
    return said + (f". Of longer ones the first {cut:.3g} s." if cut else ", whole.")
