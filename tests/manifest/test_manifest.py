"""Folders and lists become manifests in which every recording is found exactly once."""

import logging
import os
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from extract.files import TEMPORARY_PREFIX
from extract.manifest.ids import MAX_ID_BYTES, MAX_PART_BYTES, check_id
from extract.manifest.manifest import Manifest
from extract.manifest.sources.folder import read_folder
from extract.manifest.sources.gpt_sovits import clean_path, read_gpt_sovits_list
from extract.text import printable, shortened
from extract.values import Entry, Failure

each_example_may_use_one_folder = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)


# Root may read everything: what may not be read needs a process without that right.
AS_ANYONE = (
    ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
)


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def write_list(folder: Path, *lines: str, encoding: str = "utf-8", end: str = "\n") -> Path:
    path = folder / "train.list"
    path.write_bytes(end.join([*lines, ""]).encode(encoding))
    return path


# --- ids ---------------------------------------------------------------------------------------

PARTS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        ["", ".", "..", "C:", "c:x", "a", "你好.wav", "~", "x" * 251, "x" * 252, "x" * 253]
    ),
    st.sampled_from(
        [".tmp-", ".tmp-1", ".tmp", "好" * 84, "好" * 85, "a\\b", "\0", "\n", "\udcff"]
    ),
)
IDS = st.lists(PARTS, max_size=5).map("/".join)


@given(IDS)
@example("/etc/passwd")
@example("a/../../b")
@example("C:/x")
@example("a:b")
@example("..")
@each_example_may_use_one_folder
def test_an_accepted_id_names_a_new_file_inside_the_store(tmp_path, name):
    if check_id(name) is not None:
        return
    assert not any(part.startswith(TEMPORARY_PREFIX) for part in name.split("/"))
    with tempfile.TemporaryDirectory(dir=tmp_path) as store:
        for suffix in ("", ".pt"):
            path = Path(f"{store}/{name}{suffix}")
            assert str(path) == os.path.normpath(path) == f"{store}/{name}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")


@pytest.mark.parametrize(
    "name",
    [
        "a.wav",
        "speaker one/a.wav",
        "你好/再见.wav",
        "a/.hidden",
        "..a",
        "a..",
        "x" * 252,
        "ab:c",
        "a:b.wav",
        "Q: why.wav",
        "C:/x",
        "s/a:b.wav",
        "a ",
        "\u202egnp.wav",
    ],
)
def test_ordinary_ids_are_accepted(name):
    assert check_id(name) is None


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "names no file"),
        (".", "names no file"),
        ("a//b", "names no file"),
        ("a/", "names no file"),
        ("../a", "names no file"),
        ("a/../b", "names no file"),
        ("/a", "absolute"),
        ("a\\b", "not safe"),
        ("a\0", "not safe"),
        ("a\x85", "not safe"),
        ("a\udce9", "not safe"),
        ("x" * 253, "253 bytes; at most 252"),
        ("好" * 85, "255 bytes; at most 252"),
        ("/".join(["x" * 200] * 20), "at most 4000"),
        (".tmp-1/a", "unfinished"),
        ("a/.tmp-", "unfinished"),
    ],
)
def test_an_unsafe_id_is_refused_with_its_reason(name, problem):
    assert problem in check_id(name)


def test_the_longest_ids_are_accepted_and_one_byte_more_is_not():
    name = "/".join(["x" * MAX_PART_BYTES] * 15)
    name += "/" + "y" * (MAX_ID_BYTES - len(name) - 1)
    assert check_id(name) is None
    assert check_id(name + "y") is not None


@given(st.text(), st.text())
@example("\n", "\\n")
def test_what_is_printed_for_two_texts_differs_as_they_do(a, b):
    assert printable(a).isprintable()
    printable(a).encode()
    assert (printable(a) == printable(b)) == (a == b)


@pytest.mark.parametrize("text", ["\u202e", "\u2028", "\u2029", "\u200f", "\x85", "\x1b[2J"])
def test_a_message_shows_what_a_terminal_would_obey(text):
    assert printable(f"a{text}.wav").startswith("a\\")
    assert shortened(f"a{text}.wav") == printable(f"a{text}.wav")


def test_a_message_holds_the_start_of_a_long_text():
    assert shortened("x" * 200) == "x" * 200
    assert shortened("\n" * 1_234_567) == "\\n" * 200 + "... and 1,234,367 characters more"


# --- manifests ---------------------------------------------------------------------------------


def test_a_manifest_is_a_sequence_of_its_entries():
    entries = [Entry("b.wav", "/x/b.wav"), Entry("a/a.wav", "/y"), Entry("c", "\udcff")]
    manifest = Manifest.from_entries(iter(entries), "/source")
    assert list(manifest) == [manifest[0], manifest[1], manifest[2]] == entries
    assert list(manifest[1:]) == list(manifest.subset([1, 2])) == entries[1:]
    assert manifest[-1] == entries[-1]
    assert manifest.source == manifest.subset([]).source == "/source"
    assert len(manifest) == 3


def test_a_bad_id_is_a_fault_and_its_neighbours_stay():
    manifest = Manifest.from_entries([Entry("a", "/a"), Entry("../b", "/b"), Entry("c", "/c")])
    assert list(manifest.ids) == ["a", "c"]
    assert manifest.failures == (
        Failure.of_source(
            "../b", "/b", "bad_id", "'../b' cannot name a file: the part '..' names no file"
        ),
    )


def test_the_faults_stay_with_the_whole():
    manifest = Manifest.from_entries([Entry("a", "/a"), Entry("..", "/b")])
    assert manifest.subset([0]).failures == ()
    assert len(manifest.share().failures) == 1


def test_two_recordings_of_one_id_are_named_before_any_work():
    entries = [Entry("a.wav", "/one/a.wav"), Entry("b.wav", "/b.wav"), Entry("a.wav", "/two/a.wav")]
    with pytest.raises(
        ValueError, match=r"(?s)x\.list: .* 1 pair:.*a\.wav: /one/a\.wav and /two/a\.wav"
    ):
        Manifest.from_entries(entries, "x.list")


@pytest.mark.parametrize(
    ("file", "inside"), [("a", "a/b"), ("a", "a.pt/b"), ("a/b", "a/b/c/d/e"), ("a/b", "a/b.pt/c")]
)
@pytest.mark.parametrize("file_comes_first", [True, False])
def test_a_file_where_another_id_needs_a_folder_is_named_before_any_work(
    file, inside, file_comes_first
):
    ids = [file, inside] if file_comes_first else [inside, file]
    entries = [
        Entry("y/z", "/y"),
        *(Entry(name, "/path/" + name) for name in ids),
        Entry("z/z", "/z"),
    ]
    with pytest.raises(ValueError, match=f"{file} and {inside}: /path/{file} and /path/{inside}"):
        Manifest.from_entries(entries)


@pytest.mark.parametrize("ids", [("x", "x.pt"), ("a.wav", "A.wav"), ("a/b", "a.b"), ("ab", "a/b")])
def test_ids_that_only_look_alike_live_side_by_side(ids):
    assert len(Manifest.from_entries(Entry(name, "/" + name) for name in ids)) == 2


def test_ten_clashes_are_shown_and_the_others_counted():
    entries = [Entry(f"{i % 40}", f"/{i}") for i in range(80)]
    with pytest.raises(ValueError, match="40 pairs:") as caught:
        Manifest.from_entries(entries)
    lines = str(caught.value).splitlines()
    assert lines[1:3] == ["  0: /0 and /40", "  1: /1 and /41"]
    assert lines[11] == "  and 30 more"


def test_a_recording_listed_twice_is_kept_once(tmp_path, caplog):
    touch(tmp_path, "a.wav")
    (tmp_path / "link.wav").symlink_to(tmp_path / "a.wav")
    names = ["a.wav", "b.wav", "a.wav", "./a.wav", "link.wav"]
    entries = [Entry(name[-5:], f"{tmp_path}/{name}") for name in names[:-1]]
    entries += [Entry("a.wav", f"{tmp_path}/link.wav"), Entry("..", "/bad")]
    with caplog.at_level(logging.INFO):
        manifest = Manifest.from_entries(entries)
    assert list(manifest) == entries[:2]
    assert len(manifest.failures) == 1
    assert "3 entries listed again" in caplog.text


@given(st.lists(st.sampled_from(["a", "b", "a/b", "a/b/c", "a.pt", "a.pt/b", "b.pt", "c/d"])))
def test_clashes_are_found_exactly_when_files_would_meet(ids):
    files = {name: {name, f"{name}.pt"} for name in ids}
    clash = len(set(ids)) < len(ids) or any(
        inside.startswith(f"{file}/") for a in ids for file in files[a] for inside in ids
    )
    try:
        Manifest.from_entries(Entry(name, f"/{i}") for i, name in enumerate(ids))
    except ValueError:
        assert clash
    else:
        assert not clash


PARTS = ["a", "b", "A", "a.pt", "B.PT", "a/b", "a/b/c", "a.pt/b", "b.pt", "c/d", "a/B/x"]


@given(st.lists(st.sampled_from(PARTS), max_size=12), st.booleans())
def test_of_recordings_whose_files_meet_the_first_is_taken_and_the_later_one_fails(ids, folds):
    """One after the other, as a run would write them: what meets a file that is there fails."""
    written, taken = set(), []
    for number, name in enumerate(ids):
        key = name.lower() if folds else name
        files = {key, f"{key}.pt"}
        meets = (files & {f"{above}" for above in written if above == key}) or any(
            one.startswith(f"{other}/") or other.startswith(f"{one}/")
            for one in files
            for above in written
            for other in (above, f"{above}.pt")
        )
        if not meets:
            written.add(key)
            taken.append((name, f"/{number}"))
    manifest = Manifest.from_entries(
        [Entry(name, f"/{number}") for number, name in enumerate(ids)],
        folds_case=folds,
        duplicates_fail=True,
    )
    assert [(entry.id, entry.path) for entry in manifest] == taken
    failed = [failure.recording.path for failure in manifest.failures]
    assert failed == [f"/{n}" for n in range(len(ids)) if (ids[n], f"/{n}") not in taken]
    assert {failure.reason for failure in manifest.failures} <= {"duplicate_name"}


def test_a_duplicate_is_known_by_its_path_and_names_the_one_that_was_taken():
    cuts = [("a", "/x", 0.0, 1.0), ("b", "/y", 0.0, None), ("a", "/x", 2.0, 1.0), ("a", "/x", 0, 1)]
    manifest = Manifest.from_entries(
        [Entry(*cut) for cut in [*cuts, ("b", "/\udcff", 0.0, None), ("b", "/y", 0.0, None)]],
        duplicates_fail=True,
    )
    assert list(manifest) == [Entry(*cut) for cut in cuts[:2]]
    first, second = manifest.failures
    assert first == Failure.of_source(
        "/x from 2 s for 1 s",
        "/x from 2 s for 1 s",
        "duplicate_name",
        "/x from 2 s for 1 s: would write the same file as /x from 0 s for 1 s, which comes first",
    )
    assert second.recording.id == "/\\udcff from 0 s"
    assert second.detail.isprintable()


def test_a_manifest_costs_little_more_than_its_bytes():
    num_entries = 30_000
    names = (f"speaker{i // 100:04d}/{i:07d}.wav" for i in range(num_entries))
    Manifest.from_entries([Entry("a", "a")])  # what is loaded once, at the first use
    tracemalloc.start()
    manifest = Manifest.from_entries(Entry(name, f"/corpus/{name}") for name in names)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(manifest) == num_entries
    assert kept < 90 * num_entries  # bytes: 23 + 31 of text, 8 + 8 of offsets, the buffers' slack
    assert peak < 160 * num_entries  # a million entries stay below 200 MB while they are checked


# --- folders -----------------------------------------------------------------------------------


def test_a_folder_is_read_to_its_depth_in_one_order(tmp_path):
    touch(tmp_path, "b.wav", "a.wav", "z/1.flac", "B/2.MP3", "B/c/3.ogg", "你好/4.wav", "a b/5.m4a")
    manifest = read_folder(tmp_path)
    assert list(manifest.ids) == [
        *("a.wav", "b.wav", "B/2.MP3", "B/c/3.ogg", "a b/5.m4a", "z/1.flac", "你好/4.wav")
    ]
    assert list(manifest.paths) == [f"{tmp_path}/{name}" for name in manifest.ids]
    assert manifest.source == str(tmp_path)
    assert manifest.failures == ()


def test_other_files_and_hidden_ones_are_left_out_and_counted(tmp_path, caplog):
    touch(tmp_path, "a.wav", ".b.wav", ".git/c.wav", "d.txt", "wav", "e.wav.part", "f/g.json")
    with caplog.at_level(logging.INFO):
        assert list(read_folder(tmp_path).ids) == ["a.wav"]
    assert "4 files left out" in caplog.text


def test_one_is_not_said_in_the_plural(tmp_path, caplog):
    touch(tmp_path, "a.wav", "d.txt")
    with caplog.at_level(logging.INFO):
        read_folder(tmp_path)
    assert "1 file left out" in caplog.text
    [fault] = read_gpt_sovits_list(write_list(tmp_path, "/a.wav|s|zh|a", "/b.wav")).failures
    assert "1 field;" in fault.detail


@pytest.mark.parametrize(
    ("extensions", "ids"),
    [
        ([], ["a.wav", "b.TXT", "c"]),
        (None, ["a.wav", "b.TXT", "c"]),
        ([".txt"], ["b.TXT"]),
        (["TXT", "wav"], ["a.wav", "b.TXT"]),
    ],
)
def test_extensions_choose_the_files(tmp_path, extensions, ids):
    touch(tmp_path, "a.wav", "b.TXT", "c")
    assert list(read_folder(tmp_path, extensions).ids) == ids


def test_a_folder_costs_its_names_once(tmp_path):
    touch(tmp_path, "a.wav", "b/c.wav")
    for manifest in (read_folder(tmp_path), read_folder(tmp_path).share()):
        assert manifest.paths.shares_arrays(manifest.ids)
        assert manifest.subset([1]).paths.shares_arrays(manifest.subset([1]).ids) is False
        assert manifest.subset([1])[0] == Entry("b/c.wav", f"{tmp_path}/b/c.wav")


def test_a_loop_of_links_ends_and_linked_folders_are_read(tmp_path):
    corpus, elsewhere = tmp_path / "corpus", tmp_path / "elsewhere"
    touch(tmp_path, "corpus/real/a.wav", "elsewhere/b.wav", "elsewhere/deep/c.wav")
    (corpus / "a_link").symlink_to(corpus / "real")  # found under its real name alone
    (corpus / "real" / "up").symlink_to(corpus)
    (corpus / "there").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(corpus)
    (corpus / "itself").symlink_to(corpus / "itself")
    assert list(read_folder(corpus).ids) == ["real/a.wav", "there/b.wav", "there/deep/c.wav"]


def test_what_cannot_be_a_recording_is_listed_and_never_opened(tmp_path):
    touch(tmp_path, "a.wav")
    os.mkfifo(tmp_path / "b.wav")  # whoever opened it would wait for ever
    (tmp_path / "c.wav").symlink_to(tmp_path / "nothing")
    (tmp_path / "d.wav").symlink_to("/dev/zero")
    (tmp_path / "e.wav").symlink_to("e.wav")
    assert list(read_folder(tmp_path).ids) == ["a.wav", "b.wav", "c.wav", "d.wav", "e.wav"]


def test_a_name_that_is_not_unicode_is_a_fault_that_can_be_printed(tmp_path):
    touch(tmp_path, "a.wav")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav")).touch()
    manifest = read_folder(tmp_path)
    assert list(manifest.ids) == ["a.wav"]
    (fault,) = manifest.failures
    assert (fault.recording.id, fault.reason) == (r"caf\udce9.wav", "bad_id")
    assert os.fsencode(fault.recording.path).endswith(b"/caf\xe9.wav")
    assert fault.detail.isprintable()


def test_a_folder_that_cannot_be_read_is_a_fault_and_the_others_go_on(tmp_path, monkeypatch):
    touch(tmp_path, "a/1.wav", "b/2.wav")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("/a/"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    manifest = read_folder(tmp_path)
    assert list(manifest.ids) == ["b/2.wav"]
    fault = Failure.of_source("a/", f"{tmp_path}/a/", "unreadable_folder", "Permission denied")
    assert manifest.failures == (fault,)


def test_a_folder_that_is_none_is_the_users_mistake(tmp_path):
    touch(tmp_path, "file")
    for path in (tmp_path / "file", tmp_path / "none", "", "~no one/x", "x" * 5000):
        with pytest.raises(ValueError, match="no such folder; looked for /"):
            read_folder(path)


def test_a_folder_without_recordings_says_what_was_looked_for(tmp_path):
    touch(tmp_path, "a.txt")
    with pytest.raises(ValueError, match=r"\.flac.*\.wav.*found 1 other; dataset\.extensions"):
        read_folder(tmp_path)


def test_relative_folders_become_absolute(tmp_path, monkeypatch):
    touch(tmp_path, "corpus/a.wav")
    monkeypatch.chdir(tmp_path)
    assert list(read_folder("corpus/").paths) == [f"{tmp_path}/corpus/a.wav"]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert list(read_folder("~/corpus").paths) == [f"{tmp_path}/corpus/a.wav"]


@pytest.mark.parametrize(
    "spelling", ["corpus/", "./corpus", "corpus//", "other/../corpus", "link", "link/", "~/corpus"]
)
def test_one_folder_is_one_source_however_it_is_spelled(tmp_path, monkeypatch, spelling):
    touch(tmp_path, "corpus/s/a.wav", "other/b.wav")
    (tmp_path / "link").symlink_to("corpus")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    manifest = read_folder(spelling)
    assert manifest.source == f"{tmp_path}/corpus"
    assert list(manifest) == [Entry("s/a.wav", f"{tmp_path}/corpus/s/a.wav")]


def test_a_root_that_is_not_unicode_is_read(tmp_path):
    root = os.fsdecode(os.fsencode(tmp_path) + b"/\xd3\xef\xd2\xf4")
    touch(Path(root), "a.wav")
    manifest = read_folder(root)
    assert list(manifest) == [Entry("a.wav", f"{root}/a.wav")]
    with pytest.raises(ValueError, match=r"no recordings") as caught:
        read_folder(root, ["mp3"])
    assert str(caught.value).isprintable()


# --- lists -------------------------------------------------------------------------------------


def test_a_list_gives_an_entry_a_line_named_by_the_file(tmp_path):
    path = write_list(tmp_path, "/x/b.wav|s|zh|一|二|三", "", "   ", "/y z/a.flac|s|en|")
    manifest = read_gpt_sovits_list(path)
    assert list(manifest) == [Entry("b.wav", "/x/b.wav"), Entry("a.flac", "/y z/a.flac")]
    assert manifest.failures == ()
    assert manifest.source == str(path)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    "encoding",
    ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "gb18030", "gb18030 mark"],
)
def test_every_common_encoding_and_line_end_is_read(tmp_path, encoding, end, caplog):
    encoding, _, with_mark = encoding.partition(" ")
    mark = "\ufeff" if with_mark or encoding in ("utf-16-le", "utf-16-be") else ""
    lines = [f"{mark}/语音/你好.wav|说话人|zh|你好", "/语音/再见.wav|说话人|zh|再|见"]
    with caplog.at_level(logging.INFO):
        manifest = read_gpt_sovits_list(write_list(tmp_path, *lines, encoding=encoding, end=end))
    assert list(manifest.paths) == ["/语音/你好.wav", "/语音/再见.wav"]
    assert list(manifest.ids) == ["你好.wav", "再见.wav"]
    assert manifest.failures == ()
    assert ("GB18030" in caplog.text) == (encoding == "gb18030")


def test_a_list_in_no_known_encoding_names_the_line(tmp_path):
    path = tmp_path / "bad.list"
    path.write_bytes(b"/a.wav|s|zh|a\n/\xff\xff.wav|s|zh|b\n")
    with pytest.raises(ValueError, match="line 2 is not UTF-8 and line 2 is not GB18030"):
        read_gpt_sovits_list(path)
    path.write_bytes("/a.wav|s|zh|a\n".encode("utf-16") + b"\x00\xd8\n\x00")
    with pytest.raises(ValueError, match="line 2 is not UTF-16"):
        read_gpt_sovits_list(path)


def test_one_damaged_line_does_not_turn_a_utf8_list_into_another_encoding(tmp_path):
    lines = [f"/语音{i}.wav|s|zh|好好".encode() for i in range(9)]
    path = tmp_path / "bad.list"
    path.write_bytes(b"\n".join([*lines, "/语音.wav|s|zh|好".encode("gb18030")]))
    with pytest.raises(ValueError, match="line 10 is not UTF-8; save"):
        read_gpt_sovits_list(path)


def test_a_line_of_too_few_fields_is_a_failure_with_its_number(tmp_path):
    manifest = read_gpt_sovits_list(
        write_list(tmp_path, "/a.wav|s|zh|a", "", "/b.wav|s|zh", "|s|zh|")
    )
    assert list(manifest.ids) == ["a.wav"]
    first, second = manifest.failures
    assert (first.recording.id, first.recording.path, first.reason) == (
        "train.list:3",
        "/b.wav",
        "bad_line",
    )
    assert "line 3: 3 fields" in first.detail
    assert (second.recording.id, second.reason) == ("train.list:4", "bad_line")
    assert "line 4: no path" in second.detail


def test_a_hostile_path_in_a_list_is_a_failure_with_its_number(tmp_path):
    manifest = read_gpt_sovits_list(
        write_list(tmp_path, "/a/..|s|zh|a", "/a\0b.wav|s|zh|b", "c|||")
    )
    assert list(manifest.ids) == ["c"]
    assert [(fault.recording.id, fault.reason) for fault in manifest.failures] == [
        ("train.list:1", "bad_id"),
        ("train.list:2", "bad_id"),
    ]
    assert "line 2" in manifest.failures[1].detail


@pytest.mark.parametrize(
    "written",
    [
        '"/x/a b.wav"',
        " /x/a b.wav ",
        "'/x/a b.wav'",
        "\u202a/x/a b.wav",
        "/x/a b.wav/",
        '"/x/a b.wav\\" ',
    ],
)
def test_quotes_blanks_and_slashes_around_a_path_are_cut_off(tmp_path, written):
    manifest = read_gpt_sovits_list(write_list(tmp_path, f"{written}|s|zh|a"))
    assert list(manifest) == [Entry("a b.wav", "/x/a b.wav")]


@given(st.text(alphabet="ab/\\ '\"\u202a."))
def test_clean_path_agrees_with_the_one_of_gpt_sovits(text):
    def reference(path_str):  # tools/my_utils.py
        if path_str.endswith(("\\", "/")):
            return reference(path_str[0:-1])
        path_str = path_str.replace("/", os.sep).replace("\\", os.sep)
        return path_str.strip(" '\n\"\u202a")

    cleaned = reference(text)
    if not cleaned.endswith("/"):  # where it leaves a slash, the file's name would be lost
        assert clean_path(text) == cleaned
    assert clean_path(clean_path(text)) == clean_path(text)


def test_windows_paths_keep_their_drive_and_give_their_name(tmp_path):
    touch(tmp_path, "a.wav")
    path = write_list(tmp_path, r'"D:\data\a.wav"|s|zh|a')
    assert list(read_gpt_sovits_list(path)) == [Entry("a.wav", "D:/data/a.wav")]
    assert list(read_gpt_sovits_list(path, tmp_path)) == [Entry("a.wav", f"{tmp_path}/a.wav")]


def test_audio_dir_replaces_the_written_folder(tmp_path):
    path = write_list(tmp_path, "/gone/a.wav|s|zh|a", "b.wav|s|zh|b", "../c/d.wav|s|zh|d")
    manifest = read_gpt_sovits_list(path, tmp_path)
    assert list(manifest.paths) == [f"{tmp_path}/{name}" for name in ("a.wav", "b.wav", "d.wav")]


def test_relative_paths_start_at_the_working_folder_then_at_the_list(tmp_path, monkeypatch):
    touch(tmp_path, "work/wav/a.wav", "lists/wav/a.wav", "lists/wav/b.wav")
    path = write_list(tmp_path / "lists", *(f"wav/{name}.wav|s|zh|" for name in "abc"))
    monkeypatch.chdir(tmp_path / "work")
    assert list(read_gpt_sovits_list(path).paths) == [
        f"{tmp_path}/work/wav/a.wav",
        f"{tmp_path}/lists/wav/b.wav",
        f"{tmp_path}/work/wav/c.wav",  # nowhere: named where it was to be expected
    ]


@pytest.mark.parametrize("name", ["'a'.wav'", 'a.wav"', "x\\y/a.wav", "a.wav "])
def test_a_path_that_exists_as_written_is_not_cleaned(tmp_path, name):
    touch(tmp_path, name)
    path = write_list(tmp_path, f"{tmp_path}/{name}|s|zh|a")
    expected = Entry(name.rpartition("/")[2], f"{tmp_path}/{name}")
    assert list(read_gpt_sovits_list(path)) == [expected]
    if "/" not in name:
        assert list(read_gpt_sovits_list(path, tmp_path)) == [expected]


def test_two_folders_with_one_file_name_are_named(tmp_path):
    path = write_list(tmp_path, "/one/a.wav|s|zh|a", "/two/a.wav|s|zh|a")
    with pytest.raises(ValueError, match=r"a\.wav: /one/a\.wav and /two/a\.wav"):
        read_gpt_sovits_list(path)


def test_a_list_that_is_none_is_the_users_mistake(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "none", tmp_path / "fifo", "/dev/zero"):
        with pytest.raises(ValueError, match="no such list"):
            read_gpt_sovits_list(path)
    path = write_list(tmp_path, "", " ")
    with pytest.raises(ValueError, match=r"train\.list: no lines; needed: wav\|speaker"):
        read_gpt_sovits_list(path)
    with pytest.raises(ValueError, match="no such folder"):
        read_gpt_sovits_list(path, tmp_path / "none")


def test_one_list_is_one_source_however_it_is_spelled(tmp_path, monkeypatch):
    touch(tmp_path, "lists/wav/a.wav", "wavs/b.wav", "other/c.wav")
    path = write_list(tmp_path / "lists", "wav/a.wav|s|zh|")
    (tmp_path / "link").symlink_to("lists")
    monkeypatch.chdir(tmp_path)
    for spelling in ("lists/train.list", "other/../lists/train.list", "link/train.list"):
        manifest = read_gpt_sovits_list(spelling)
        assert manifest.source == str(path)
        assert list(manifest.paths) == [f"{tmp_path}/lists/wav/a.wav"]
    (manifest,) = [read_gpt_sovits_list(path, "other/../wavs")]
    assert list(manifest.paths) == [f"{tmp_path}/wavs/a.wav"]


def test_a_linked_list_has_its_relative_paths_beside_the_link(tmp_path, monkeypatch):
    touch(tmp_path, "corpus/wav/a.wav")
    path = write_list(tmp_path, "wav/a.wav|s|zh|")
    (tmp_path / "corpus" / "train.list").symlink_to(path)
    monkeypatch.chdir("/")
    manifest = read_gpt_sovits_list(tmp_path / "corpus" / "train.list")
    assert list(manifest.paths) == [f"{tmp_path}/corpus/wav/a.wav"]
    assert manifest.source == str(path)


@pytest.mark.skipif(AS_ANYONE != [] and not shutil.which("setpriv"), reason="root reads all")
def test_a_list_without_the_right_to_read_it_is_the_users_mistake(tmp_path):
    path = write_list(tmp_path, "a.wav|s|zh|")
    path.chmod(0)
    code = (
        "import sys; from extract.manifest.sources.gpt_sovits import read_gpt_sovits_list\n"
        "try: read_gpt_sovits_list(sys.argv[1])\n"
        "except ValueError as error: print(error)"
    )
    said = subprocess.run(
        [*AS_ANYONE, sys.executable, "-c", code, path], capture_output=True, text=True, check=False
    )
    assert said.stdout == f"{path}: cannot be read: Permission denied\n", said.stderr


def test_a_colon_in_a_name_makes_no_drive_of_it(tmp_path, monkeypatch):
    touch(tmp_path, "a:b.wav")
    monkeypatch.chdir(tmp_path)
    path = write_list(tmp_path, "a:b.wav|s|zh|")
    assert list(read_gpt_sovits_list(path)) == [Entry("a:b.wav", f"{tmp_path}/a:b.wav")]


def test_a_line_that_cannot_be_a_path_is_a_fault_and_not_kept_whole(tmp_path):
    long = "x" * 10_000_000
    path = write_list(
        tmp_path,
        f"{long}|s|zh|a",
        f"/{long[:9_000]}/b.wav|s|zh|b",
        long,
        f"{' ' * 2_000_000}c.wav|s|zh|c",
        f"d.wav|s|zh|{long}",
        "/nul\0l/e.wav|s|zh|e",
        f"{long[:4_000]}|s|zh|a",
        "/f.wav|s|zh|f",
    )
    manifest = read_gpt_sovits_list(path)
    assert list(manifest.ids) == ["d.wav", "f.wav"]
    assert [fault.recording.id for fault in manifest.failures] == [
        f"train.list:{n}" for n in (1, 2, 3, 4, 6, 7)
    ]
    assert [fault.reason for fault in manifest.failures] == [*5 * ["bad_line"], "bad_id"]
    assert all(
        len(fault.recording.path) < 4_096 and len(fault.detail) < 400 for fault in manifest.failures
    )
    assert "1 field in the first 65,536 characters" in manifest.failures[0].detail
    assert "9,007 bytes; at most 4,095" in manifest.failures[1].detail
    assert "null character" in manifest.failures[4].detail


def test_a_file_without_line_ends_is_not_held_whole(tmp_path):
    path = tmp_path / "no.list"
    path.write_bytes(b"x" * 30_000_000)
    tracemalloc.start()
    manifest = read_gpt_sovits_list(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(manifest.failures) == 1
    assert peak < 15_000_000


def test_what_a_line_tells_a_terminal_to_do_is_shown_instead(tmp_path):
    path = write_list(tmp_path, "\u202e\x1b[2J.wav|\u2028s", "/x/\u2028.wav|s|zh|")
    manifest = read_gpt_sovits_list(path)
    assert list(manifest.ids) == ["\u2028.wav"]  # such a name works, and so it stays
    assert all(fault.detail.isprintable() for fault in manifest.failures)


LINES = st.one_of(
    st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"])),
    st.lists(st.text("ab/\\. '\"|\0你\u202a"), min_size=4, max_size=6).map("|".join),
)


@given(
    lines=st.lists(LINES, max_size=8),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "gb18030"]),
    elsewhere=st.booleans(),
)
@example(["/x/a/|s|zh|a"], "utf-8", True)
@each_example_may_use_one_folder
def test_every_line_ends_as_one_entry_or_one_fault(tmp_path, lines, encoding, elsewhere):
    lines = [f"{i}{line}" if line.strip() else "" for i, line in enumerate(lines)]
    lines = [
        re.sub(r"(/?)\|", rf"_{i}\1|", line, count=1) for i, line in enumerate(lines)
    ]  # names of their own
    path = write_list(tmp_path, "/first.wav|s|zh|a", *lines, encoding=encoding)
    try:
        manifest = read_gpt_sovits_list(path, tmp_path if elsewhere else None)
    except ValueError:
        assert encoding == "gb18030"  # what could be damaged UTF-8 as well is not guessed at
        return
    assert manifest.ids[0] == "first.wav"
    num_lines = 1 + sum(bool(line.strip()) for line in lines)
    assert len(manifest) + len(manifest.failures) == num_lines
    assert len({*manifest.ids, *(fault.recording.id for fault in manifest.failures)}) == num_lines


@given(st.lists(st.text("你a |", min_size=1).map(str.strip), min_size=1))
@each_example_may_use_one_folder
def test_bars_in_the_text_never_reach_the_path(tmp_path, texts):
    path = write_list(tmp_path, *(f"/x/{i}.wav|s|zh|{text}" for i, text in enumerate(texts)))
    assert list(read_gpt_sovits_list(path).paths) == [f"/x/{i}.wav" for i in range(len(texts))]


def test_a_manifest_can_be_pickled(tmp_path):
    touch(tmp_path, "a.wav")
    manifest = pickle.loads(pickle.dumps(read_folder(tmp_path)))
    assert list(manifest) == [Entry("a.wav", f"{tmp_path}/a.wav")]
    assert manifest.paths.shares_arrays(manifest.ids)
