"""What a store is taken for when a run opens it, and what the run leaves alone."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch

from extract.shard import Shard
from extract.store import foreign
from extract.store.layouts.gpt_sovits import GptSovits
from extract.store.store import Store
from support.posix import FOLDERS, PIPE
from support.recordings import write_wav
from support.stores import audit, contents, ids_of, ledger, paths, put


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    for seed, name in enumerate(("a.wav", "b.wav", "below/c.wav")):
        write_wav(tmp_path / "in" / name, 0.2 + 0.1 * seed, seed)
    return tmp_path / "in"


@pytest.fixture
def run(extract_folder, recordings):
    return lambda *options: extract_folder(recordings, "loader.num_workers=0", *options)


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out"


def times(store: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in store.rglob("*.pt")}


def lose_one(store: Path) -> None:
    """Gives the next run something to do: with nothing to do it needs no plan."""
    (store / "4-cnhubert" / "a.wav.pt").unlink()


def said(capfd) -> str:
    captured = capfd.readouterr()
    output = " ".join((captured.out + captured.err).split())
    assert "Traceback" not in output
    return output


# --- metadata ------------------------------------------------------------------------------------


@pytest.mark.fault(
    "`metadata.json` missing, empty, cut or null, then other settings",
    "refused with the ways out; `overwrite=true` is one and replaces the store",
)
@pytest.mark.parametrize("text", [None, "", "{", "null", '{"format": 1, "identity": null}', "[]"])
def test_a_store_whose_metadata_cannot_be_read_is_not_taken_for_a_new_one(run, out, capfd, text):
    assert run() == 0
    before = contents(out)
    if text is None:
        (out / "metadata.json").unlink()
    else:
        (out / "metadata.json").write_text(text)
    capfd.readouterr()
    assert run("audio.alpha=0.25") == 2
    output = said(capfd)
    for word in ("metadata.json", "overwrite=true", "store.dir=DIR", "back"):
        assert word in output
    assert contents(out) == before
    assert run("audio.alpha=0.25", "overwrite=true") == 0
    audit(out, {"a.wav", "b.wav", "below/c.wav"})
    after = contents(out)
    assert all(after[name] != before[name] for name in before if name.startswith("5-wav32k"))


def test_what_metadata_say_does_not_reach_the_terminal_as_it_is(run, out, capfd):
    assert run() == 0
    data = json.loads((out / "metadata.json").read_text())
    data["identity"] |= {"audio.alpha": "\x1b[2J\x1b]0;gone\x07", "\x1b[31m": "\u202e"}
    (out / "metadata.json").write_text(json.dumps(data))
    assert run() == 2
    output = capfd.readouterr().err
    assert "\\x1b[2J" in output
    assert output.replace("\n", "").isprintable()


def test_a_store_made_by_an_earlier_version_goes_on_without_redoing(run, out):
    """Its lines hold two sizes and one checksum in the place of `files`."""
    assert run() == 0
    lines = []
    for record in ledger(out):
        (_, _, feature_bytes, _), (_, _, wav_bytes, wav_crc32) = record.pop("files")
        record |= {"feature_bytes": feature_bytes, "wav_bytes": wav_bytes, "wav_crc32": wav_crc32}
        lines.append(json.dumps(record) + "\n")
    (out / "ledger.jsonl").write_text("".join(lines))
    before = times(out)
    assert run("store.verify=checksum") == 0
    assert times(out) == before
    assert (out / "ledger.jsonl").read_text() == "".join(lines)


# --- files of others -----------------------------------------------------------------------------


@pytest.fixture
def careful(monkeypatch):
    """A layout that replaces no file of another program unless it is told to."""
    monkeypatch.setattr(GptSovits, "replaces_foreign", False)


@pytest.fixture
def begun_by_another(out) -> dict[str, bytes]:
    """Files as GPT-SoVITS's own step leaves them, two under names of our recordings."""
    for name in ("a.wav", "below/c.wav", "z.wav"):
        for path in (out / "4-cnhubert" / f"{name}.pt", out / "5-wav32k" / name):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(f"{path.name} of another program".encode())
    return contents(out)


@pytest.mark.usefixtures("careful")
def test_files_that_no_ledger_names_stop_a_run_that_would_replace_them(
    run, out, begun_by_another, capfd
):
    assert run() == 2
    output = said(capfd)
    assert "a.wav, below/c.wav" in output
    assert "z.wav" not in output
    assert "overwrite=true" in output
    assert contents(out) == begun_by_another


@pytest.mark.fault(
    "an experiment that GPT-SoVITS's own step began",
    "its files are counted, kept, and replaced where a recording has their name",
)
def test_what_gpt_sovits_began_is_kept_and_replaced_where_a_recording_has_its_name(
    run, out, begun_by_another, capfd
):
    assert run() == 0
    assert "no ledger names, of 3 utterance(s): 1 stay as they are, 2 are" in said(capfd)
    after = contents(out)
    kept = {"4-cnhubert/z.wav.pt", "5-wav32k/z.wav"}
    assert {name for name in begun_by_another if after[name] == begun_by_another[name]} == kept
    assert {record["id"] for record in ledger(out)} == {"a.wav", "b.wav", "below/c.wav"}
    assert run("shard.count=2") == 0
    assert "no ledger names, of 1 utterance(s): 1 stay as they are, 0 are" in said(capfd)
    assert contents(out) == after


@pytest.mark.fault(
    "files of another program in the store's folder",
    "counted; replaced only with `overwrite=true` and where a recording has their name",
)
@pytest.mark.usefixtures("careful")
def test_they_are_replaced_where_a_recording_has_their_name_and_kept_elsewhere(
    run, out, begun_by_another, capfd
):
    assert run("overwrite=true") == 0
    output = said(capfd)
    assert "no ledger names, of 3 utterance(s): 1 stay as they are, 2 are replaced" in output
    after = contents(out)
    kept = {"4-cnhubert/z.wav.pt", "5-wav32k/z.wav"}
    assert {name for name in begun_by_another if after[name] == begun_by_another[name]} == kept
    assert {record["id"] for record in ledger(out)} == {"a.wav", "b.wav", "below/c.wav"}
    assert run() == 0, "what is in the ledger is no longer foreign"
    assert "no ledger names, of 1 utterance(s): 1 stay as they are, 0 are" in said(capfd)
    assert contents(out) == after


def test_a_recording_that_gives_no_features_leaves_the_file_of_another(
    run, out, recordings, begun_by_another
):
    (recordings / "a.wav").write_bytes(b"no recording")
    assert run("overwrite=true") == 1
    assert contents(out)["4-cnhubert/a.wav.pt"] == begun_by_another["4-cnhubert/a.wav.pt"]
    assert [record["reason"] for record in ledger(out) if record["id"] == "a.wav"] == [
        "undecodable"
    ]


@pytest.mark.usefixtures("careful")
def test_files_that_came_into_a_finished_store_are_foreign_too(run, out, recordings, capfd):
    assert run() == 0
    (out / "4-cnhubert" / "new.wav.pt").write_bytes(b"of another program")
    assert run() == 0
    write_wav(recordings / "new.wav")
    assert run() == 2
    assert "new.wav" in said(capfd)
    assert (out / "4-cnhubert" / "new.wav.pt").read_bytes() == b"of another program"
    assert run("overwrite=true") == 0
    audit(out, ids_of(recordings))


@pytest.mark.usefixtures("careful")
@pytest.mark.parametrize("finished", [False, True])
def test_training_audio_alone_is_foreign_too(run, out, recordings, capfd, finished):
    if finished:
        assert run() == 0
    write_wav(recordings / "new.wav")
    (out / "5-wav32k").mkdir(parents=True, exist_ok=True)
    (out / "5-wav32k" / "new.wav").write_bytes(b"of another program")
    assert run() == 2
    assert "new.wav" in said(capfd)
    assert (out / "5-wav32k" / "new.wav").read_bytes() == b"of another program"


@pytest.mark.usefixtures("careful")
def test_a_ledger_that_is_gone_makes_all_its_files_foreign(run, out, recordings, capfd):
    assert run() == 0
    (out / "ledger.jsonl").unlink()
    before = contents(out)
    assert run() == 2
    assert "overwrite=true" in said(capfd)
    assert contents(out) == before
    assert run("overwrite=true") == 0
    audit(out, ids_of(recordings))


def cut_short(monkeypatch, run, *options) -> None:
    """A run that is killed between an utterance's files and its line."""
    from extract.store.ledger import Ledger

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "append", lambda self, record: 1 / 0)
        assert run(*options) == 70


def test_files_of_a_run_that_was_cut_short_are_ours(run, out, recordings, monkeypatch):
    cut_short(monkeypatch, run)
    assert list((out / "4-cnhubert").glob("*.pt"))
    cut_short(monkeypatch, run)
    assert run() == 0
    audit(out, ids_of(recordings))
    assert not list((out / ".extract").glob("unfinished*"))


@pytest.mark.usefixtures("careful")
def test_what_was_foreign_before_a_run_was_cut_short_is_foreign_after_it(
    run, out, recordings, monkeypatch, begun_by_another
):
    cut_short(monkeypatch, run, "overwrite=true", "dataset.extensions=[none,wav]")
    (out / "ledger.jsonl").unlink(missing_ok=True)
    assert run() == 2
    assert contents(out)["5-wav32k/z.wav"] == begun_by_another["5-wav32k/z.wav"]


def test_a_note_is_passed_on_to_all_shards_of_another_sharding(tmp_path):
    (tmp_path / ".extract").mkdir()
    store = Store(tmp_path)
    store.create()
    (tmp_path / "5-wav32k" / "theirs.wav").touch()
    (tmp_path / "4-cnhubert" / "ours.wav.pt").touch()
    foreign.begin(tmp_path, Shard(), {"theirs.wav"}, alone=True)
    assert foreign.foreign_ids(store, set(), is_new=False) == {"theirs.wav"}
    foreign.begin(tmp_path, Shard(1, 3), {"theirs.wav"}, alone=True)
    foreign.end(tmp_path, Shard(1, 3))
    assert foreign.foreign_ids(store, set(), is_new=False) == {"theirs.wav"}
    foreign.end(tmp_path, Shard(0, 3))
    foreign.end(tmp_path, Shard(2, 3))
    assert foreign.foreign_ids(store, set(), is_new=False) == {"theirs.wav", "ours.wav"}
    assert foreign.foreign_ids(store, {"ours.wav"}, is_new=False) == {"theirs.wav"}


def test_a_noted_file_that_is_gone_is_foreign_no_more(tmp_path):
    (tmp_path / ".extract").mkdir()
    store = Store(tmp_path)
    store.create()
    (tmp_path / "5-wav32k" / "theirs.wav").touch()
    foreign.begin(tmp_path, Shard(), {"theirs.wav", "gone.wav"}, alone=True)
    assert foreign.foreign_ids(store, set(), is_new=False) == {"theirs.wav"}


@pytest.mark.parametrize("count", [1, 2])
def test_what_a_killed_run_of_an_earlier_version_left_is_ours_until_it_is_done(
    run, out, recordings, count
):
    """It left no note, only its owner file; once all is done, that is gone too."""
    assert run() == 0
    (out / "ledger.jsonl").write_text("")
    (out / ".extract" / f"owner-0-of-{count}.json").write_text('{"pid": 1}')
    assert run() == 0
    audit(out, ids_of(recordings))
    assert not [path.name for path in (out / ".extract").iterdir() if "-of-2" in path.name]
    assert not list((out / ".extract").glob("owner*"))
    assert not list((out / ".extract").glob("unfinished*"))


@pytest.mark.fault(
    "files beside ours, such as `ledger.backup.jsonl`",
    "left alone",
)
@pytest.mark.parametrize("text", ["mine\n", '{"id": "a.wav"}\n'])
def test_ledgers_of_the_users_own_survive(run, out, text):
    assert run() == 0
    names = ("ledger.backup.jsonl", "ledger-notes.jsonl", "ledger.jsonl.1", ".tmp-notes")
    for name in names:
        (out / name).write_text(text)
        (out / "4-cnhubert" / name).write_text(text)
    for options in ((), ("shard.count=2",), ("audio.alpha=0.25", "overwrite=true")):
        assert run(*options) == 0
        for name in names:
            assert (out / name).read_text() == text
            assert (out / "4-cnhubert" / name).read_text() == text


# --- files outside -------------------------------------------------------------------------------


@pytest.fixture
def victim(tmp_path) -> Path:
    """A folder of the user's that a careless store would reach."""
    folder = tmp_path / "victim"
    for name in ("x", "x.pt", "a.wav.pt", "plan-0-of-1", "ledger.jsonl", ".tmp-host-1-0"):
        folder.mkdir(exist_ok=True)
        (folder / name).write_text("mine")
    return folder


def untouched(victim: Path) -> bool:
    texts = {path.name: path.read_text() for path in victim.iterdir()}
    return len(texts) == 6 and set(texts.values()) == {"mine"}


@pytest.mark.fault(
    "a ledger's line with an id that leads out of the store",
    "not believed; nothing outside is touched",
)
def test_an_id_in_a_ledger_leads_nowhere(run, out, victim):
    assert run() == 0
    with (out / "ledger.jsonl").open("a") as file:
        for id_ in ("../../victim/x", str(victim / "x"), "a/../../../victim/x"):
            for status, reason in (("saved", None), ("rejected", "silent"), ("failed", "bad_id")):
                file.write(json.dumps({"id": id_, "status": status, "reason": reason}) + "\n")
    assert run("audio.alpha=0.25", "overwrite=true") == 0
    assert untouched(victim)
    audit(out, {"a.wav", "b.wav", "below/c.wav"})


@pytest.mark.parametrize("folder", ["4-cnhubert", "5-wav32k", ".extract"])
def test_a_folder_of_the_store_that_is_a_link_is_refused(run, out, victim, folder, capfd):
    out.mkdir()
    (out / folder).symlink_to(victim)
    assert run() == 2
    assert "a symbolic link" in said(capfd)
    assert untouched(victim)


def test_a_link_in_the_place_of_a_speakers_folder_costs_that_speaker_alone(
    run, out, victim, capfd, recordings
):
    for folder in ("4-cnhubert", "5-wav32k"):
        (out / folder).mkdir(parents=True)
        (out / folder / "below").symlink_to(victim)
    for options in ((), ("audio.alpha=0.25", "overwrite=true")):
        assert run(*options) == 1
        assert untouched(victim)
        records = {record["id"]: record for record in ledger(out)}
        assert [record["reason"] for record in records.values()].count("write_failed") == 1
        assert "symbolic link" in records["below/c.wav"]["detail"]


@pytest.mark.fault(
    "symbolic links in the place of the store's files",
    "replaced or refused, never written through",
)
@pytest.mark.parametrize("name", ["plan-0-of-1", "durations-0-of-1", "owner-0-of-1"])
def test_links_among_the_stores_notes_are_not_written_through(run, out, victim, name):
    assert run() == 0
    (out / ".extract" / name).unlink(missing_ok=True)
    (out / ".extract" / name).symlink_to(victim / "plan-0-of-1")
    lose_one(out)
    assert run() == 0
    assert untouched(victim)
    assert not (out / ".extract" / name).is_symlink()


def test_a_file_that_is_a_link_is_replaced_and_what_it_leads_to_is_kept(run, out, victim):
    assert run() == 0
    for path in (out / "4-cnhubert" / "a.wav.pt", out / "5-wav32k" / "b.wav"):
        shutil.copy(path, victim.with_name(path.name))
        path.unlink()
        path.symlink_to(victim.with_name(path.name))
    (out / "metadata.json").rename(victim.with_name("metadata.json"))
    (out / "metadata.json").symlink_to(victim.with_name("metadata.json"))
    copies = {path: path.read_bytes() for path in victim.parent.glob("*.*") if path.is_file()}
    assert run() == 2, "metadata that are a link may say anything tomorrow"
    assert run("overwrite=true") == 0
    audit(out, {"a.wav", "b.wav", "below/c.wav"})
    assert not [path for path in out.rglob("*") if path.is_symlink()]
    assert {path: path.read_bytes() for path in copies} == copies


def test_a_copy_made_of_hard_links_stays_as_it_is(run, out, recordings, tmp_path):
    assert run() == 0
    shutil.copytree(out, tmp_path / "copy", copy_function=os.link)
    before = {p: p.read_bytes() for p in (tmp_path / "copy").rglob("*") if p.is_file()}
    write_wav(recordings / "new.wav")
    write_wav(recordings / "a.wav", 0.9)
    assert run() == 0
    audit(out, ids_of(recordings))
    assert {path: path.read_bytes() for path in before} == before


def test_a_store_behind_a_link_is_a_store_as_any(run, out, recordings, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    out.symlink_to("elsewhere")
    assert run() == 0
    audit(tmp_path / "elsewhere", ids_of(recordings))


@pytest.mark.parametrize("kind", ["link", "folder", PIPE])
def test_a_ledger_that_is_no_file_is_refused(run, out, victim, kind, capfd):
    assert run() == 0
    (out / "ledger.jsonl").unlink()
    if kind == "link":
        (out / "ledger.jsonl").symlink_to(victim / "ledger.jsonl")
    elif kind == "folder":
        (out / "ledger.jsonl").mkdir()
    else:
        os.mkfifo(out / "ledger.jsonl")
    assert run("overwrite=true") == 2
    assert "move this away" in said(capfd)
    assert untouched(victim)


# --- temporary files, caches ---------------------------------------------------------------------

LEFT = [
    ".tmp-metadata.json-12",
    ".tmp-metadata.json-12-0123abcd",
    ".tmp-ledger.jsonl-12",
    ".tmp-ledger.0-of-2.jsonl-12-0123abcd",
    ".extract/.tmp-durations-0-of-1-12-0123abcd",
    ".extract/.tmp-lengths-0-of-1-12",
    ".extract/.tmp-lengths-0-of-1-12-0123abcd",
    ".extract/.tmp-plan-0-of-1-12-0123abcd",
    ".extract/.tmp-owner-0-of-1.json-12-0123abcd",
    ".extract/.tmp-unfinished-0-of-1-12-0123abcd",
    "4-cnhubert/.tmp-host-12-0",
    "5-wav32k/.tmp-a-host.of-mine-12-0123abcd-77",
    "5-wav32k/below/.tmp-host-12-0123abcd-probe",
]
NOT_OURS = [".tmp-notes", ".tmp-metadata.json", ".extract/.tmp-12", "4-cnhubert/.tmp-notes"]


def test_temporary_files_of_every_kind_are_swept_and_no_others(run, out):
    assert run() == 0
    for name in (*LEFT, *NOT_OURS):
        (out / name).touch()
    assert run() == 0
    assert sorted(str(path.relative_to(out)) for path in out.rglob(".tmp-*")) == sorted(NOT_OURS)


def test_every_temporary_name_that_a_run_gives_is_one_that_is_swept(run, out, monkeypatch):
    """Whatever replaces a file is killed just before; the next run takes all of it away."""
    made, replace = [], os.replace

    def killed(source, target):
        shutil.copy(source, f"{source}.copy")
        replace(source, target)
        Path(f"{source}.copy").rename(source)
        made.append(Path(source).name)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        assert run() == 0
        (out / "ledger.jsonl").write_text((out / "ledger.jsonl").read_text() + "torn")
        assert run() == 0
    kinds = ("metadata.json", "ledger.jsonl", "plan-", "durations-", "unfinished-")
    assert all(any(kind in name for name in made) for kind in kinds), made
    assert list(out.rglob(".tmp-*"))
    assert run() == 0
    assert not list(out.rglob(".tmp-*"))


def test_durations_that_an_earlier_version_kept_are_not_read_again(run, out):
    assert run() == 0
    path = out / ".extract" / "durations-0-of-1"
    before = path.stat().st_ino
    path.rename(path.with_name("lengths-0-of-1"))
    assert run() == 0
    assert path.stat().st_ino == before
    assert not path.with_name("lengths-0-of-1").exists()


def test_nothing_is_swept_from_a_folder_that_is_no_store_of_ours(run, out):
    left = out / "4-cnhubert" / ".tmp-host-12-0"
    left.parent.mkdir(parents=True)
    left.write_text("mine")
    assert run() == 0
    assert left.read_text() == "mine"


PLANS = ["", "0" * 64, "\0" * 64, "\udcff", "x" * 9999]


@pytest.mark.fault(
    "a damaged plan or index of durations",
    "made anew",
)
@pytest.mark.parametrize("plan", [*PLANS, "folder", "full folder", PIPE])
def test_a_damaged_plan_is_made_anew(run, out, plan, recordings):
    assert run() == 0
    path = out / ".extract" / "plan-0-of-1"
    before = path.read_bytes()
    path.unlink()
    if plan in PLANS:
        path.write_bytes(plan.encode("utf8", "surrogateescape"))
    elif plan == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
        if plan == "full folder":
            (path / "mine").touch()
    lose_one(out)
    assert run() == 0
    assert plan == "full folder" or path.read_bytes() == before
    audit(out, ids_of(recordings))


def test_a_plan_is_written_whole_or_not_at_all(run, out, monkeypatch):
    replaced, replace = [], os.replace
    monkeypatch.setattr(
        os, "replace", lambda *args: (replaced.append(Path(args[1]).name), replace(*args))
    )
    assert run() == 0
    assert replaced.count("plan-0-of-1") == 1


@pytest.mark.parametrize("name", ["metadata.json", ".extract/unfinished-0-of-1", ".extract/lock"])
def test_a_folder_in_the_place_of_a_file_stops_a_run_before_it_drops_anything(
    run, out, capfd, name
):
    assert run() == 0
    (out / name).unlink(missing_ok=True)
    (out / name).mkdir()
    (out / name / "mine").touch()
    before = contents(out), ledger(out)
    assert run("overwrite=true", "audio.alpha=0.25") == (2 if name == "metadata.json" else 1)
    assert "move" in said(capfd)
    assert name == ".extract/unfinished-0-of-1" or (contents(out), ledger(out)) == before
    assert (out / name / "mine").exists()
    shutil.rmtree(out / name)
    assert run("overwrite=true", "audio.alpha=0.25") == 0


@FOLDERS
@pytest.mark.skipif(sys.platform != "linux", reason="descriptors have names in /proc")
def test_metadata_and_ledger_reach_the_disk_where_fsync_is_asked_for(run, out, monkeypatch):
    synced, fsync = set(), os.fsync

    def noted(descriptor):
        synced.add(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    assert run("store.fsync=false") == 0
    assert not synced & {"ledger.jsonl", "out"}
    assert not any("metadata" in name for name in synced)
    shutil.rmtree(out)
    assert run("store.fsync=true") == 0
    assert synced >= {"ledger.jsonl", "out"}
    assert any("metadata" in name for name in synced)


# --- what holds ----------------------------------------------------------------------------------


def test_a_saved_utterance_whose_recording_is_gone_keeps_its_files(run, out, recordings, capfd):
    assert run() == 0
    before, lines = contents(out), ledger(out)
    aside = recordings.parent / "b.wav"
    (recordings / "b.wav").rename(aside)
    (recordings / "b.wav").symlink_to("nowhere")  # listed as before, and nothing there
    assert run() == 0
    assert (contents(out), ledger(out)) == (before, lines)
    assert "0 of 3 recordings to do" in said(capfd)


def test_hours_of_earlier_runs_are_told(run, out, recordings, capfd):
    from extract.store.ledger import read

    assert run() == 0
    hours = sum(record["duration_s"] for record in read(out)) / 3600
    said(capfd)
    for seed in range(40):
        write_wav(recordings / f"long{seed}.wav", 0.5, seed)
    assert run() == 0
    assert f"{20 / 3600:.3f} {hours:.3f}" in said(capfd).split("hours saved ")[1]
    assert run() == 0
    assert f"0.000 {hours + 20 / 3600:.3f}" in said(capfd).split("hours saved ")[1]


@pytest.mark.fault(
    "any bit of a saved file flipped, `store.verify=checksum`",
    "found, and the utterance saved again",
)
def test_every_flipped_bit_of_a_feature_file_is_found(tmp_path):
    """And with the lines of an earlier version, which held no checksum of it, none raises."""
    store = Store(tmp_path, fsync=False)
    store.create()
    features = torch.linspace(-3, 3, 21).view(1, 7, 3)
    files = put(store, "a.wav", features, torch.zeros(9, dtype=torch.int16))
    path = Path(paths(store, "a.wav")[0])
    whole = path.read_bytes()
    new = {"id": "a.wav", "files": files}
    old = {
        "id": "a.wav",
        "feature_bytes": files[0][2],
        "wav_bytes": files[1][2],
        "wav_crc32": files[1][3],
    }
    assert store.intact(new, checksum=True)
    assert store.intact(old, checksum=True)
    with path.open("r+b", buffering=0) as file:
        for bit in range(8 * len(whole)):
            byte = bytes([whole[bit // 8] ^ (1 << bit % 8)])
            file.seek(bit // 8)
            file.write(byte)
            assert not store.intact(new, checksum=True), bit
            if store.intact(old, checksum=True):
                torch.load(path, weights_only=True)
            file.seek(bit // 8)
            file.write(whole[bit // 8 : bit // 8 + 1])
    assert store.intact(new, checksum=True)
