"""Sweeps: features that a gain does not change are computed once, all others for each job."""

import gc
import json
import os
import shutil
import signal
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from extract.app import main
from extract.data import dataset
from extract.encoder.encoder import Encoder
from extract.run import donors, job, proof, sharing
from extract.run.reuse import Reuse
from extract.store import writers
from extract.store.reused import Reused
from support import readers
from support.command import TINY, start
from support.models import folder_of, small_model
from support.recordings import speech_like, write_wav
from support.semantic import s2g, save_s2g
from support.stores import audit, contents, files_of, ids_of, ledger

NUM = 6
SMALL = (*TINY, "loader.num_workers=0", "loader.batch_seconds=2", "store.fsync=false")
BOUND = 2e-4  # docs/exact.md
APART = {"quiet.wav", "band_limited.wav", "click.wav"}  # at alpha=0; other gains make them loud


def low_passed(seconds: float, below_hz: float) -> np.ndarray:
    """Noise below a frequency, with a peak of 1."""
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal(round(seconds * 16_000)))
    spectrum[round(below_hz * seconds) :] = 0
    wave = np.fft.irfft(spectrum)
    return wave / np.abs(wave).max()


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """Recordings at levels of speech, one in a folder below, and three that eps moves."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(NUM):
        write_wav(folder / ("below" if number == 3 else "") / f"{number}.wav", 0.5, number)
    click = np.zeros(16_000)
    click[8_000] = 0.05
    unusual = {
        "quiet.wav": 1e-4 * speech_like(0.5),
        "band_limited.wav": 0.001 * low_passed(0.5, 100),
        "click.wav": click,
    }
    for name, samples in unusual.items():
        soundfile.write(folder / name, samples, 16_000, subtype="FLOAT")
    return folder


def options(clips: Path, *more: str) -> list[str]:
    return ["dataset=folder", f"dataset.path={clips}", *SMALL, *more]


@pytest.fixture
def sweep(clips, command, tmp_path):
    """Runs a sweep over gains into `tmp_path/<alpha>`; returns the exit code."""

    def sweep(alphas: str, *more: str) -> int:
        store = f"store.dir={tmp_path}/${{audio.alpha}}"
        return command("-m", *options(clips, store, f"audio.alpha={alphas}", *more))

    return sweep


@pytest.fixture(scope="module")
def stores(clips, tmp_path_factory) -> Path:
    """The stores of a sweep over four gains, and of one of them alone."""
    folder = tmp_path_factory.mktemp("stores")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["extract"])
        patch.chdir(clips)
        here = f"store.dir={folder}/${{audio.alpha}}"
        assert main(["-m", *options(clips, here, "audio.alpha=0.0,0.5,0.7,0.001")]) == 0
        assert main(options(clips, f"store.dir={folder}/alone", "audio.alpha=0.7")) == 0
    return folder


def lines(store: Path) -> dict[str, dict]:
    return {record["id"]: record for record in ledger(store)}


def shared(store: Path) -> dict[str, str]:
    """Ids whose features were shared, and where these were computed."""
    return {id_: record["shared"] for id_, record in lines(store).items() if "shared" in record}


def feature_file(store: Path, id_: str) -> Path:
    return store / lines(store)[id_]["files"][0][0]


def linked(store: Path, other: Path) -> set[str]:
    """Ids whose features have one file in both stores."""
    both = lines(store).keys() & lines(other).keys()
    return {id_ for id_ in both if feature_file(store, id_).samefile(feature_file(other, id_))}


def test_features_that_a_gain_does_not_change_are_linked_and_the_ledger_says_so(stores, clips):
    ordinary = ids_of(clips) - APART
    assert shared(stores / "0.0") == {}
    assert shared(stores / "0.5") == dict.fromkeys(ordinary, "0.0")
    assert linked(stores / "0.5", stores / "0.0") == linked(stores / "0.7", stores / "0.0")
    assert linked(stores / "0.5", stores / "0.0") == ordinary
    for alpha in ("0.5", "0.7"):
        audit(stores / alpha, ids_of(clips))


def test_quiet_band_limited_and_clicking_recordings_are_computed_anew(stores):
    """At alpha=0 and 0.001. Of two gains that make them loud, the first one's are shared."""
    for alpha in ("0.0", "0.001"):
        found = lines(stores / alpha)
        assert {id_ for id_, record in found.items() if record["gain_sensitivity"] > 1e-5} == APART
        assert APART.isdisjoint(shared(stores / alpha))
    assert len(shared(stores / "0.001")) == NUM
    assert APART.isdisjoint(shared(stores / "0.5"))
    assert {shared(stores / "0.7")[id_] for id_ in APART} == {"0.5"}
    assert linked(stores / "0.7", stores / "0.5") == lines(stores / "0.5").keys()


def test_shared_features_are_within_the_bound_of_those_computed_anew(stores):
    quiet, found, anew = (readers.read(stores / name) for name in ("0.0", "0.7", "alone"))
    assert max(float((found[id_] - anew[id_]).abs().max()) for id_ in anew) <= BOUND
    assert min(float((quiet[id_] - anew[id_]).abs().max()) for id_ in APART) > BOUND


def test_training_audio_is_of_each_gain(stores):
    wavs = [stores / alpha / "5-wav32k" for alpha in ("0.7", "alone", "0.0")]
    ours, alone, other = ({p.name: p.read_bytes() for p in f.rglob("*.wav")} for f in wavs)
    assert ours == alone
    assert all(ours[name] != other[name] for name in ours)


def test_all_else_in_a_line_is_what_a_job_alone_writes(stores):
    new, about_features = {"gain_sensitivity", "shared"}, {"files"}
    ours, alone = lines(stores / "0.7"), lines(stores / "alone")
    for id_, record in alone.items():
        assert new.isdisjoint(record)
        assert record["files"][1] == ours[id_]["files"][1]
        for key in record.keys() - about_features:
            assert record[key] == ours[id_][key]


def test_jobs_say_what_they_share_and_the_tables_count_it(sweep, capfd):
    assert sweep("0.0,0.5") == 0
    said = capfd.readouterr().err
    assert f"{NUM} of {NUM + 3} recordings: features shared with 0.0\n" in said
    assert "features of 4 recordings differ by" in said
    rows = [" ".join(row.split()) for row in said.splitlines()]
    assert f"saved with features of an earlier job {NUM} 0" in rows
    assert sum(row.endswith(f" {NUM + 3} {NUM} 0 0 0 0.001 0 done") for row in rows) == 1


def test_a_store_of_a_job_alone_is_no_donor_and_is_left_as_it_is(clips, command, sweep, tmp_path):
    assert command(*options(clips, f"store.dir={tmp_path}/0.3", "audio.alpha=0.3")) == 0
    before = (tmp_path / "0.3" / "ledger.jsonl").read_bytes()
    assert sweep("0.3,0.5,0.7") == 0
    assert (tmp_path / "0.3" / "ledger.jsonl").read_bytes() == before
    assert not shared(tmp_path / "0.5")
    assert set(shared(tmp_path / "0.7").values()) == {"0.5"}


def test_a_chain_names_where_features_were_computed(sweep, clips, tmp_path):
    assert sweep("0.5,0.7") == 0
    shutil.rmtree(tmp_path / "0.5")
    assert sweep("0.7,0.9") == 0
    assert shared(tmp_path / "0.9") == dict.fromkeys(ids_of(clips), "0.5")
    assert linked(tmp_path / "0.9", tmp_path / "0.7") == ids_of(clips)


def meanwhile(monkeypatch, act) -> None:
    """Calls `act` once a job has decided what it takes, and has taken nothing."""
    stage, done = Reuse.__call__, []

    def first(self, batches):
        if not done:
            done.append(act())
        yield from stage(self, batches)

    monkeypatch.setattr(Reuse, "__call__", first)


def test_a_recording_that_is_another_now_is_not_taken(sweep, clips, tmp_path, monkeypatch):
    mine = shutil.copytree(clips, tmp_path / "mine")

    def act() -> None:
        write_wav(mine / "0.wav", 0.6, 99)
        os.utime(mine / "1.wav", ns=(0, 7))
        (mine / "2.wav").unlink()
        _rewrite(tmp_path / "0.5", "4.wav", path="/there/4.wav")

    meanwhile(monkeypatch, act)
    assert sweep("0.5,0.7", f"dataset.path={mine}") == 1
    changed = {f"{number}.wav" for number in (0, 1, 2, 4)}
    found = lines(tmp_path / "0.7")
    assert shared(tmp_path / "0.7").keys() == ids_of(clips) - changed
    assert found["2.wav"]["reason"] == "missing"
    assert round(found["0.wav"]["duration_s"], 3) == 0.6
    audit(tmp_path / "0.7", ids_of(clips))


def _rewrite(store: Path, id_: str, **values) -> None:
    """Changes a line of a ledger in place: all lines after it keep their places."""
    path = store / "ledger.jsonl"
    text = path.read_bytes()
    for line in text.splitlines(keepends=True):
        record = json.loads(line)
        if record["id"] == id_:
            changed = json.dumps({**record, **values}, separators=(",", ":")).encode()
            assert len(changed) < len(line)
            text = text.replace(line, changed.ljust(len(line) - 1) + b"\n")
    path.write_bytes(text)


def test_what_a_store_does_not_hold_any_more_is_computed(sweep, clips, tmp_path, monkeypatch):
    """Deleted, damaged, or overwritten with features of other settings, while a job takes them."""
    donor = tmp_path / "0.5"

    def act() -> None:
        feature_file(donor, "0.wav").unlink()
        path = feature_file(donor, "1.wav")
        other = path.read_bytes()[:-1] + b"x"  # of the same size, as another model's would be
        path.unlink()
        path.write_bytes(other)
        path = feature_file(donor, "2.wav")
        path.write_bytes(path.read_bytes()[:-1])

    meanwhile(monkeypatch, act)
    assert sweep("0.5,0.7") == 0
    assert ids_of(clips) - shared(tmp_path / "0.7").keys() == {"0.wav", "1.wav", "2.wav"}
    audit(tmp_path / "0.7", ids_of(clips))


def test_a_store_that_is_deleted_meanwhile_harms_nothing(sweep, clips, tmp_path, monkeypatch):
    meanwhile(monkeypatch, lambda: shutil.rmtree(tmp_path / "0.5"))
    assert sweep("0.5,0.7") == 0
    assert shared(tmp_path / "0.7") == {}
    audit(tmp_path / "0.7", ids_of(clips))


@pytest.mark.skipif(not hasattr(os, "setsid"), reason="POSIX signals")
def test_a_sweep_that_is_killed_while_it_shares_goes_on(clips, command, stores, tmp_path):
    taken, take = [], writers.Writers._save

    def saving(self, item) -> None:
        taken.extend([item] if isinstance(item, Reused) else [])
        if len(taken) == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        take(self, item)

    here = f"store.dir={tmp_path}/${{audio.alpha}}"
    argv = ["-m", *options(clips, here, "audio.alpha=0.0,0.5", "store.num_writers=1")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writers.Writers, "_save", saving)
        process = start(argv, tmp_path)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert len(ledger(tmp_path / "0.5")) == 3
    encoded, submit = [], Encoder.submit

    def submitted(self, waveforms, lengths):
        encoded.extend(lengths)
        return submit(self, waveforms, lengths)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Encoder, "submit", submitted)
        assert command(*argv) == 0
    assert len(encoded) == len(APART)  # in the batches of an uninterrupted run: without the shared
    for alpha in ("0.0", "0.5"):
        audit(tmp_path / alpha, ids_of(clips))
        assert contents(tmp_path / alpha) == contents(stores / alpha)
        assert shared(tmp_path / alpha) == shared(stores / alpha)


@pytest.fixture(scope="module")
def layer_norm(tmp_path_factory) -> Path:
    return folder_of(small_model("layer"), tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("what", ["layer norm", "scale 1"])
def test_the_proof_fails_where_features_follow_the_gain(
    sweep, clips, tmp_path, monkeypatch, capfd, layer_norm, what
):
    """Past the decision by architecture, and past that by level."""
    model = {
        "layer norm": ("model=local", f"model.path={layer_norm}"),
        "scale 1": ("audio.scale=1",),
    }[what]
    assert sweep("0.3,0.5" if what == "scale 1" else "0.3", *model) == 0
    assert not shared(tmp_path / "0.5")
    assert "no features are shared" not in capfd.readouterr().err
    shutil.rmtree(tmp_path / "0.5", ignore_errors=True)
    for id_ in ids_of(clips):
        _append(tmp_path / "0.3", id_, gain_sensitivity=1e-6)
    for module in (donors, sharing):
        monkeypatch.setattr(module, "shares_features", lambda job: True)
    assert sweep("0.3,0.5,0.7", *model) == 0
    said = capfd.readouterr().err
    assert said.count("no features are shared: those of ") == 1  # one proof for the whole sweep
    assert not shared(tmp_path / "0.5")
    assert not shared(tmp_path / "0.7")


def _append(store: Path, id_: str, **values) -> None:
    """Adds to a line of a ledger, of a store in which no run works."""
    path = store / "ledger.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    changed = [record | (values if record["id"] == id_ else {}) for record in records]
    path.write_text("".join(json.dumps(one, separators=(",", ":")) + "\n" for one in changed))


def test_a_job_whose_folder_is_overwritten_or_deleted_harms_no_other(
    clips, command, sweep, tmp_path
):
    first, second = tmp_path / "0.5", tmp_path / "0.7"
    assert sweep("0.5,0.7") == 0
    assert linked(first, second) == ids_of(clips)
    before = contents(second), (second / "ledger.jsonl").read_bytes()
    another = ("audio.alpha=0.5", f"store.dir={first}", "seed=1", "overwrite=true")
    assert command(*options(clips, *another)) == 0
    assert not linked(first, second)
    shutil.rmtree(first)
    same = ("audio.alpha=0.7", f"store.dir={second}", "store.verify=checksum")
    assert command(*options(clips, *same)) == 0
    assert (contents(second), (second / "ledger.jsonl").read_bytes()) == before
    audit(second, ids_of(clips))


@pytest.mark.parametrize("layout", ["gpt_sovits", "webdataset"])
def test_without_training_audio_nothing_is_decoded(sweep, clips, tmp_path, monkeypatch, layout):
    prepared, prepare = [], dataset.prepare

    def counted(file, where, *rest, **more):
        prepared.append(Path(where).name)
        return prepare(file, where, *rest, **more)

    monkeypatch.setattr(dataset, "prepare", counted)
    none_in_memory = "loader.decoded_mb=0"
    assert sweep("0.5,0.7,0.9", f"store={layout}", "store.audio=none", none_in_memory) == 0
    proofs = 2 * proof.MOST_UTTERANCES
    assert len(prepared) == NUM + 3 + proofs
    for alpha in ("0.7", "0.9"):
        assert len(shared(tmp_path / alpha)) == NUM + 3
        audit(tmp_path / alpha, ids_of(clips))


def test_several_layers_and_half_precision_are_shared(sweep, clips, tmp_path):
    several = ("store=npy", "model.layer=[1,2]", "precision=bf16", "store.dtype=float16")
    assert sweep("0.5,0.7", *several) == 0
    assert linked(tmp_path / "0.7", tmp_path / "0.5") == ids_of(clips)
    audit(tmp_path / "0.7", ids_of(clips))


@pytest.mark.parametrize("features", ["true", "false"])
def test_units_of_the_same_quantizer_go_along(clips, command, tmp_path, features):
    files = [save_s2g(tmp_path / f"{seed}.pth", s2g(seed=seed)) for seed in (0, 1)]
    where = f"store.dir={tmp_path}/${{audio.alpha}}-${{stem:${{quantizer.path}}}}"
    swept = "audio.alpha=0.5,0.7", f"quantizer.path={files[0]},{files[1]}"
    more = ("quantizer=gpt_sovits", f"features={features}")
    assert command("-m", *options(clips, where, *more, *swept)) == 0
    for number in (0, 1):
        ours, theirs = (tmp_path / f"{alpha}-{number}" for alpha in ("0.7", "0.5"))
        assert shared(ours) == dict.fromkeys(ids_of(clips), f"0.5-{number}")
        name = "6-name2semantic-0.tsv"
        assert sorted((ours / name).read_text().splitlines()) == sorted(
            (theirs / name).read_text().splitlines()
        )
        assert not shared(theirs)


def test_what_differs_in_more_than_the_gain_is_not_taken(command, tmp_path):
    write_wav(tmp_path / "in" / "a.wav")
    where = f"store.dir={tmp_path}/${{audio.alpha}}-${{seed}}"
    swept = "audio.alpha=0.5,0.7", "seed=0,1"
    assert command("-m", *options(tmp_path / "in", where, *swept)) == 0
    given = {path.name: set(shared(path).values()) for path in tmp_path.glob("0.*")}
    assert given == {"0.5-0": set(), "0.5-1": set(), "0.7-0": {"0.5-0"}, "0.7-1": {"0.5-1"}}

    metadata = tmp_path / "0.5-0" / "metadata.json"  # as if it had got units since
    metadata.write_text(
        metadata.read_text().replace('"identity": {', '"identity": {"quantizer": "q",')
    )
    shutil.rmtree(tmp_path / "0.7-0")
    assert command("-m", *options(tmp_path / "in", where, swept[0])) == 0
    assert readers.identity(tmp_path / "0.5-0")["quantizer"] == "q"
    assert not shared(tmp_path / "0.7-0")


def test_links_need_no_room(clips, sweep, tmp_path, monkeypatch, capfd):
    """The second job has room for its training audio, and not for features too."""
    assert sweep("0.5") == 0
    size = {name: (tmp_path / "0.5" / name).stat().st_size for name in files_of(tmp_path / "0.5")}
    audio = sum(number for name, number in size.items() if name.startswith("5-wav32k"))
    assert sum(size.values()) > 1.1 * audio
    free = SimpleNamespace(free=1.05 * audio)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: free)
    assert sweep("0.5,0.7", "share_features=false") == 1
    assert "the disk is too small" in capfd.readouterr().err
    assert sweep("0.5,0.7") == 0
    assert len(shared(tmp_path / "0.7")) == NUM + 3


def test_nothing_of_a_job_stays_in_memory(sweep, monkeypatch):
    """When the next one begins: neither its recordings nor what it took of other stores."""
    made, alive, job_of, init = [], [], job.job_of, Reuse.__init__

    def noted(*args, **more):
        gc.collect()
        alive.append([ref() is not None for ref in made])
        parts = job_of(*args, **more)
        made.append(weakref.ref(parts.manifest))
        return parts

    def found(self, *args) -> None:
        init(self, *args)
        made.append(weakref.ref(self))

    monkeypatch.setattr(job, "job_of", noted)
    monkeypatch.setattr(Reuse, "__init__", found)
    assert sweep("0.5,0.7,0.9") == 0
    assert alive == [[], [False], [False, False, False]]


def test_a_job_that_fails_stops_no_other(sweep, clips, tmp_path):
    (tmp_path / "0.7" / "ledger.jsonl").mkdir(parents=True)
    assert sweep("0.5,0.7,0.9", "store.audio=none") == 2
    assert shared(tmp_path / "0.9") == dict.fromkeys(ids_of(clips), "0.5")
