"""The command: exit codes, messages, resume, sweeps."""

import errno
import functools
import io
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import soundfile
import torch

from extract import internal
from extract.data import dataset
from extract.hydra_setup import conf_dir
from extract.run import build, job
from extract.store import opened
from extract.store.layouts.gpt_sovits import GptSovits
from support.command import TINY
from support.recordings import DEMO, write_wav
from support.stores import audit, contents, ids_of, ledger


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
def test_every_option_composes(command, path, capsys, monkeypatch):
    group = path.parent.name
    is_whole = path.parent == Path(conf_dir())
    option = {} if is_whole else {group: path.stem}
    settings = {"dataset": "demo", "dataset.path": "somewhere", "model.path": "somewhere"} | option
    argv = [f"{key}={value}" for key, value in settings.items()]
    if is_whole and path.stem != "config":
        argv = ["--config-name", path.stem]
        for name in re.findall(r"\$\{oc\.env:(\w+)\}", path.read_text("utf8")):
            monkeypatch.setenv(name, "1")
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
    assert not list(tmp_path.rglob("multirun.yaml"))


def test_a_sweep_writes_where_its_stores_are_and_nowhere_else(command, tmp_path, monkeypatch):
    """So its working folder need not be writable."""
    for name in ("here", "tmp"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.chdir(tmp_path / "here")
    write_wav(tmp_path / "in" / "a.wav")
    store = f"store.dir={tmp_path}/out-${{audio.alpha}}"
    argv = ["dataset=folder", f"dataset.path={tmp_path / 'in'}", store, "model=tiny_random"]
    argv += ["device=cpu", "loader.num_workers=0"]  # workers keep a temporary folder for later ones
    assert command("-m", *argv, "audio.alpha=0.3,0.7") == 0
    made = sorted(path.name for path in tmp_path.iterdir())
    assert made == ["here", "in", "out-0.3", "out-0.7", "tmp"]
    assert list((tmp_path / "here").iterdir()) == list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize("own", ["hydra/launcher=basic", "hydra/sweeper=basic"])
def test_a_launcher_or_sweeper_that_was_chosen_has_the_folder_of_the_config(command, tmp_path, own):
    assert command("-m", "dataset=demo", "loader.num_workers=many", own) == 2
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == ["multirun.yaml"]


def test_a_sweep_loads_the_model_once(command, monkeypatch):
    loads = []

    def counted(*args, **kwargs):
        loads.append(args)
        return load_model(*args, **kwargs)

    load_model = build.load_model
    build._kept.clear()
    monkeypatch.setattr(build, "load_model", counted)
    assert command("dataset=demo", "-m", "audio.alpha=0.3,0.7", "loader.num_workers=1") == 0
    assert len(loads) == 1


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["dataset=demo", "audio.alpa=1"], "Key 'alpa' not in 'AudioSettings'"),
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
        (["dataset=demo", "audio.alpha=2"], "audio.alpha: 2.0; needed 0 to 1"),
        (["dataset=demo", "audio.max_peak=-1"], "audio.max_peak: -1.0; needed more than 0"),
        (["dataset=demo", "audio.max_duration_s=inf"], "audio.max_duration_s: inf; needed more"),
        (
            ["dataset=demo", "audio.min_duration_s=10", "audio.max_duration_s=1"],
            "audio.min_duration_s=10.0 audio.max_duration_s=1.0; needed min <= max",
        ),
        (["dataset=demo", "device=cuda:99"], "device=cuda:99"),
    ],
)
@pytest.mark.parametrize("flags", [[], ["-m"]], ids=["run", "sweep"])
def test_a_mistake_is_said_clearly_exits_with_2_and_leaves_nothing(
    command, capfd, tmp_path, argv, said, flags
):
    assert command(*argv, *flags) == 2
    output = "".join(capfd.readouterr()).replace("\n", " ")
    assert said in output
    assert "Traceback" not in output
    assert list(tmp_path.iterdir()) == []


def test_a_fault_of_ours_shows_its_traceback_and_exits_with_70(command, capfd, monkeypatch):
    monkeypatch.setattr(job, "run_shard", lambda *_, **__: 1 / 0)
    for flags in ([], ["-m"]):
        assert command("dataset=demo", *flags) == 70
        assert "ZeroDivisionError: division by zero" in capfd.readouterr().err


def test_a_working_folder_that_is_gone_is_said(command, capfd, tmp_path):
    (tmp_path / "gone").mkdir()
    os.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert command("dataset=demo") == 2
    assert capfd.readouterr().err.startswith("the working folder is gone; go to another one (cd)")


def test_two_recordings_of_one_name_are_found_before_any_work(
    command, tmp_path, capfd, monkeypatch
):
    monkeypatch.setattr(GptSovits, "adds", False)
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
    assert "python -m extract show STORE" in result.stdout


def test_a_run_leaves_nothing_in_the_temporary_folder(tmp_path):
    options = ["dataset=demo", f"store.dir={tmp_path / 'out'}", "device=cpu", "overwrite=true"]
    with tempfile.TemporaryDirectory() as temporary:  # a socket's path takes 107 bytes
        environment = {**os.environ, "TMPDIR": temporary}
        for start_method in ("fork", "forkserver"):
            command = [sys.executable, "-m", "extract", *options, "loader.num_workers=2"]
            command += [f"loader.start_method={start_method}"]
            command += [f"audio.alpha={0.3 if start_method == 'fork' else 0.4}"]
            result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True)
            assert result.returncode == 0, result.stderr
            assert list(Path(temporary).iterdir()) == []


def said(capfd: pytest.CaptureFixture) -> list[str]:
    """What the command printed, with single blanks."""
    return [" ".join(line.split()) for line in capfd.readouterr().err.splitlines()]


def test_the_end_names_what_failed_and_the_command_that_lists_it(
    extract_folder, recordings, tmp_path, capfd
):
    for number in range(7):
        (recordings / f"broken{number}.wav").write_bytes(b"RIFF but not really")
    assert extract_folder(recordings) == 1
    lines = said(capfd)
    named = [line for line in lines if line.startswith("failed: broken")]
    assert len(named) == 5
    assert all(": undecodable: " in line for line in named)
    more = f"failed: and 2 more: python -m extract show {tmp_path / 'out'} --status failed"
    assert lines[-1] == more
    assert f"output: {tmp_path / 'out'}" in lines
    assert extract_folder(recordings, "retry_failed=false") == 1
    assert more.replace("and 2 more", "7 in earlier runs") in said(capfd)


def test_one_is_not_said_in_the_plural(extract_folder, tmp_path, capfd):
    write_wav(tmp_path / "in" / "a.wav")
    assert extract_folder(tmp_path / "in") == 0
    lines = said(capfd)
    assert "1 of 1 recording to do" in lines
    assert any("1 batch, " in line for line in lines)
    assert any(line.endswith(", 1 thread") for line in lines)


def test_the_table_has_the_hours_of_earlier_runs(extract_folder, tmp_path, capfd):
    for number in range(2):
        write_wav(tmp_path / "in" / f"{number}.wav", 9.0, number)
    assert extract_folder(tmp_path / "in") == 0
    assert "hours saved 0.005 0.000" in said(capfd)
    assert extract_folder(tmp_path / "in") == 0
    assert "hours saved 0.000 0.005" in said(capfd)


def test_what_earlier_runs_clipped_stays_in_the_table(extract_folder, tmp_path, capfd):
    path = write_wav(tmp_path / "in" / "a.wav")
    soundfile.write(path, 4 * soundfile.read(path)[0], 16_000, subtype="FLOAT")
    assert extract_folder(tmp_path / "in") == 0
    assert "saved with samples held at full scale 1 0" in said(capfd)
    assert extract_folder(tmp_path / "in") == 0
    assert "saved with samples held at full scale 0 1" in said(capfd)


def test_a_sweep_ends_with_one_table(command, capfd, monkeypatch):
    """A job that cannot start has its row, and the others go on."""
    monkeypatch.setenv("COLUMNS", "100")
    assert command("-m", "dataset=demo", *TINY, "audio.alpha=0.3,0.7", "model.layer=9,1") == 2
    lines = said(capfd)
    start = lines.index("saved shared rejected failed clipped hours exit")
    folder = "outputs/demo/tiny_random-layer1-maxx0.95-alpha"
    assert lines[start + 1 :] == [
        "audio.alpha=0.3 model.layer=9 0 0 0 0 0 0.000 2 not started",
        "audio.alpha=0.3 model.layer=1 12 0 0 0 0 0.009 0 done",
        "audio.alpha=0.7 model.layer=9 0 0 0 0 0 0.000 2 not started",
        "audio.alpha=0.7 model.layer=1 12 12 0 0 0 0.009 0 done",
        f"audio.alpha=0.3 model.layer=1: {folder}0.3",
        f"audio.alpha=0.7 model.layer=1: {folder}0.7",
    ]


def test_a_job_that_crashed_has_a_row_too(command, monkeypatch, capfd):
    monkeypatch.setattr(opened, "remaining", lambda *_: 1 / 0)
    assert command("-m", "dataset=demo", *TINY, "audio.alpha=0.3,0.7") == 70
    assert [line for line in said(capfd) if line.endswith("70 crashed")] == [
        f"audio.alpha={alpha} 0 0 0 0 0.000 70 crashed" for alpha in (0.3, 0.7)
    ]


def test_a_single_run_has_no_table_of_jobs(command, capfd):
    assert command("dataset=demo", *TINY) == 0
    assert not [line for line in said(capfd) if "exit" in line]


def test_the_first_word_may_be_a_command(extract_folder, recordings, tmp_path):
    """As the script `extract` that pip makes calls it."""
    extract_folder(recordings)
    code = "import sys; from extract.__main__ import command; sys.exit(command())"
    command = [sys.executable, "-c", code, "show", tmp_path / "out"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1].startswith("24 utterances: 24 saved")


@pytest.mark.parametrize(
    "words", [["__init__"], ["nosuch"], ["dataset=demo", "show"], ["dataset=demo", "show=1"]]
)
def test_every_other_word_is_hydras(tmp_path, words):
    command = [sys.executable, "-m", "extract", *words]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert words[-1].partition("=")[0] in result.stderr


def test_a_copy_of_the_demo_may_be_moved_and_still_be_read(extract_folder, tmp_path):
    shutil.copytree(DEMO, tmp_path / "clips")
    assert extract_folder(tmp_path / "clips") == 0


def test_a_changed_gate_cut_short_leaves_nothing_stale(
    extract_folder, recordings, tmp_path, monkeypatch
):
    assert extract_folder(recordings, "audio.min_duration_s=0.5") == 0
    with monkeypatch.context() as patch:
        patch.setattr(opened, "remaining", lambda *_: 1 / 0)  # as a kill there would be
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

    def wrong(file, where, *rest, **options):
        if where.endswith(ending):
            raise TypeError(f"a mistake of ours at {where}")
        return prepare(file, where, *rest, **options)

    monkeypatch.setattr(dataset, "prepare", wrong)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_fault_of_ours_on_one_recording_exits_with_70_and_saves_the_others(
    extract_folder, recordings, tmp_path, monkeypatch, capfd, num_workers
):
    with monkeypatch.context() as patch:
        raise_for(patch, "7.wav")  # 07.wav and 17.wav
        assert extract_folder(recordings, f"loader.num_workers={num_workers}") == 70
    said = one_line(capfd.readouterr().err)
    assert said.count("please report it") == 1
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
    monkeypatch.setattr("extract.data.plan.MAX_BATCH", 3)
    assert extract_folder(recordings) == 70
    said = one_line(capfd.readouterr().err)
    assert said.count("please report it") == 1
    assert "not one recording was read: stopping" in said
    assert len(ledger(tmp_path / "out")) == 6


def test_a_fault_of_ours_in_reading_headers_exits_with_70_and_saves_what_can_be(
    extract_folder, recordings, tmp_path, monkeypatch, capfd
):
    def wrong(*_):
        raise TypeError("a mistake of ours")

    monkeypatch.setattr("extract.data.durations.probe_duration_s", wrong)
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
        patch.setattr(opened, "remaining", no_memory)
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
