"""Stores broken by hand, each in one way: the audit finds it, names it, and forgets it."""

import io
import json
import os
import shutil
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from extract.app import main
from extract.audit.findings import KINDS
from extract.commands import audit
from support.command import TINY
from support.layouts import words
from support.recordings import write_wav

NUM = 6


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for number in range(NUM):
        name = f"录音 (2)/{number}.b.wav" if number == 3 else f"{number}.wav"
        write_wav(folder / name, 0.2 + 0.05 * number, number)
    (folder / "broken.wav").write_bytes(b"RIFF")
    return folder


@pytest.fixture(scope="module")
def run(clips, tmp_path_factory):
    """Runs the command into a store, in a folder where nothing else is."""

    def run(layout: str, store: Path, *more: str) -> int:
        where = [f"dataset.path={clips}", *words(layout), f"store.dir={store}"]
        more = ("loader.num_workers=0", "store.fsync=false", "report=none", *more)
        return main(["dataset=folder", *where, *TINY, *more])

    return run


@pytest.fixture(scope="module")
def whole(run, layout, tmp_path_factory) -> Path:
    """A store of the layout, as a run left it."""
    store = tmp_path_factory.mktemp(layout) / "store"
    assert run(layout, store) == 1  # broken.wav
    return store


@pytest.fixture
def store(whole, tmp_path) -> Path:
    """A copy of the store, to be broken. Paths in Kaldi's list follow."""
    copied = tmp_path / "store"
    shutil.copytree(whole, copied, symlinks=True)
    if (copied / "feats.scp").exists():
        text = (copied / "feats.scp").read_text("utf8")
        (copied / "feats.scp").write_text(text.replace(f" {whole}/", f" {copied}/"), "utf8")
    return copied


@pytest.fixture
def found(capsys):
    """Audits a store; returns the breaches by kind."""

    def found(store: Path, *options: str) -> dict[str, int]:
        capsys.readouterr()
        code = audit.main([str(store), "--json", *options])
        said = json.loads(capsys.readouterr().out.splitlines()[0])
        assert code == bool(said["breaches"])
        return said["breaches"]

    return found


def records(store: Path) -> list[dict]:
    return [json.loads(line) for line in (store / "ledger.jsonl").read_text("utf8").splitlines()]


def rewrite(store: Path, lines: list[dict]) -> None:
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (store / "ledger.jsonl").write_text(text, "utf8")


def change(store: Path, **values) -> None:
    """Changes the line of a saved utterance: always the same one."""
    lines = records(store)
    saved_line(lines).update(values)
    rewrite(store, lines)


def saved_line(lines: list[dict]) -> dict:
    return next(line for line in lines if line["id"] == "4.wav")


def first_file(store: Path) -> tuple[Path, int, int]:
    name, at, size, _crc = saved_line(records(store))["files"][0]
    return store / name, at, size


def put(store: Path, data: bytes) -> None:
    """Replaces the features' file, with a line that says so."""
    path, at, _size = first_file(store)
    assert at == 0
    path.write_bytes(data)
    lines = records(store)
    file = saved_line(lines)["files"][0]
    file[2], file[3] = len(data), zlib.crc32(data)
    rewrite(store, lines)


def saved_as(store: Path, values: torch.Tensor) -> None:
    """Replaces the features (frames, dimensions), as the layout has them."""
    file = io.BytesIO()
    if first_file(store)[0].suffix == ".pt":
        torch.save(values.T[None].contiguous(), file)
    else:
        np.save(file, values.numpy())
    put(store, file.getvalue())


def features(store: Path) -> torch.Tensor:
    path = first_file(store)[0]
    if path.suffix == ".pt":
        return torch.load(path, weights_only=True)[0].T
    return torch.from_numpy(np.load(path))


# --- whole ---------------------------------------------------------------------------------------


@pytest.mark.each_layout
def test_a_whole_store_passes(whole, found, clips, tmp_path):
    listed = tmp_path / "ids"
    names = sorted(str(path.relative_to(clips)) for path in clips.rglob("*.wav"))
    listed.write_text("".join(f"{name}\n" for name in names), "utf8")
    assert found(whole, "--list", str(listed)) == {}


@pytest.mark.parametrize(
    "options",
    [
        ("model.layer=[1,2]", "store=npy"),
        ("store=webdataset", "store.audio=none"),
        ("audio=plain",),
        ("precision=bf16", "store.dtype=bfloat16"),
        ("precision=bf16", "store=webdataset"),
        ("audio.min_samples=9000",),
    ],
    ids=" ".join,
)
def test_a_whole_store_of_other_settings_passes(run, found, tmp_path, options):
    layout = next((word[6:] for word in options if word.startswith("store=")), "gpt_sovits")
    others = [word for word in options if not word.startswith("store=")]
    assert run(layout, tmp_path / "store", *others) in (0, 1)
    assert found(tmp_path / "store") == {}


@pytest.mark.each_layout
def test_a_recording_that_is_gone_and_a_store_that_was_copied_are_no_breach(store, layout, found):
    assert found(store) == {}


# --- lines ---------------------------------------------------------------------------------------


def torn(store):
    with (store / "ledger.jsonl").open("ab") as file:
        file.write(b'{"id":"9.wav","pa')


def no_json(store):
    with (store / "ledger.jsonl").open("ab") as file:
        file.write(b"\0\0\0\n")


def twice(store):
    rewrite(store, [*records(store), saved_line(records(store))])


def other_shard(store):
    (store / "ledger.jsonl").rename(store / "ledger.0-of-2.jsonl")


def two_divisions(store):
    (store / "ledger.0-of-2.jsonl").write_bytes(b"")


def no_reason(store):
    lines = records(store)
    next(line for line in lines if line["id"] == "broken.wav")["reason"] = "bad_luck"
    rewrite(store, lines)


def saved_with_reason(store):
    change(store, reason="silent")


def units(store):
    change(store, units="1 2 3", units_crc32=zlib.crc32(b"1 2 4"))


def other_units(store):
    change(store, units="1 -2", units_crc32=zlib.crc32(b"1 -2"))


def no_metadata(store):
    (store / "metadata.json").unlink()


def other_metadata(store):
    (store / "metadata.json").write_text('{"format": 2}')


def names_of_another(store):
    lines = records(store)
    saved_line(lines)["files"] = next(line for line in lines if line["id"] == "5.wav")["files"]
    rewrite(store, lines)


def no_files(store):
    change(store, files=None)


LINES = {
    torn: "torn_line",
    no_json: "bad_line",
    twice: "twice",
    other_shard: "wrong_shard",
    two_divisions: "wrong_shard",
    no_reason: "bad_reason",
    saved_with_reason: "bad_reason",
    units: "wrong_units",
    other_units: "wrong_units",
    no_metadata: "bad_metadata",
    other_metadata: "bad_metadata",
    no_files: "wrong_name",
}


@pytest.mark.parametrize("layout", ["gpt_sovits", "webdataset"], scope="module")
@pytest.mark.parametrize("damage", LINES, ids=lambda damage: damage.__name__)
def test_what_is_wrong_with_lines_is_found(store, layout, found, damage):
    damage(store)
    assert LINES[damage] in found(store)


def test_an_utterance_without_a_line_is_found_by_the_list(store, layout, found, tmp_path):
    (tmp_path / "ids").write_text("4.wav\nnever.wav\n录音 (2)/3.b.wav\n", "utf8")
    assert found(store, "--list", str(tmp_path / "ids")) == {"no_line": 1}


def test_an_utterance_without_a_line_is_found_by_the_note_of_the_run(store, layout, found):
    ledger = store / "ledger.jsonl"
    _first, *rest = ledger.read_bytes().splitlines(keepends=True)
    ledger.write_bytes(b"".join(rest))
    assert found(store, "--ignore", "stray")["no_line"] == 1


def test_ids_of_any_characters_are_noted(run, layout, tmp_path, clips, found):
    for name in ("a\r.wav", "b\n.wav", os.fsdecode(b"c\xff.wav")):
        shutil.copy(clips / "0.wav", tmp_path / name)
    store = tmp_path / "store"
    assert run(layout, store, f"dataset.path={tmp_path}", "store.audio=none") in (0, 1)
    assert found(store) == {}
    (store / "ledger.jsonl").write_bytes(b"")
    assert found(store, "--ignore", "stray")["no_line"] == 3


def test_a_part_that_had_no_run_is_found(run, layout, tmp_path, found):
    store = tmp_path / "store"
    for part in (0, 2):
        run(layout, store, "shard.count=3", f"shard.index={part}")
    assert found(store) == {"no_run": 1}
    run(layout, store, "shard.count=3", "shard.index=1")
    assert found(store) == {}
    run(layout, store, "shard.count=2", "shard.index=0")
    assert found(store) == {"no_run": 1}
    run(layout, store)
    assert found(store) == {}


def test_a_recording_that_is_listed_no_longer_is_not_missed(run, layout, tmp_path, clips, found):
    shutil.copytree(clips, folder := tmp_path / "in")
    store = tmp_path / "store"
    run(layout, store, f"dataset.path={folder}", "shard.count=2", "shard.index=0")
    for path in folder.rglob("*.wav"):
        if path.name != "1.wav":
            path.unlink()
    run(layout, store, f"dataset.path={folder}")
    assert "no_line" not in found(store)


def test_a_store_without_a_note_is_said_to_be_without(store, layout, capsys):
    for path in (store / ".extract").glob("listed*"):
        path.unlink()
    assert audit.main([str(store)]) == 0
    assert "no run has noted its list here" in capsys.readouterr().out


# --- files of one utterance -----------------------------------------------------------------------


def flipped(store):
    path, at, size = first_file(store)
    data = bytearray(path.read_bytes())
    data[at + size // 2] ^= 1
    path.write_bytes(data)


def cut_off(store):
    path, _at, _size = first_file(store)
    os.truncate(path, path.stat().st_size // 3)


def gone(store):
    first_file(store)[0].unlink()


def a_folder(store):
    gone(store)
    first_file(store)[0].mkdir()


def a_link(store):
    path, _at, _size = first_file(store)
    path.rename(store.parent / "elsewhere")
    path.symlink_to(store.parent / "elsewhere")


def rubbish(store):
    put(store, b"rubbish")


def not_finite(store):
    values = features(store).clone()
    values[-1, -1] = float("nan")
    saved_as(store, values)


def one_frame_less(store):
    saved_as(store, features(store)[:-1])


def consistent_but_short(store):
    """File and line agree, and the audio says otherwise."""
    values = features(store)[:-1]
    saved_as(store, values)
    change(store, num_frames=len(values))


def narrower(store):
    saved_as(store, features(store)[:, :-1])


def other_dtype(store):
    saved_as(store, features(store).half())


def stray(store):
    path, _at, _size = first_file(store)
    shutil.copy(path, path.with_name(f"9.wav{''.join(path.suffixes[1:])}"))


def unfinished(store):
    path, _at, _size = first_file(store)
    (path.parent / ".tmp-4.wav-123-0123abcd").write_bytes(b"")


def unfinished_beside_the_ledger(store):
    (store / ".tmp-ledger.jsonl-12-0123abcd").write_bytes(b"")


FILES = {
    flipped: {"wrong_checksum"},
    cut_off: {"wrong_size"},
    gone: {"missing_file"},
    a_folder: {"missing_file"},
    a_link: {"missing_file"},
    rubbish: {"unreadable"},
    not_finite: {"not_finite"},
    one_frame_less: {"wrong_frames"},
    consistent_but_short: {"wrong_frames"},
    narrower: {"wrong_shape"},
    other_dtype: {"wrong_dtype"},
    stray: {"stray"},
    unfinished: {"temporary"},
    unfinished_beside_the_ledger: {"temporary"},
    names_of_another: {"wrong_name", "stray"},
}


@pytest.mark.parametrize(
    "layout", ["gpt_sovits", "npy", "npy_subfolders", "so_vits_svc", "rvc"], scope="module"
)
@pytest.mark.parametrize("damage", FILES, ids=lambda damage: damage.__name__)
def test_what_is_wrong_with_files_is_found_and_nothing_else(store, layout, found, damage):
    damage(store)
    kinds = found(store).keys()
    assert FILES[damage] <= kinds <= FILES[damage] | {"unreadable", "wrong_audio"}


def wav(store):
    return store / "5-wav32k" / "4.wav"


def change_wav(store, data):
    wav(store).write_bytes(data)
    lines = records(store)
    file = saved_line(lines)["files"][1]
    file[2], file[3] = len(data), zlib.crc32(data)
    rewrite(store, lines)


def shorter_wav(store):
    data = wav(store).read_bytes()[:-2000]
    change_wav(
        store,
        data[:4]
        + struct.pack("<I", len(data) - 8)
        + data[8:40]
        + struct.pack("<I", len(data) - 44)
        + data[44:],
    )


def other_rate(store):
    data = bytearray(wav(store).read_bytes())
    data[24:28] = struct.pack("<I", 16_000)
    change_wav(store, bytes(data))


def not_clipped(store):
    change(store, clipped_samples=7)


def no_audio(store):
    lines = records(store)
    del saved_line(lines)["files"][1]
    rewrite(store, lines)


AUDIO = {
    shorter_wav: "wrong_audio",
    other_rate: "unreadable",
    not_clipped: "wrong_audio",
    no_audio: "wrong_audio",
}


@pytest.mark.parametrize("damage", AUDIO, ids=lambda damage: damage.__name__)
def test_what_is_wrong_with_training_audio_is_found(store, layout, found, damage):
    damage(store)
    assert AUDIO[damage] in found(store)


# --- archives -------------------------------------------------------------------------------------


def other_place(store):
    lines = records(store)
    other = next(line for line in lines if line["id"] == "5.wav")["files"][0]
    saved_line(lines)["files"] = [other]
    rewrite(store, lines)


def line_removed(store):
    rewrite(store, [line for line in records(store) if line["id"] != "4.wav"])


def archive_stray(store):
    path, _at, _size = first_file(store)
    shutil.copy(path, path.with_name(f"0-of-1-aaaaaaaa-000000{path.suffix}"))


ARCHIVES = {
    flipped: "wrong_checksum",
    cut_off: "wrong_size",
    gone: "missing_file",
    unfinished: "temporary",
    archive_stray: "stray",
    other_place: "unreadable",
    line_removed: "stray",
}


@pytest.mark.parametrize("layout", ["kaldi", "webdataset"], scope="module")
@pytest.mark.parametrize("damage", ARCHIVES, ids=lambda damage: damage.__name__)
def test_what_is_wrong_with_archives_is_found(store, layout, found, damage):
    damage(store)
    assert ARCHIVES[damage] in found(store)


@pytest.mark.parametrize("layout", ["kaldi"], scope="module")
@pytest.mark.parametrize("name", ["feats.scp", "utt2num_frames"])
@pytest.mark.parametrize(
    "change_list",
    [lambda lines: lines[1:], lambda lines: [*lines, lines[-1]], lambda lines: []],
    ids=["a line less", "a line twice", "empty"],
)
def test_kaldis_lists_are_held_against_the_ledger(store, layout, found, name, change_list):
    lines = (store / name).read_text("utf8").splitlines(keepends=True)
    (store / name).write_text("".join(change_list(lines)), "utf8")
    assert found(store) == {"wrong_index": 1}


@pytest.mark.parametrize("layout", ["kaldi"], scope="module")
def test_a_list_that_names_other_places_is_found_both_ways(store, layout, found):
    first, *others = (store / "feats.scp").read_text("utf8").splitlines(keepends=True)
    (store / "feats.scp").write_text("".join([f"{first[:-1]}1\n", *others]), "utf8")
    assert found(store) == {"wrong_index": 2}


# --- the command ----------------------------------------------------------------------------------


@pytest.mark.each_layout
def test_what_was_broken_is_done_again_after_fix(store, layout, run, found, capsys):
    flipped(store)
    assert found(store) == {"wrong_checksum": 1} or layout in ("kaldi", "webdataset")
    assert audit.main([str(store), "--fix"]) == 1
    assert "1 line removed" in capsys.readouterr().out
    assert all(line["id"] != "4.wav" for line in records(store))
    assert run(layout, store) == 1
    assert found(store) == {}
    assert sum(line["status"] == "saved" for line in records(store)) == NUM


def test_a_line_that_is_none_goes_with_fix(store, layout, found, capsys):
    twice(store)
    no_json(store)
    assert audit.main([str(store), "--fix"]) == 1
    assert "3 lines removed" in capsys.readouterr().out
    assert not (store / "4-cnhubert" / "4.wav.pt").exists()
    assert found(store) == {"no_line": 1}  # until the next run


def test_a_sample_reads_fewer_files_and_all_lines(store, layout, capsys):
    for path in (store / "4-cnhubert").rglob("*.pt"):
        path.write_bytes(bytes(path.stat().st_size))
    assert audit.main([str(store), "--sample", "0"]) == 0
    assert f"{NUM + 1} lines, {NUM} saved, files of 0 read" in capsys.readouterr().out
    no_json(store)
    assert audit.main([str(store), "--sample", "0"]) == 1


def test_what_is_ignored_is_told_and_no_breach(store, layout, capsys):
    stray(store)
    assert audit.main([str(store), "--ignore", "stray"]) == 0
    assert "stray: 1 (ignored)" in capsys.readouterr().out


def test_a_layout_from_outside_is_named_and_not_audited(store, layout, capsys):
    data = json.loads((store / "metadata.json").read_text())
    data["identity"]["layout"] = "theirs"
    (store / "metadata.json").write_text(json.dumps(data))
    assert audit.main([str(store)]) == 0
    assert "files were not audited: the layout theirs" in capsys.readouterr().out


def test_every_kind_of_breach_is_explained_and_seen(store, layout):
    seen = set(LINES.values()) | set(AUDIO.values()) | set(ARCHIVES.values())
    seen |= set().union(*FILES.values()) | {"wrong_index", "no_line", "no_run"}
    assert seen == KINDS.keys()


def test_a_folder_that_is_no_store_is_refused(tmp_path, capsys):
    assert audit.main([str(tmp_path)]) == 2
    assert "no ledger here" in capsys.readouterr().err


def test_a_tar_is_read_as_tarfile_reads_it(tmp_path):
    """The yardstick of the offsets: members that the standard library wrote."""
    from extract.audit.forms import samples

    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("a.json", "a.npy", "__removed__", "b.json", "b.npy"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO(b""))
    with (tmp_path / "a.tar").open("rb") as file:
        assert list(samples(file)) == [(0, "a"), (1536, "b")]
