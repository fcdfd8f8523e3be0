"""The lists of other tools: what each line becomes, and which lines are lost."""

import json
import os
import random
import tracemalloc
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extract import systems
from extract.manifest.ids import check_id
from extract.manifest.manifest import Manifest
from extract.manifest.places import check_path
from extract.manifest.source import Output
from extract.manifest.sources import csv, jsonl, kaldi, tsv
from extract.manifest.sources.csv import read_csv
from extract.manifest.sources.jsonl import read_jsonl
from extract.manifest.sources.kaldi import read_kaldi
from extract.manifest.sources.tsv import read_tsv
from extract.values import Entry, Failure
from support.windows import Seen

one_folder = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)


def write(path: Path, *lines: str, encoding: str = "utf-8", end: str = "\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(end.join([*lines, ""]).encode(encoding))
    return path


def touch(root: Path, *names: str) -> None:
    for name in names:
        write(root / name)


def failures(manifest) -> dict[str, str]:
    """What is said of each bad line, by the ledger's id of it."""
    assert {failure.reason for failure in manifest.failures} <= {"bad_line", "bad_id"}
    return {failure.recording.id: failure.detail for failure in manifest.failures}


# --- jsonl ---------------------------------------------------------------------------------------


def write_jsonl(path: Path, *objects) -> Path:
    return write(path, *(json.dumps(one, ensure_ascii=False) for one in objects))


def test_a_nemo_manifest_of_whole_files_gives_whole_files(tmp_path):
    lines = [{"audio_filepath": f"/c/{n}.wav", "duration": 3.21, "text": "你好"} for n in range(3)]
    manifest = read_jsonl(write_jsonl(tmp_path / "m.jsonl", *lines))
    extra = '{"text":"你好"}'
    assert list(manifest) == [Entry(f"{n}.wav", f"/c/{n}.wav", extra=extra) for n in range(3)]
    assert manifest.cuts is None
    assert manifest.source == str(tmp_path / "m.jsonl")


def test_an_offset_makes_a_cut_also_where_it_is_zero(tmp_path):
    times = [(0, 1.5), (1.5, 2), (3.5, None), ("0.25", "1.0005"), (0.0, None), (None, 7.0)]
    lines = [{"audio_filepath": "/c/a.wav", "offset": o, "duration": d} for o, d in times[:-1]]
    lines.append({"audio_filepath": "/c/b.wav", "offset": None, "duration": 7.0})
    manifest = read_jsonl(write_jsonl(tmp_path / "m.jsonl", *lines))
    assert list(manifest) == [
        Entry("a.wav-0-1500", "/c/a.wav", 0.0, 1.5),
        Entry("a.wav-1500-3500", "/c/a.wav", 1.5, 2.0),
        Entry("a.wav-3500-end", "/c/a.wav", 3.5, None),
        Entry("a.wav-250-1250", "/c/a.wav", 0.25, 1.0005),
        Entry("a.wav", "/c/a.wav"),
        Entry("b.wav", "/c/b.wav"),
    ]


def test_an_id_of_its_own_is_taken_as_it_is(tmp_path):
    lines = [
        {"audio_filepath": "/c/a.wav", "id": "speaker/1", "offset": 1.0, "duration": 2.0},
        {"audio_filepath": "/c/a.wav", "id": 17},
        {"audio_filepath": "/c/b.wav", "id": ""},
        {"audio_filepath": "/c/c.wav", "id": None},
    ]
    manifest = read_jsonl(write_jsonl(tmp_path / "m.jsonl", *lines))
    assert list(manifest.ids) == ["speaker/1", "17", "b.wav", "c.wav"]


def test_two_cuts_of_one_name_are_named_before_any_work(tmp_path):
    cut = {"audio_filepath": "/c/a.wav", "offset": 1.5, "duration": 2.0}
    path = write_jsonl(tmp_path / "m.jsonl", cut, cut | {"duration": 2.0001})
    said = (
        r"  a\.wav-1500-3500: /c/a\.wav from 1\.5 s for 2 s and /c/a\.wav from 1\.5 s for 2\.0001 s"
    )
    with pytest.raises(ValueError, match=said):
        read_jsonl(path)
    assert len(read_jsonl(write_jsonl(path, cut, cut))) == 1  # listed twice, kept once


def test_the_key_of_the_path_may_be_another(tmp_path):
    path = write_jsonl(tmp_path / "m.jsonl", {"file_name": "/c/a.wav", "units": [1, 2]})
    assert list(read_jsonl(path, "file_name")) == [
        Entry("a.wav", "/c/a.wav", extra='{"units":[1,2]}')
    ]
    assert "audio_filepath: nothing; needed" in failures(read_jsonl(path))["m.jsonl:1"]


BAD_JSON = [
    "no json",
    '{"audio_filepath": "/c/a.wav"',
    '["/c/a.wav"]',
    "17",
    "{}",
    '{"audio_filepath": 17}',
    '{"audio_filepath": ["/c/a.wav", "/c/b.wav"]}',
    '{"audio_filepath": " \\" "}',
    '{"audio_filepath": "/c/a.wav", "offset": "soon"}',
    '{"audio_filepath": "/c/a.wav", "offset": -1}',
    '{"audio_filepath": "/c/a.wav", "offset": 0, "duration": 0}',
    '{"audio_filepath": "/c/a.wav", "offset": NaN}',
    '{"audio_filepath": "/c/a.wav", "offset": 1e999}',
    '{"audio_filepath": "/c/a.wav", "offset": true}',
    '{"audio_filepath": "/c/a.wav", "duration": {}}',
    '{"audio_filepath": "/c/a.wav", "offset": 1' + "0" * 400 + "}",
    '{"audio_filepath": "/c/a.wav", "offset": 1' + "0" * 5000 + "}",
    '{"audio_filepath": "/c/a.wav", "id": [1]}',
    '{"audio_filepath": "/c/a.wav", "id": true}',
    '{"audio_filepath": "/c/a.wav", "id": "../a"}',
    '{"audio_filepath": "/c/a.wav", "id": "\\ud800"}',
    '{"audio_filepath": "/c/..", "duration": 1}',
    '{"audio_filepath": "/c/\\u0000/a.wav"}',
    '{"audio_filepath": "/\\ud800/a.wav"}',
    '{"audio_filepath": "/c/\\udcff.wav"}',
    '{"audio_filepath": "/' + "x" * 5000 + '/a.wav"}',
    '{"text": "' + "x" * 70_000 + '", "audio_filepath": "/c/a.wav"}',
    "[" * 60_000,
    '{"audio_filepath": "/c/a.wav", "x": ' + "[" * 30_000 + "]" * 30_000 + "}",
]


def test_each_bad_line_of_a_manifest_is_lost_alone_with_its_number(tmp_path):
    good = '{"audio_filepath": "/c/%d.wav"}'
    lines = [line for n, bad in enumerate(BAD_JSON) for line in (bad, good % n)]
    manifest = read_jsonl(write(tmp_path / "m.jsonl", *lines))
    deep = {"a.wav"} & set(manifest.ids)  # the last one, where this Python reads it
    assert set(manifest.ids) - deep == {f"{n}.wav" for n in range(len(BAD_JSON))}
    found = failures(manifest)
    numbers = [2 * n + 1 for n in range(len(BAD_JSON) - len(deep))]
    assert list(found) == [f"m.jsonl:{number}" for number in numbers]
    for number, detail in zip(numbers, found.values(), strict=True):
        assert detail.startswith(f"line {number}: ")
        assert len(detail) < 500
        assert detail.isprintable()
    assert all(len(failure.recording.path) <= 4_096 for failure in manifest.failures)


# --- tsv -----------------------------------------------------------------------------------------


def test_a_fairseq_manifest_keeps_its_order_and_is_named_by_paths_below_its_root(tmp_path):
    names = [f"s{n % 3}/{n}.flac" for n in range(12)]
    random.Random(0).shuffle(names)
    (tmp_path / "corpus").mkdir()
    path = write(tmp_path / "train.tsv", f"{tmp_path}/corpus/", *(f"{n}\t16000" for n in names))
    manifest = read_tsv(path)
    assert list(manifest) == [Entry(name, f"{tmp_path}/corpus/{name}") for name in names]
    assert manifest.paths.shares_arrays(manifest.ids)
    (tmp_path / "moved").mkdir()
    assert list(read_tsv(path, tmp_path / "moved").paths) == [
        f"{tmp_path}/moved/{n}" for n in names
    ]


def test_a_fairseq_manifest_is_what_fairseq_reads(tmp_path):
    """Of `fairseq.data.audio.hubert_dataset.load_audio`: the root stripped, then two fields."""
    (tmp_path / "corpus").mkdir()
    lines = ["a b.wav\t16000", "  c.wav\t16001  ", "d/e.wav\t7"]
    path = write(tmp_path / "train.tsv", f"  {tmp_path}/corpus  ", *lines)
    with path.open() as file:
        root = file.readline().strip()
        expected = [os.path.join(root, line.strip().split("\t")[0]) for line in file]  # noqa: PTH118
    assert list(read_tsv(path).paths) == expected


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["a.wav\t16000", "b.wav\t1"], r"line 1: a\.wav\\t16000; needed the root folder alone"),
        (["", "/corpus", "a.wav\t1"], "line 1: blank; needed the root folder alone"),
        (["/nowhere", "a.wav\t1"], r"line 1: /nowhere: no such folder; .*dataset\.root=DIR"),
        (["/"], "1 line; needed: the root folder in the first"),
        ([], "no lines; needed: the root folder in the first"),
    ],
)
def test_a_manifest_without_a_root_is_the_users_mistake(tmp_path, lines, said):
    with pytest.raises(ValueError, match=said):
        read_tsv(write(tmp_path / "train.tsv", *lines))


def test_each_bad_line_of_a_fairseq_manifest_is_lost_alone(tmp_path):
    bad = ["a.wav", "a.wav\t1\t2", "a.wav\t", "a.wav\t-1", "a.wav\t1.5", "a.wav\t²", "\t16000"]
    bad += ["../a.wav\t1", "a\0.wav\t1", "x" * 5000 + "/a.wav\t1", "x" * 100_000, "/c/a.wav\t1"]
    lines = [line for n, one in enumerate(bad) for line in (one, f"{n}.wav\t16000")]
    manifest = read_tsv(write(tmp_path / "train.tsv", str(tmp_path), *lines))
    assert list(manifest.ids) == [f"{n}.wav" for n in range(len(bad))]
    assert list(failures(manifest)) == [f"train.tsv:{2 * n + 2}" for n in range(len(bad))]


# --- kaldi ---------------------------------------------------------------------------------------


def test_wav_scp_alone_gives_an_utterance_a_line(tmp_path):
    touch(tmp_path, "kaldi/wav/b.wav")
    write(
        tmp_path / "kaldi" / "wav.scp", "utt-1 /c/a b.wav", "utt-2\twav/b.wav ", "utt-3  /c/c.wav"
    )
    manifest = read_kaldi(tmp_path / "kaldi")
    assert list(manifest) == [
        Entry("utt-1", "/c/a b.wav"),
        Entry("utt-2", f"{tmp_path}/kaldi/wav/b.wav"),
        Entry("utt-3", "/c/c.wav"),
    ]
    assert manifest.source == f"{tmp_path}/kaldi"


def test_segments_are_cuts_and_other_recordings_no_utterances(tmp_path):
    write(tmp_path / "wav.scp", "rec-a /c/a.wav", "rec-b /c/b.wav", "rec-c sph2pipe c.sph |")
    write(
        tmp_path / "segments",
        "b-2 rec-b 3.25 4",
        "a-1 rec-a 0.00 1.50",
        "a-2 rec-a 1.5 -1",
    )
    manifest = read_kaldi(tmp_path)
    assert list(manifest) == [
        Entry("b-2", "/c/b.wav", 3.25, 0.75),
        Entry("a-1", "/c/a.wav", 0.0, 1.5),
        Entry("a-2", "/c/a.wav", 1.5, None),
    ]
    assert not manifest.failures


def test_a_command_is_never_run_and_is_named(tmp_path):
    ran = tmp_path / "ran"
    lines = ["a /c/a.wav", f"b touch {ran} |", f"c touch {ran}|", "d -", "e", "f  ", "g ''"]
    write(tmp_path / "wav.scp", *lines)
    manifest = read_kaldi(tmp_path)
    assert list(manifest.ids) == ["a"]
    found = failures(manifest)
    assert list(found) == [f"wav.scp:{number}" for number in range(2, 8)]
    assert "a command: touch" in found["wav.scp:2"]
    assert "needed the path of a file" in found["wav.scp:3"]
    write(tmp_path / "segments", "a-1 a 0 1", "b-1 b 0 1", "c-1 c 1 2", "d-1 d 0 1", "e-1 e 0 1")
    manifest = read_kaldi(tmp_path)
    assert list(manifest.ids) == ["a-1"]
    assert "a command: touch" in failures(manifest)["segments:2"]
    assert len(manifest.failures) == 4
    assert not ran.exists()


def test_each_bad_segment_is_lost_alone(tmp_path):
    write(tmp_path / "wav.scp", "rec /c/a.wav", "\0 /c/b.wav")
    bad = ["u rec 1", "u rec 1 2 1", "u none 0 1", "u rec one two", "u rec 2 1", "u rec 1 1"]
    bad += ["u rec -1 2", "u rec nan 1", "u rec 0 inf", "../u rec 0 1", "u/ rec 0 1", " " * 70_000]
    lines = [line for n, one in enumerate(bad) for line in (one, f"utt-{n} rec {n} {n}.5")]
    write(tmp_path / "segments", *lines)
    manifest = read_kaldi(tmp_path)
    assert list(manifest.ids) == [f"utt-{n}" for n in range(len(bad))]
    assert list(failures(manifest)) == [f"segments:{2 * n + 1}" for n in range(len(bad))]


def test_a_folder_that_is_no_data_folder_is_the_users_mistake(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        read_kaldi(tmp_path / "none")
    with pytest.raises(ValueError, match=r"wav\.scp: no such list"):
        read_kaldi(tmp_path)
    write(tmp_path / "wav.scp", "rec /c/a.wav", "rec /c/b.wav")
    with pytest.raises(ValueError, match=r"rec: /c/a\.wav and /c/b\.wav"):
        read_kaldi(tmp_path)
    (tmp_path / "segments").symlink_to("nowhere")
    with pytest.raises(ValueError, match="segments: no such list"):
        read_kaldi(tmp_path)
    (tmp_path / "segments").unlink()
    write(tmp_path / "segments", "u rec 0 1")
    with pytest.raises(ValueError, match=r"wav\.scp: line 2: rec is listed again with another"):
        read_kaldi(tmp_path)


# --- csv -----------------------------------------------------------------------------------------


def test_ljspeech_is_read_as_it_is(tmp_path):
    """Quotes in its text are text: Coqui and VITS split a line at its bars."""
    path = write(
        tmp_path / "metadata.csv",
        'LJ001-0001|"Printing," in the only sense|Printing, in the only sense',
        "LJ001-0002|in being comparatively modern.|in being comparatively modern.",
    )
    (tmp_path / "wavs").mkdir()
    manifest = read_csv(path, tmp_path / "wavs", columns=["id", "text", "normalized"])
    first, second = manifest
    assert (first.id, first.path) == ("LJ001-0001", f"{tmp_path}/wavs/LJ001-0001.wav")
    assert json.loads(first.extra) == {
        "text": '"Printing," in the only sense',
        "normalized": "Printing, in the only sense",
    }
    assert second.id == "LJ001-0002"
    unnamed = json.loads(read_csv(path, tmp_path / "wavs")[1].extra)
    assert list(unnamed) == ["column_2", "column_3"]


def test_the_lists_of_vits_are_read_as_they_are(tmp_path):
    touch(tmp_path, "DUMMY1/a.wav")
    path = write(tmp_path / "filelists" / "train.txt", "DUMMY1/a.wav|21|words", "/c/b.WAV|7|words")
    manifest = read_csv(path, tmp_path)
    assert [(entry.id, entry.path) for entry in manifest] == [
        ("DUMMY1/a.wav", f"{tmp_path}/DUMMY1/a.wav"),
        ("b.WAV", "/c/b.WAV"),
    ]


def test_common_voice_is_read_as_it_is(tmp_path):
    """https://commonvoice.mozilla.org: a tab, a header, quotes that are text."""
    path = write(
        tmp_path / "validated.tsv",
        "client_id\tpath\tsentence\tup_votes",
        'abc\tcommon_voice_en_1.mp3\t"Yes", he said\t2',
        "abd\tcommon_voice_en_2.mp3\tNo\t3",
    )
    read = partial(read_csv, path, tmp_path, delimiter="tab", header=True)
    manifest = read(audio_column="path")
    assert list(manifest.paths) == [f"{tmp_path}/common_voice_en_{n}.mp3" for n in (1, 2)]
    assert json.loads(manifest[0].extra)["sentence"] == '"Yes", he said'
    named = read(audio_column="path", id_column="client_id")
    assert list(named.ids) == ["abc", "abd"]
    assert list(json.loads(named[0].extra)) == ["sentence", "up_votes"]
    with pytest.raises(
        ValueError, match=r"dataset\.audio_column: wav; needed client_id or path or"
    ):
        read(audio_column="wav")


def test_quotes_are_taken_off_where_the_table_has_them(tmp_path):
    lines = ["file,text", '"/c/a,b.wav","he said ""so"""', "/c/c.wav,plain", '"/c/d.wav,open']
    path = write(tmp_path / "t.csv", *lines)
    manifest = read_csv(path, delimiter=",", header=True, quotes=True)
    assert list(manifest.paths) == ["/c/a,b.wav", "/c/c.wav"]
    assert json.loads(manifest[0].extra) == {"text": 'he said "so"'}
    assert list(failures(manifest)) == ["t.csv:4"]


def test_a_name_lacks_its_extension_unless_it_has_that_of_an_audio_file(tmp_path):
    path = write(tmp_path / "t.csv", "a.1|x", "b.flac|x", "c.Opus|x", "sub/d|x")
    read = partial(read_csv, path, tmp_path)
    names = ["a.1.wav", "b.flac", "c.Opus", "sub/d.wav"]
    assert list(read().paths) == [f"{tmp_path}/{name}" for name in names]
    assert list(read().ids) == ["a.1", "b.flac", "c.Opus", "sub/d"]
    assert read(extension=".mp3").paths[0] == f"{tmp_path}/a.1.mp3"
    assert read(extension="").paths[0] == f"{tmp_path}/a.1"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"delimiter": ""}, r"dataset\.delimiter: ''; needed what stands between columns"),
        ({"delimiter": "||", "quotes": True}, "needed one character, or tab"),
        ({"audio_column": "column_0"}, r"column_0; needed column_1, column_2, \.\.\."),
        ({"id_column": "id"}, r"dataset\.id_column: id; needed column_1"),
        ({"columns": ["a", "b"], "id_column": "c"}, "needed a or b"),
        ({"header": True}, "1 line; needed: names of columns"),
        ({"audio_dir": "nowhere"}, "nowhere: no such folder"),
    ],
)
def test_a_mistake_in_a_tables_options_is_told_before_any_work(tmp_path, options, said):
    with pytest.raises(ValueError, match=said):
        read_csv(write(tmp_path / "t.csv", "a.wav||words"), **options)


def test_each_bad_line_of_a_table_is_lost_alone(tmp_path):
    bad = ["x|one", "||b", "..|a|..", "|a|b", "''|a|b", "a\0|a|b", "x" * 100_000]
    lines = [line for n, one in enumerate(bad) for line in (one, f"{n}|words|id-{n}")]
    path = write(tmp_path / "t.csv", *lines)
    manifest = read_csv(path, tmp_path, id_column="column_3")
    assert list(manifest.ids) == [f"id-{n}" for n in range(len(bad))]
    assert list(failures(manifest)) == [f"t.csv:{2 * n + 1}" for n in range(len(bad))]


# --- all of them ---------------------------------------------------------------------------------


def read_paths(kind: str, folder: Path, paths: list[str], **how):
    """The manifest of a list of `kind` that names these paths."""
    if kind == "jsonl":
        lines = [json.dumps({"audio_filepath": path}, ensure_ascii=False) for path in paths]
        return read_jsonl(write(folder / "l.jsonl", *lines, **how))
    if kind == "tsv":
        return read_tsv(write(folder / "l.tsv", "/", *(f"{path}\t1" for path in paths), **how))
    if kind == "kaldi":
        lines = [f"utt{n} {path}" for n, path in enumerate(paths)]
        write(folder / "wav.scp", *lines, **how)
        return read_kaldi(folder)
    return read_csv(write(folder / "l.csv", *(f"{path}|words" for path in paths), **how))


KINDS = ["jsonl", "tsv", "kaldi", "csv"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030"])
def test_every_list_is_read_in_every_common_encoding(tmp_path, kind, encoding, end):
    paths = ["/语音/你好.wav", "/语音/再见.wav"]
    assert list(read_paths(kind, tmp_path, paths, encoding=encoding, end=end).paths) == paths


@pytest.mark.parametrize("kind", ["jsonl", "kaldi", "csv"])
def test_relative_paths_start_at_the_working_folder_then_at_the_list(tmp_path, monkeypatch, kind):
    touch(tmp_path, "work/wav/a.wav", "lists/wav/a.wav", "lists/wav/b.wav")
    monkeypatch.chdir(tmp_path / "work")
    manifest = read_paths(kind, tmp_path / "lists", ["wav/a.wav", "wav/b.wav", "wav/c.wav"])
    places = ["work/wav/a.wav", "lists/wav/b.wav", "work/wav/c.wav"]
    assert list(manifest.paths) == [f"{tmp_path}/{place}" for place in places]


@pytest.mark.parametrize("kind", KINDS)
def test_a_path_is_cleaned_unless_it_exists_as_written(tmp_path, kind):
    touch(tmp_path, "'quoted'.wav'")
    written = [f"{tmp_path}/'quoted'.wav'", f"'{tmp_path}/b.wav'"]
    if kind != "tsv":
        written.append(f"{tmp_path}\\c.wav")
    expected = [written[0], f"{tmp_path}/b.wav", f"{tmp_path}/c.wav"][: len(written)]
    assert list(read_paths(kind, tmp_path, written).paths) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_backslash_is_a_separator_on_windows(tmp_path, monkeypatch, kind):
    """A file system that takes both finds a path as the list has it; a file's name has none."""
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "sub/a.wav")
    lexists = os.path.lexists
    monkeypatch.setattr(os.path, "lexists", lambda path: lexists(path.replace("\\", "/")))
    monkeypatch.setattr(systems, "os", Seen(os, sep="\\"))
    if kind == "tsv":  # all of its paths are below a root: here `/`
        written, expected = [f"{tmp_path}/sub\\a.wav"[1:]], [f"{tmp_path}/sub/a.wav"]
    else:
        written = ["sub\\a.wav", "C:\\x\\b.wav", "\\\\host\\y\\c.wav"]
        expected = [f"{tmp_path}/sub/a.wav", "C:/x/b.wav", "//host/y/c.wav"]
    assert list(read_paths(kind, tmp_path, written).paths) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_list_is_the_users_mistake(tmp_path, kind):
    with pytest.raises(ValueError, match=r"(no lines|1 line); needed: "):
        read_paths(kind, tmp_path, [])


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_list_costs_little_more_than_its_names(tmp_path, kind):
    num = 4_000
    (tmp_path / "x").mkdir()
    paths = [f"{tmp_path}/x/{n:07}.wav" for n in range(num)]
    read_paths(kind, tmp_path, paths[:10])  # what is loaded once
    tracemalloc.start()
    manifest = read_paths(kind, tmp_path, paths)
    kept, _peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(manifest) == num
    extra = len('{"column_2":"words"}') + 8 if kind == "csv" else 0
    assert kept < (2 * (len(paths[0]) + 8) + extra) * num + 150_000


TEXT = st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]), max_size=30)
LINES = st.one_of(
    TEXT,
    st.lists(st.text("ab/\\. '\"\0你-1", max_size=6), min_size=1, max_size=5).map("\t".join),
    st.lists(st.text("ab/\\. '\"\0你-1", max_size=6), min_size=1, max_size=5).map(" ".join),
    st.dictionaries(
        st.sampled_from(["audio_filepath", "offset", "duration", "id", "text"]),
        st.none() | st.booleans() | st.floats() | st.integers() | TEXT | st.lists(TEXT, max_size=2),
        max_size=5,
    ).map(json.dumps),
)


FUZZED = {  # the source, its file, the line that begins it
    "jsonl": (jsonl, "l.jsonl", '{"audio_filepath": "/c/first.wav"}'),
    "tsv": (tsv, "l.tsv", "/"),
    "kaldi": (kaldi, "wav.scp", "first /c/first.wav"),
    "segments": (kaldi, "segments", "first a 0 1"),
    "csv": (csv, "l.csv", "first|words"),
}


@given(st.lists(LINES, max_size=6), st.sampled_from(sorted(FUZZED)))
@one_folder
def test_every_line_ends_as_one_entry_or_one_failure(tmp_path, lines, kind):
    module, name, first = FUZZED[kind]
    if kind == "segments":
        write(tmp_path / kind / "wav.scp", "a a.wav", "b b.wav", "1 b|")
    lines = [first, *lines, "last.wav\t1"]
    path = write(tmp_path / kind / name, *lines)
    options = module.Options(path=str(path.parent if module is kaldi else path))
    items = list(module.read(options, Output()))
    num_lines = sum(bool(line.strip("\ufeff").strip()) for line in lines)
    assert len(items) == num_lines - (kind == "tsv")
    failed = [item.recording.id for item in items if isinstance(item, Failure)]
    assert len(set(failed)) == len(failed)
    with suppress(ValueError):  # two lines of one name
        assert len(Manifest.from_entries(items)) + len(failed) <= len(items)
    for entry in items:
        if isinstance(entry, Entry):
            assert check_id(entry.id) is check_path(entry.path) is None
            assert Manifest.from_entries([entry])[0] == entry
