"""The page of a sweep without a browser: what it shows, its size, and that a run ends in it."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from extract.report import child
from extract.report import run as report
from extract.report.sweep import heard, page
from extract.report.sweep.multiples import multiples
from extract.report.sweep.numbers import measure
from extract.report.sweep.write import write
from extract.store import opened
from support.pages import page as parsed
from support.recordings import write_wav
from support.sweeps import HOSTILE, sweep

STORES = [f"{alpha}-{maxx}" for alpha in (0.3, 0.5, 0.7) for maxx in (0.9, 0.95)]


@pytest.fixture(scope="module")
def shown(level_sweep, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    return parsed(write([level_sweep / name for name in STORES], folder))


def test_the_table_has_each_job_with_its_settings_and_numbers(shown, level_sweep):
    rows = shown.rows("Jobs: 6")
    assert [[*row[:3], row[-1]] for row in rows] == [
        [str(number), *reversed(name.split("-")), str(level_sweep / name)]
        for number, name in enumerate(STORES, 1)
    ]
    [first, *_] = measure([level_sweep / name for name in STORES], level_sweep).jobs
    heads = [head.text for head in shown.all("thead")[0].all("th")]
    told = dict(zip(heads, rows[0], strict=True))
    assert told["saved"] == "6"
    assert told["clipped samples"] == f"{first.numbers.clipped_samples:,}"
    assert told["LUFS"] == f"{first.numbers.loudness_mean_lufs:.1f}"


def test_each_utterance_has_a_player_for_each_setting_with_its_loudness(shown):
    groups = shown.all("article", class_="group")
    assert len(groups) == 6
    assert any(HOSTILE in group.all("h3")[0].text for group in groups)
    for group in groups:
        players = group.all("audio")
        labels = [player.attributes["aria-label"] for player in players]
        assert [re.sub(r".*maxx (\S+), alpha (\S+)", r"\2-\1", label) for label in labels] == STORES
        assert all(-70 < float(player.attributes["data-level"]) < 0 for player in players)
        assert all(player.attributes["src"].startswith("data:audio/") for player in players)


def test_names_are_text_and_the_page_fetches_nothing(shown):
    for one in shown.all():
        assert not [key for key in one.attributes if key.startswith("on")]
        assert (one.attributes.get("src") or "data:").startswith("data:")
    [policy] = shown.all("meta", **{"http-equiv": "Content-Security-Policy"})
    scripts = [one for one in shown.all("script") if "type" not in one.attributes]
    assert policy.attributes["content"].count("'sha256-") == len(scripts) == 5


def test_a_chart_has_alpha_on_its_axis_and_a_line_for_each_maxx(level_sweep):
    charts, same = multiples(measure([level_sweep / name for name in STORES], level_sweep))
    data = {chart.title: chart.data for chart in charts}["Peak after gain, mean"]
    assert (data["setting"], data["x"]) == ("alpha", [0.3, 0.5, 0.7])
    assert data["names"] == ["maxx 0.9", "maxx 0.95"]
    assert np.diff(data["values"], axis=1).min() > 0
    assert "Saved 6 (utterances)" in same


def test_settings_that_are_no_numbers_are_charted_over_the_jobs(level_sweep, tmp_path):
    for name, resampler in (("a", "soxr"), ("b", "torchaudio")):
        shutil.copytree(level_sweep / "0.5-0.95", tmp_path / name)
        metadata = json.loads((tmp_path / name / "metadata.json").read_text())
        metadata["identity"]["audio.resampler"] = resampler
        (tmp_path / name / "metadata.json").write_text(json.dumps(metadata))
    lines = (tmp_path / "b" / "ledger.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "b" / "ledger.jsonl").write_text("".join(lines[1:]))
    charts, _same = multiples(measure([tmp_path / "a", tmp_path / "b"], tmp_path))
    assert charts[0].data["setting"] == "job"
    assert charts[0].data["names"] == ["jobs as in the table"]


def test_models_are_named_by_their_place_and_told_apart_by_their_weights(level_sweep, tmp_path):
    for name, weights in (("a", 64 * "a"), ("b", 64 * "b")):
        shutil.copytree(level_sweep / "0.5-0.95", tmp_path / name)
        metadata = json.loads((tmp_path / name / "metadata.json").read_text())
        metadata["identity"]["model.weights"] = weights
        metadata["made_with"]["model"] = f"/models/{name}"
        (tmp_path / name / "metadata.json").write_text(json.dumps(metadata))
    shown = parsed(write([tmp_path / "a", tmp_path / "b"], tmp_path))
    rows = shown.rows("Jobs: 2")
    assert [row[1:3] for row in rows] == [[12 * "a", "/models/a"], [12 * "b", "/models/b"]]
    assert "drift is not comparable: another model.weights" in shown.text
    [player, *_] = shown.all("audio")
    assert player.attributes["aria-label"].endswith("model /models/a; model /models/b")


def test_stores_without_audio_have_a_page_that_says_why_it_is_silent(level_sweep, tmp_path):
    where = f"store.dir={tmp_path}/${{audio.alpha}}"
    assert sweep(level_sweep.parent / "in", where, "audio.alpha=0.3,0.7", "store=npy") == 1
    shown = parsed(write([tmp_path / "0.3", tmp_path / "0.7"], tmp_path))
    assert shown.all("audio") == []
    assert "No sounds: store.audio=none." in shown.text


def test_jobs_whose_sound_is_the_same_share_a_player(level_sweep, tmp_path):
    for name, layer in (("a", 1), ("b", 2)):
        shutil.copytree(level_sweep / "0.5-0.95", tmp_path / name)
        metadata = json.loads((tmp_path / name / "metadata.json").read_text())
        metadata["identity"]["model.layer"] = layer
        (tmp_path / name / "metadata.json").write_text(json.dumps(metadata))
    groups = list(heard.heard(measure([tmp_path / "a", tmp_path / "b"], tmp_path)))
    assert [take.label for take in groups[0].takes] == ["layer 1; layer 2"]


def test_the_page_of_many_long_recordings_is_bounded_and_says_what_it_leaves_out(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(heard, "MAX_BYTES", 100_000)
    monkeypatch.setattr(heard, "NUM_JOBS", 3)
    monkeypatch.setattr(page, "NUM_JOBS", 3)
    monkeypatch.setattr(page, "MAX_ROWS", 4)
    rng = np.random.default_rng(0)
    stores = [store_of_noise(tmp_path / f"{number}", number, rng) for number in range(5)]
    path = write(stores, tmp_path)
    assert path.stat().st_size < 100_000 + 250_000  # the scripts
    shown = parsed(path)
    assert len(shown.rows("The first 4 of 5 jobs; sweep.csv has all")) == 4
    groups = shown.all("article", class_="group")
    assert 0 < len(groups) < 8
    told = f"{len(groups)} of the 8 measured utterances, of the first 3 of 5 jobs"
    assert told in shown.text
    assert "Of longer ones the first " in shown.text


def store_of_noise(store: Path, number: int, rng: np.random.Generator) -> Path:
    """A store of eight recordings of 9 s, whose features are damaged."""
    for folder in ("4-cnhubert", "5-wav32k"):
        (store / folder).mkdir(parents=True)
    lines = []
    for id_ in (f"{n}.wav" for n in range(8)):
        samples = (0.1 * rng.standard_normal(9 * 32_000)).astype(np.float32)
        soundfile.write(store / "5-wav32k" / id_, samples, 32_000, subtype="PCM_16")
        (store / "4-cnhubert" / f"{id_}.pt").write_bytes(b"?")
        name, size = f"5-wav32k/{id_}", (store / "5-wav32k" / id_).stat().st_size
        files = [[f"4-cnhubert/{id_}.pt", 0, 1, 0], [name, 0, size, 0]]
        lines.append({"id": id_, "status": "saved", "peak": 0.5, "duration_s": 9, "files": files})
    (store / "ledger.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    identity = {"layout": "gpt_sovits", "audio.maxx": 0.95, "audio.alpha": number / 10}
    (store / "metadata.json").write_text(json.dumps({"format": 1, "identity": identity}))
    return store


# --- at the end of a sweep ---------------------------------------------------------------------


@pytest.fixture
def here(monkeypatch):
    """Makes pages in this process: another one takes seconds to start."""
    monkeypatch.setattr(child, "_run", lambda job, *_: ([*child.lines(job)], ""))


def test_a_sweep_ends_in_its_page(tmp_path, capfd):
    """Made by the process that makes the reports."""
    write_wav(tmp_path / "in" / "a.wav")
    where = f"store.dir={tmp_path}/out/${{audio.alpha}}"
    assert sweep(tmp_path / "in", where, "audio.alpha=0.3,0.7", "report=html") == 0
    said = capfd.readouterr().err.splitlines()
    assert f"sweep: {tmp_path}/out/sweep.html" in said
    made = {path.name for path in (tmp_path / "out").iterdir()}
    assert made == {"0.3", "0.7", "sweep.html", "sweep.csv"}


def test_a_page_is_made_anew_only_if_it_shows_something_else(tmp_path, monkeypatch):
    stores = [tmp_path / name for name in ("one", "two", "three")]
    for store in stores:
        store.mkdir()
        (store / "ledger.jsonl").write_text('{"id":"a.wav","status":"saved"}\n')
        report.write(store)

    def jobs(num: int) -> list[int]:
        """Makes the pages of some of the stores; how many sweeps that took."""
        asked = []

        def run(job, *_):
            asked.append(len(job["sweeps"]))
            return [*child.lines(job)], ""

        monkeypatch.setattr(child, "_run", run)
        said = child.make(stores[:num], lambda: False, is_sweep=True)
        assert said[-1] == f"sweep: {tmp_path / 'sweep.html'}"
        return asked

    assert [jobs(2), jobs(2), jobs(3), jobs(3)] == [[1], [], [1], []]
    (stores[1] / "ledger.jsonl").write_text('{"id":"b.wav","status":"saved"}\n')
    assert [jobs(3), jobs(3)] == [[1], []]
    (tmp_path / "sweep.csv").unlink()
    assert [jobs(3), jobs(3)] == [[1], []]


def test_without_reports_or_with_a_job_a_folder_there_is_none(here, tmp_path):
    write_wav(tmp_path / "in" / "a.wav")
    alone = f"store.dir={tmp_path}/${{audio.alpha}}/out"
    assert sweep(tmp_path / "in", alone, "audio.alpha=0.3,0.7", "report=html") == 0
    together = f"store.dir={tmp_path}/out/${{audio.alpha}}"
    assert sweep(tmp_path / "in", together, "audio.alpha=0.3,0.7", "report=none") == 0
    assert list(tmp_path.rglob("sweep.*")) == []


def test_a_page_that_cannot_be_made_fails_no_sweep(here, tmp_path, capfd):
    write_wav(tmp_path / "in" / "a.wav")
    (tmp_path / "out" / "sweep.csv").mkdir(parents=True)
    where = f"store.dir={tmp_path}/out/${{audio.alpha}}"
    assert sweep(tmp_path / "in", where, "audio.alpha=0.3,0.7", "report=html") == 0
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("no sweep: ")]
    assert len(said) == 1
    assert "not made by a sweep" in said[0]
    assert not (tmp_path / "out" / "sweep.html").exists()


def test_a_job_that_crashed_is_in_the_table_with_what_its_store_holds(here, tmp_path, monkeypatch):
    write_wav(tmp_path / "in" / "a.wav")
    swept = (f"store.dir={tmp_path}/out/${{audio.alpha}}", "audio.alpha=0.3,0.7")
    assert sweep(tmp_path / "in", *swept) == 0
    write_wav(tmp_path / "in" / "b.wav")
    remaining = opened.remaining

    def crashes(manifest, store, *rest):
        if store.directory.name == "0.7":
            raise RuntimeError("a fault")
        return remaining(manifest, store, *rest)

    monkeypatch.setattr(opened, "remaining", crashes)
    assert sweep(tmp_path / "in", *swept, "report=html") == 70
    rows = parsed(tmp_path / "out" / "sweep.html").rows("Jobs: 2")
    assert {row[-1]: row[2] for row in rows} == {"0.3": "2", "0.7": "1"}
