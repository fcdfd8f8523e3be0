"""The command: exit codes, messages, resume, sweeps."""

import errno
import functools
import io
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import DEMO, TINY, audit, contents, ids_of, ledger, write_wav

from extract import dataset, internal, job
from extract.app import conf_dir


def test_a_folder_becomes_features_and_training_audio(extract_folder, recordings, tmp_path):
    assert extract_folder(recordings) == 0
    audit(tmp_path / "out", ids_of(recordings))


def test_running_again_does_nothing_again(extract_folder, recordings, tmp_path):
    extract_folder(recordings)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.pt")}
    lines = ledger(tmp_path / "out")
    assert extract_folder(recordings) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.pt")} == times
    assert ledger(tmp_path / "out") == lines


def test_the_demo_runs_from_an_empty_folder(command, tmp_path):
    assert command("dataset=demo", "loader.num_workers=1") == 0
    stores = list((tmp_path / "outputs" / "demo").iterdir())
    assert [store.name for store in stores] == ["tiny_random-maxx0.95-alpha0.5"]
    assert len(list((stores[0] / "4-cnhubert").iterdir())) >= 12


@pytest.mark.parametrize("path", sorted(Path(conf_dir()).rglob("*.yaml")), ids=lambda p: p.stem)
def test_every_option_composes(command, path, capsys):
    group = path.parent.name
    option = {} if path.stem == "config" else {group: path.stem}
    settings = {"dataset": "demo", "dataset.path": "somewhere", "model.path": "somewhere"} | option
    argv = [f"{key}={value}" for key, value in settings.items()]
    assert command(*argv, "--cfg", "job", "--resolve") == 0
    assert "maxx: 0.95" in capsys.readouterr().out


def test_folders_that_differ_behind_a_dot_get_outputs_of_their_own(command, tmp_path):
    for name in ("speaker.a", "speaker.b"):
        write_wav(tmp_path / name / "a.wav")
        assert command("dataset=folder", f"dataset.path={tmp_path / name}", *TINY) == 0
    (tmp_path / "some.list").write_text("speaker.a/a.wav|a|en|Hello.\n")
    assert command("dataset=gpt_sovits", f"dataset.path={tmp_path / 'some.list'}", *TINY) == 0
    outputs = {path.name for path in (tmp_path / "outputs").iterdir()}
    assert outputs == {"speaker.a", "speaker.b", "some"}


def test_a_sweep_gives_a_folder_for_each_setting(command, tmp_path):
    assert command("-m", "dataset=demo", "audio.alpha=0.3,0.7", "loader.num_workers=1") == 0
    names = {store.name for store in (tmp_path / "outputs" / "demo").iterdir()}
    assert names == {"tiny_random-maxx0.95-alpha0.3", "tiny_random-maxx0.95-alpha0.7"}


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["dataset=demo", "audio.alpa=1"], "Key 'alpa' not in 'AudioConfig'"),
        (["dataset=demo", "precision=fp8"], "expected one of [auto, fp32, fp16, bf16]"),
        (["dataset=demo", "audio.alpha=loud"], "could not be converted to Float"),
        (["dataset=nosuch"], "Could not find 'dataset/nosuch'"),
        ([], "You must specify 'dataset'"),
        (["dataset=folder"], "Missing mandatory value: dataset.path"),
        (["dataset=folder", "dataset.path=nowhere"], "nowhere"),
        (["dataset=demo", "loader.num_workers=many"], "loader.num_workers: 'many'"),
        (["dataset=demo", "loader.batch_seconds=0"], "loader.batch_seconds"),
        (["dataset=demo", "shard.index=2", "shard.count=2"], "needed 0 <= index < count"),
        (["dataset=demo", "device=tpu"], "device=tpu"),
        (["dataset=demo", "model=local", "model.path=nowhere"], "model.path=DIR"),
        (["dataset=demo", "model.layer=9"], "layers 1 to 2"),
        (["dataset=demo", "audio.resampler=linear"], "expected one of [soxr, torchaudio]"),
    ],
)
def test_a_mistake_is_said_clearly_and_exits_with_2(command, capfd, argv, said):
    assert command(*argv) == 2
    output = "".join(capfd.readouterr()).replace("\n", " ")
    assert said in output
    assert "Traceback" not in output


def test_two_recordings_of_one_name_are_found_before_any_work(command, tmp_path, capfd):
    write_wav(tmp_path / "a" / "same.wav")
    write_wav(tmp_path / "b" / "same.wav")
    (tmp_path / "two.list").write_text("a/same.wav|s|en|one\nb/same.wav|s|en|two\n")
    assert command("dataset=gpt_sovits", "dataset.path=two.list", "model=tiny_random") == 2
    output = capfd.readouterr().err
    assert "a/same.wav" in output.replace("\n", "")
    assert "b/same.wav" in output.replace("\n", "")
    assert not (tmp_path / "outputs").exists()


def test_a_list_may_hold_bars_in_its_text_and_bad_lines(command, tmp_path):
    write_wav(tmp_path / "wavs" / "one.wav")
    text = "elsewhere/one.wav|me|en|this | that\nno fields at all\n"
    (tmp_path / "some.list").write_text(text)
    options = ["dataset=gpt_sovits", "dataset.path=some.list", "dataset.audio_dir=wavs"]
    assert command(*options, "model=tiny_random", "store.dir=out") == 1
    assert [(record["id"], record["reason"]) for record in ledger(tmp_path / "out")] == [
        ("some.list:2", "bad_line"),
        ("one.wav", None),
    ]
    assert command(*options, "model=tiny_random", "store.dir=out") == 1
    assert len(ledger(tmp_path / "out")) == 2


def test_other_settings_into_the_same_folder_stop_before_any_work(
    extract_folder, recordings, tmp_path, capfd
):
    extract_folder(recordings)
    before = contents(tmp_path / "out")
    assert extract_folder(recordings, "audio.alpha=0.25", "seed=1") == 2
    message = capfd.readouterr().err
    for word in ("audio.alpha", "0.25", "0.5", "model.weights", "overwrite=true", "store.dir"):
        assert word in message
    assert contents(tmp_path / "out") == before
    assert extract_folder(recordings, "audio.alpha=0.25", "overwrite=true") == 0
    audit(tmp_path / "out", ids_of(recordings))
    after = contents(tmp_path / "out")
    assert all(after[name] != before[name] for name in before if name.startswith("5-wav32k"))


def test_a_changed_gate_redoes_only_what_it_changes(extract_folder, recordings, tmp_path):
    assert extract_folder(recordings, "audio.min_duration_s=0.5") == 0
    store = tmp_path / "out"
    rejected = {record["id"] for record in ledger(store) if record["reason"] == "too_short"}
    assert 0 < len(rejected) < 24
    times = {path: path.stat().st_mtime_ns for path in store.rglob("*.pt")}
    assert extract_folder(recordings, "overwrite=true") == 0
    audit(store, ids_of(recordings))
    assert all(record["status"] == "saved" for record in ledger(store))
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert extract_folder(recordings, "audio.min_duration_s=0.5", "overwrite=true") == 0
    audit(store, ids_of(recordings))
    assert {record["id"] for record in ledger(store) if record["status"] == "rejected"} == rejected
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_only_what_changed_is_done_again(extract_folder, recordings, tmp_path):
    extract_folder(recordings)
    store = tmp_path / "out"
    times = {path.name: path.stat().st_mtime_ns for path in store.rglob("*.pt")}
    write_wav(recordings / "01.wav", 0.7, seed=99)  # the recording changed
    (store / "4-cnhubert" / "02.wav.pt").unlink()  # its files are gone, or torn
    with open(store / "5-wav32k" / "03.wav", "r+b") as file:
        file.truncate(100)
    write_wav(recordings / "new.wav", 0.3)
    assert extract_folder(recordings) == 0
    audit(store, ids_of(recordings))
    after = {path.name: path.stat().st_mtime_ns for path in store.rglob("*.pt")}
    changed = {name for name in after if after[name] != times.get(name)}
    assert changed == {"01.wav.pt", "02.wav.pt", "03.wav.pt", "new.wav.pt"}


def test_a_flipped_bit_is_found_when_asked_to_look(extract_folder, recordings, tmp_path):
    extract_folder(recordings)
    good = contents(tmp_path / "out")
    for name in ("4-cnhubert/01.wav.pt", "5-wav32k/02.wav"):
        path = tmp_path / "out" / name
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    assert extract_folder(recordings, "store.verify=checksum") == 0
    after = contents(tmp_path / "out")
    redone = {"4-cnhubert/01.wav.pt", "4-cnhubert/02.wav.pt"}  # sharing another batch than before
    assert {name for name in good if good[name] != after[name]} <= redone
    for name in redone:
        found, expected = (
            torch.load(io.BytesIO(files[name]), weights_only=True) for files in (after, good)
        )
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_failed_ones_are_tried_again_unless_told_not_to(extract_folder, recordings, tmp_path):
    (recordings / "broken.wav").write_bytes(b"RIFF but not really")
    assert extract_folder(recordings) == 1
    broken = [record for record in ledger(tmp_path / "out") if record["id"] == "broken.wav"]
    assert broken[0]["reason"] == "undecodable"
    assert extract_folder(recordings, "retry_failed=false") == 1
    write_wav(recordings / "broken.wav")
    assert extract_folder(recordings) == 0
    audit(tmp_path / "out", ids_of(recordings))


def test_shards_share_a_folder_and_another_sharding_goes_on(extract_folder, recordings, tmp_path):
    store = tmp_path / "out"
    assert extract_folder(recordings, "shard.count=3", "shard.index=0") == 0
    assert 0 < len(ledger(store)) < 24
    assert extract_folder(recordings, "shard.count=3", "shard.index=1") == 0
    times = {path: path.stat().st_mtime_ns for path in store.rglob("*.pt")}
    assert extract_folder(recordings) == 0
    audit(store, ids_of(recordings))
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert [path.name for path in store.glob("ledger*")] == ["ledger.jsonl"]


def test_a_torn_last_line_is_healed(extract_folder, recordings, tmp_path):
    extract_folder(recordings)
    path = tmp_path / "out" / "ledger.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    assert extract_folder(recordings) == 0
    audit(tmp_path / "out", ids_of(recordings))


def test_help_answers_without_torch():
    code = (
        "import sys; from extract.app import main; sys.argv[1:] = ['--help']; main(); "
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "dataset=mydata" in result.stdout


def test_a_run_leaves_nothing_in_the_temporary_folder(tmp_path):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    options = ["dataset=demo", f"store.dir={tmp_path / 'out'}", "device=cpu"]
    for start_method in ("fork", "forkserver"):
        command = [sys.executable, "-m", "extract", *options, "overwrite=true"]
        command += [f"loader.start_method={start_method}", "loader.num_workers=2"]
        command += [f"audio.alpha={0.3 if start_method == 'fork' else 0.4}"]
        environment = {**os.environ, "TMPDIR": str(temporary)}
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True)
        assert result.returncode == 0, result.stderr
        assert list(temporary.iterdir()) == []


ENDING = """
import atexit, sys, threading
from extract.__main__ import command

class Kept:
    def __del__(self):
        print("taken apart", flush=True)

kept = Kept()
atexit.register(print, "at exit")
{more}
sys.argv[1:] = {argv}
sys.exit(command())
"""
THREAD = """
def wait():
    threading.main_thread().join()
    print("the thread")
threading.Thread(target=wait).start()
"""


@pytest.mark.parametrize(
    ("more", "said"),
    [("", ["at exit"]), (THREAD, ["the thread", "at exit", "taken apart"])],
    ids=["nothing left", "a thread left"],
)
def test_the_quick_end_of_the_process_waits_for_all_that_asked_for_it(tmp_path, more, said):
    """Alone, it skips taking objects apart, no more."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.wav").write_text("no recording")
    argv = ["dataset=folder", f"dataset.path={tmp_path / 'in'}", f"store.dir={tmp_path / 'out'}"]
    code = ENDING.format(more=more, argv=[*argv, "model=tiny_random", "device=cpu"])
    buffered = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, env=buffered, capture_output=True, text=True)
    assert result.returncode == 1, result.stderr
    assert result.stdout.splitlines() == said


def test_a_copy_of_the_demo_may_be_moved_and_still_be_read(extract_folder, tmp_path):
    shutil.copytree(DEMO, tmp_path / "clips")
    assert extract_folder(tmp_path / "clips") == 0


def test_a_changed_gate_cut_short_leaves_nothing_stale(
    extract_folder, recordings, tmp_path, monkeypatch
):
    assert extract_folder(recordings, "audio.min_duration_s=0.5") == 0
    with monkeypatch.context() as patch:
        patch.setattr(job, "remaining", lambda *_: 1 / 0)  # as a kill there would be
        assert extract_folder(recordings, "overwrite=true") == 70
    assert extract_folder(recordings) == 0
    audit(tmp_path / "out", ids_of(recordings))
    assert all(record["status"] == "saved" for record in ledger(tmp_path / "out"))


def one_line(said: str) -> str:
    """What a terminal of any width says, as it was before it was wrapped."""
    return " ".join(said.split())


def raise_for(monkeypatch, ending: str) -> None:
    """Lets our own code raise for every recording whose path ends so."""
    prepare = dataset.prepare

    def wrong(path, settings):
        if path.endswith(ending):
            raise TypeError(f"a mistake of ours at {path}")
        return prepare(path, settings)

    monkeypatch.setattr(dataset, "prepare", wrong)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_fault_of_ours_on_one_recording_exits_with_70_and_saves_the_others(
    extract_folder, recordings, tmp_path, monkeypatch, capfd, num_workers
):
    with monkeypatch.context() as patch:
        raise_for(patch, "7.wav")  # 07.wav and 17.wav
        assert extract_folder(recordings, f"loader.num_workers={num_workers}") == 70
    said = one_line(capfd.readouterr().err)
    assert said.count("a mistake of ours") == 1
    assert "please report it" in said
    assert "Traceback" not in said
    audit(tmp_path / "out", ids_of(recordings))
    faulty = {record["id"]: record for record in ledger(tmp_path / "out") if record["reason"]}
    assert sorted(faulty) == ["07.wav", "17.wav"]
    for record in faulty.values():
        assert (record["status"], record["reason"]) == ("failed", "internal_error")
        assert "TypeError: a mistake of ours at" in record["detail"]
        assert "(dataset.py:" in record["detail"]
    assert extract_folder(recordings) == 0  # tried again, as all that failed
    audit(tmp_path / "out", ids_of(recordings))


def test_a_fault_of_ours_on_every_recording_stops_the_run_early(
    extract_folder, recordings, tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr(internal, "GIVE_UP_AFTER", 6)
    raise_for(monkeypatch, ".wav")
    monkeypatch.setattr("extract.plan.MAX_BATCH", 3)
    assert extract_folder(recordings) == 70
    said = one_line(capfd.readouterr().err)
    assert said.count("a mistake of ours") == 1
    assert "not one recording was read: stopping" in said
    assert len(ledger(tmp_path / "out")) == 6


def test_a_fault_of_ours_in_reading_headers_exits_with_70_and_saves_what_can_be(
    extract_folder, recordings, tmp_path, monkeypatch, capfd
):
    def wrong(path):
        raise TypeError("a mistake of ours")

    monkeypatch.setattr("extract.lengths.probe_duration_s", wrong)
    with monkeypatch.context() as patch:
        patch.setattr(internal, "GIVE_UP_AFTER", 25)  # of 24: it goes on
        assert extract_folder(recordings) == 70
    audit(tmp_path / "out", ids_of(recordings))
    assert one_line(capfd.readouterr().err).count("a mistake of ours") == 1
    assert extract_folder(recordings, "audio.alpha=0.3", "overwrite=true") == 70
    assert "not one recording was read: stopping" in one_line(capfd.readouterr().err)
    assert ledger(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), 1),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), 1),
        (ImportError("libtorch.so: failed to map segment from shared object"), 1),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), 1),
        (RuntimeError("a mistake of ours"), 70),
    ],
)
def test_a_process_without_memory_says_so_and_goes_on_from_there(
    extract_folder, recordings, tmp_path, monkeypatch, capfd, error, code
):
    def no_memory(*args):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(job, "remaining", no_memory)
        assert extract_folder(recordings) == code
    said = capfd.readouterr().err
    assert ("stopped: out of memory" in said) == ("Traceback" not in said) == (code == 1)
    assert extract_folder(recordings) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not keep to RLIMIT_AS")
def test_a_real_limit_of_memory_ends_in_a_sentence(recordings, tmp_path):
    """Where torch does not even fit, as under a batch system's limit."""
    options = [f"dataset.path={recordings}", f"store.dir={tmp_path / 'out'}", *TINY]
    command = [sys.executable, "-m", "extract", "dataset=folder", *options]
    limit = functools.partial(resource.setrlimit, resource.RLIMIT_AS, (10**9, 10**9))
    one_thread = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    ran = subprocess.run(
        command, preexec_fn=limit, env=one_thread, capture_output=True, text=True, cwd=tmp_path
    )
    assert ran.returncode == 1, ran.stderr
    assert "stopped: out of memory" in ran.stderr
    assert "Traceback" not in ran.stderr
