"""The numbers of a sweep, against the ffmpeg program, NumPy and the ledgers."""

import json
import re
import shutil
import statistics
import tracemalloc
from pathlib import Path

import numpy as np
import pandas
import pytest

from extract.report.sweep import numbers
from extract.report.sweep.counts import Counts, common, rank
from extract.report.sweep.numbers import Sweep, measure
from extract.report.sweep.table import csv_of
from support.recordings import FFMPEG, ffmpeg_decode
from support.stores import ledger
from support.sweeps import (
    ALPHAS,
    MAXXS,
    features,
    loudness_lufs,
    sweep,
    training_audio,
)

STORES = [f"{alpha}-{maxx}" for alpha in ALPHAS for maxx in MAXXS]
DEFAULT = "0.5-0.95"


@pytest.fixture(scope="module")
def measured(level_sweep) -> Sweep:
    return measure([level_sweep / name for name in STORES], level_sweep)


@pytest.fixture(scope="module")
def table(measured, tmp_path_factory) -> pandas.DataFrame:
    path = tmp_path_factory.mktemp("table") / "sweep.csv"
    path.write_bytes(csv_of(measured))
    return pandas.read_csv(path)


def saved(store: Path) -> list[dict]:
    return [line for line in ledger(store) if line["status"] == "saved"]


def test_the_table_has_a_row_for_each_job_with_the_settings_that_differ(table, level_sweep):
    assert list(table.columns[:4]) == ["job", "store", "audio.maxx", "audio.alpha"]
    assert list(table["job"]) == list(range(1, 7))
    assert list(table["store"]) == STORES
    pairs = zip(table["audio.alpha"], table["audio.maxx"], strict=True)
    assert [f"{alpha}-{maxx}" for alpha, maxx in pairs] == STORES


def test_the_docs_name_every_column(table):
    page = (Path(__file__).parents[3] / "docs" / "sweeps.md").read_text("utf8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert named == [column for column in table.columns if not column.startswith("audio.")]


@pytest.mark.skipif(FFMPEG is None, reason="needs the ffmpeg program")
def test_counts_clipped_samples_and_peaks_are_those_of_all_saved_utterances(table, level_sweep):
    paths = {line["id"]: Path(line["path"]) for line in saved(level_sweep / DEFAULT)}
    decoded = {id_: ffmpeg_decode(path) for id_, path in paths.items()}
    for row in table.itertuples():
        lines = saved(level_sweep / row.store)
        assert (row.utterances, row.saved, row.rejected, row.failed) == (8, len(lines), 1, 1)
        seconds = sum(line["duration_s"] for line in lines)
        assert row.saved_hours == pytest.approx(seconds / 3600)
        alpha, maxx = map(float, row.store.split("-"))
        gains = [maxx * alpha / line["peak"] + 1 - alpha for line in lines]
        sounds = [decoded[line["id"]] for line in lines]
        beyond = [
            np.count_nonzero((gain * samples >= 1) | (gain * samples <= -32769 / 32768))
            for gain, samples in zip(gains, sounds, strict=True)
        ]
        assert row.clipped_samples == sum(beyond)
        assert row.utterances_with_clipped_samples == np.count_nonzero(beyond)
        at_full_scale = [
            np.isin(training_audio(level_sweep / row.store, line["id"]), (-32768, 32767))
            for line in lines
        ]
        assert row.clipped_samples <= sum(map(np.count_nonzero, at_full_scale))
        peaks = [line["peak"] * gain for line, gain in zip(lines, gains, strict=True)]
        assert row.peak_after_gain_mean_fs == pytest.approx(np.mean(peaks))
        assert row.peak_after_gain_max_fs == pytest.approx(np.max(peaks))
    assert table["clipped_samples"].max() > 0


@pytest.mark.skipif(FFMPEG is None, reason="needs the ffmpeg program")
def test_loudness_is_what_ffmpeg_says_of_the_same_utterances_in_all_stores(
    table, measured, level_sweep
):
    ids = set(measured.sample)
    for row in table.itertuples():
        store = level_sweep / row.store
        assert ids == {line["id"] for line in saved(store)}
        assert row.sampled_utterances == len(ids) == 6
        if row.job not in (1, 6):
            continue  # ffmpeg takes long to start
        lufs = [loudness_lufs(store / "5-wav32k" / id_) for id_ in ids]
        audible = [one for one in lufs if one > -70]
        assert row.loudness_mean_lufs == pytest.approx(statistics.mean(audible), abs=0.051)
        assert row.loudness_spread_lu == pytest.approx(statistics.pstdev(audible), abs=0.051)


def test_rms_is_that_of_all_samples(table, measured, level_sweep):
    for row in table.itertuples():
        sounds = [training_audio(level_sweep / row.store, id_) for id_ in measured.sample]
        samples = np.concatenate(sounds).astype(np.float64) / 32768
        decibels = 10 * np.log10(np.mean(samples**2))
        assert row.rms_dbfs == pytest.approx(decibels, abs=1e-4)


def test_drift_is_measured_against_the_job_with_the_default_settings(table, measured, level_sweep):
    assert measured.at_defaults
    assert set(table["drift_against"]) == {DEFAULT}
    for row in table.itertuples():
        differences, norm = [], 0.0
        for id_ in measured.sample:
            base = features(level_sweep / DEFAULT, id_)
            differences.append((features(level_sweep / row.store, id_) - base).ravel())
            norm += np.square(base).sum()
        difference = np.concatenate(differences)
        drift = np.sqrt(np.square(difference).sum() / norm)
        assert row.drift_relative_l2 == pytest.approx(drift, rel=1e-6, abs=1e-12)
        assert row.drift_largest == pytest.approx(np.abs(difference).max(), rel=1e-6)
        assert row.drift_utterances == 6
    assert (table["drift_relative_l2"] > 0).sum() == 5


def test_without_a_job_at_the_defaults_the_first_one_is_compared_with(level_sweep):
    found = measure(
        [level_sweep / name for name in STORES if not name.startswith("0.5")], level_sweep
    )
    assert (found.reference, found.at_defaults) == (0, False)
    assert {job.numbers.drift_against for job in found.jobs} == {"0.3-0.9"}


def test_shared_features_are_no_drift_and_said_to_be_shared(level_sweep, tmp_path):
    for name in ("0.5-0.95", "0.7-0.95", "0.7-0.9"):
        shutil.copytree(level_sweep / name, tmp_path / name)
    for name, ids in (("0.7-0.95", "all"), ("0.7-0.9", "0.wav 1.wav")):
        share(tmp_path / name, tmp_path / DEFAULT, ids)
    found = measure([tmp_path / name for name in ("0.5-0.95", "0.7-0.95", "0.7-0.9")], tmp_path)
    _base, whole, part = (job.numbers for job in found.jobs)
    assert (whole.drift_relative_l2, whole.drift_largest) == (0, 0)
    assert whole.utterances_with_shared_features == 6
    assert whole.notes == "its features are shared with those compared with"
    assert part.drift_relative_l2 > 0
    assert part.notes == "features of 2 of 6 compared utterances are shared"


def test_features_that_a_sweep_has_shared_are_said_to_be(level_sweep, tmp_path):
    where = f"store.dir={tmp_path}/${{audio.alpha}}"
    recordings = level_sweep.parent / "in"
    assert sweep(recordings, where, "audio.alpha=0.5,0.7", "share_features=true") == 1
    _first, second = (
        job.numbers for job in measure([tmp_path / "0.5", tmp_path / "0.7"], tmp_path).jobs
    )
    shared = sum("shared" in line for line in ledger(tmp_path / "0.7"))
    assert second.utterances_with_shared_features == shared > 0


def share(store: Path, origin: Path, ids: str) -> None:
    """Puts another store's features into a store, as a sweep that shares does."""
    lines = ledger(store)
    for line in lines:
        if line["status"] == "saved" and (ids == "all" or line["id"] in ids.split()):
            name = f"4-cnhubert/{line['id']}.pt"
            shutil.copy(origin / name, store / name)
            line["shared"] = origin.name
    (store / "ledger.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_features_of_other_layers_are_not_compared(level_sweep, tmp_path):
    recordings = level_sweep.parent / "in"
    where = f"store.dir={tmp_path}/${{model.layer}}"
    assert sweep(recordings, where, "model.layer=1,2") == 1
    first, second = measure([tmp_path / "1", tmp_path / "2"], tmp_path).jobs
    assert first.settings == {"model.layer": 1}
    assert (second.numbers.drift_relative_l2, second.numbers.drift_utterances) == (None, 0)
    assert second.numbers.notes == "drift is not comparable: another model.layer"


def test_a_layout_without_audio_has_empty_columns_and_says_why(level_sweep, tmp_path):
    where = f"store.dir={tmp_path}/${{audio.alpha}}"
    recordings = level_sweep.parent / "in"
    assert sweep(recordings, where, "audio.alpha=0.3,0.7", "store=npy") == 1
    found = measure([tmp_path / "0.3", tmp_path / "0.7"], tmp_path)
    (tmp_path / "sweep.csv").write_bytes(csv_of(found))
    table = pandas.read_csv(tmp_path / "sweep.csv")
    empty = ["clipped_samples", "loudness_mean_lufs", "loudness_spread_lu", "rms_dbfs"]
    assert table[empty].isna().all(axis=None)
    assert table["notes"].str.contains("no loudness and no RMS: store.audio=none").all()
    assert (table["drift_relative_l2"][1:] > 0).all()


def test_training_audio_in_tar_files_has_the_same_numbers(level_sweep, tmp_path, measured):
    where = f"store.dir={tmp_path}/${{audio.alpha}}"
    recordings = level_sweep.parent / "in"
    assert sweep(recordings, where, "audio.alpha=0.3,0.7", "store=webdataset") == 1
    for job in measure([tmp_path / "0.3", tmp_path / "0.7"], tmp_path).jobs:
        [same] = (one for one in measured.jobs if one.name == f"{job.name}-0.95")
        for key in ("loudness_mean_lufs", "loudness_spread_lu", "rms_dbfs", "clipped_samples"):
            assert getattr(job.numbers, key) == getattr(same.numbers, key)


def test_a_job_that_was_killed_early_leaves_the_others_their_sample(level_sweep, tmp_path):
    names = ("0.3-0.95", DEFAULT, "0.7-0.95")
    for name in names:
        shutil.copytree(level_sweep / name, tmp_path / name)
    lines = (tmp_path / "0.7-0.95" / "ledger.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["status"] == "saved"][:2]
    (tmp_path / "0.7-0.95" / "ledger.jsonl").write_text("".join(kept) + lines[-1][:40])
    one, _base, killed = (
        job.numbers for job in measure([tmp_path / name for name in names], tmp_path).jobs
    )
    assert (one.sampled_utterances, killed.sampled_utterances) == (6, 2)
    assert (killed.utterances, killed.saved, killed.drift_utterances) == (2, 2, 2)
    assert "loudness and RMS are of 2 of 6 sampled utterances alone" in killed.notes


def test_a_store_without_metadata_has_its_ledgers_numbers(level_sweep, tmp_path):
    for name in ("0.3-0.95", DEFAULT):
        shutil.copytree(level_sweep / name, tmp_path / name)
    (tmp_path / "0.3-0.95" / "metadata.json").unlink()
    old = measure([tmp_path / "0.3-0.95", tmp_path / DEFAULT], tmp_path).jobs[0].numbers
    assert old.saved == 6
    assert old.notes.startswith("no metadata.json: its settings are not known")


def record(number: int, **more) -> dict:
    return {"id": f"speaker/{number:06}.wav", "status": "saved", "peak": 0.5} | more


def test_every_store_gives_the_same_random_sample_whatever_the_order_of_its_lines():
    lines = [record(number) for number in range(3000)]
    one = Counts(None).add_all(lines)
    other = Counts(None).add_all(lines[::-1][:2900])
    ids = common([one, other])
    assert len(ids) > 400
    assert ids == sorted(ids, key=rank)
    wanted = sorted((line["id"] for line in lines[100:]), key=rank)
    assert ids == wanted[: len(ids)]
    drawn = [int(id_[8:14]) for id_ in ids]
    assert np.corrcoef(drawn, range(len(drawn)))[0, 1] == pytest.approx(0, abs=0.2)


def test_what_is_held_of_a_ledger_does_not_grow_with_it():
    def peak(num: int) -> int:
        lines = (record(number, units=f"{number} " * 2000) for number in range(num))
        tracemalloc.start()
        counted = Counts(lambda peak: peak).add_all(lines)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert counted.statuses.total() == num
        return size

    peak(100)
    assert peak(6000) < 1_000_000  # of about 50 MB; the held lines alone had 2 MB with their units


def test_of_long_recordings_fewer_are_measured():
    lines = {record(number)["id"]: record(number, duration_s=300) for number in range(50)}
    assert len(list(numbers._sample(list(lines), [lines], 3))) == 4
    assert len(list(numbers._sample(list(lines), [lines], 100))) == numbers.MIN_SAMPLED
    short = {id_: {**line, "duration_s": 2} for id_, line in lines.items()}
    assert len(list(numbers._sample(list(short), [short], 9))) == numbers.NUM_SAMPLED
