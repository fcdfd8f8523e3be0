"""Archives of both layouts: whole or not there, and in them each utterance once."""

import errno
import itertools
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from extract import files
from extract.store.layout import Kept
from extract.store.seen import MERGED_AT, Seen
from extract.write_errors import StoreUnusable
from support import posix
from support.archives import READERS, archives, kaldi, opened
from support.stores import encoded
from support.windows import SEEN

LAYOUTS = list(READERS)
FIVE = {"kaldi": 0.001, "webdataset": 0.017}  # MB of an archive that holds five utterances
WAV = torch.arange(200, dtype=torch.int16)


def features_of(number: int, frames: int = 10) -> torch.Tensor:
    return torch.full((1, frames, 4), float(number))


def item(number: int, version: int = 0):
    return encoded(f"{number:02}.wav", features_of(number + 100 * version), WAV)


@pytest.fixture(params=LAYOUTS)
def kind(request) -> str:
    return request.param


@pytest.fixture
def store(tmp_path, kind):
    """A store of archives that hold a handful of utterances."""
    store = opened(tmp_path, kind, FIVE[kind])
    store.create()
    return store


def finish(store, kept) -> dict[str, torch.Tensor]:
    """Ends a run with these lines; what its reader then finds."""
    frames = {one.id: store.layout.read(one).shape[1] for one in kept}
    lines = [{"id": one.id, "files": one.files, "num_frames": frames[one.id]} for one in kept]
    store.layout.finish(lambda: lines)
    return READERS[store.layout_name](store.directory)


def test_an_archive_is_bounded_and_its_utterances_are_kept_once_it_is_whole(store, kind):
    kept = []
    for number in range(40):
        before = archives(store.directory, kind)
        found = list(store.layout.put(item(number)))
        after = [path for path in archives(store.directory, kind) if path not in before]
        named = {name for one in found for name, *_ in one.files}
        whole = {f"{path.parent.name}/{path.name}" for path in after if path.suffix != ""}
        assert named <= whole
        kept += found
    assert 30 <= len(kept) < 40
    kept += store.layout.close()
    assert [one.id for one in kept] == [f"{number:02}.wav" for number in range(40)]
    sizes = [path.stat().st_size for path in archives(store.directory, kind)]
    assert max(sizes) <= FIVE[kind] * 1e6
    assert len(sizes) > 3
    assert all(store.layout.intact(one, checksum=True) for one in kept)
    found = finish(store, kept)
    assert {id_: int(values[0, 0, 0]) for id_, values in found.items()} == {
        f"{number:02}.wav": number for number in range(40)
    }
    assert all(torch.equal(store.layout.read(one), found[one.id]) for one in kept)


def test_one_that_is_larger_than_an_archive_has_one_of_its_own(store, kind):
    large = encoded("large", features_of(1, 1000), WAV)
    kept = [*store.layout.put(item(0)), *store.layout.put(large), *store.layout.put(item(1))]
    kept += store.layout.close()
    names = [one.files[0][0] for one in kept]
    assert len(set(names)) == 3
    assert finish(store, kept).keys() == {"00.wav", "large", "01.wav"}


def test_several_threads_may_put_at_once(store):
    with ThreadPoolExecutor(8) as pool:
        kept = list(itertools.chain(*pool.map(store.layout.put, map(item, range(200)))))
    kept += store.layout.close()
    assert len(finish(store, kept)) == 200
    assert len({one.id for one in kept}) == 200


@pytest.mark.parametrize("when", ["in progress", "finished", "by another run"])
@pytest.mark.parametrize("how", ["put", "discard"])
def test_an_utterance_that_is_put_again_or_discarded_is_read_back_never_twice(
    store, kind, when, how
):
    kept = {one.id: one for n in range(3) for one in store.layout.put(item(n))}
    if when != "in progress":
        kept |= {one.id: one for one in store.layout.close()}
    if when == "by another run":
        store = opened(store.directory, kind, FIVE[kind])
    if how == "put":
        kept |= {one.id: one for one in store.layout.put(item(1, version=1))}
        kept |= {one.id: one for one in store.layout.put(item(2, version=2))}
    else:
        store.layout.discard("01.wav")
        kept.pop("01.wav", None)
    kept |= {one.id: one for one in store.layout.close()}
    for one in kept.values():
        assert store.layout.intact(one, checksum=True), "what was kept stays where its line says"
        store.layout.read(one)
    values = (
        {"00.wav": 0, "01.wav": 101, "02.wav": 202} if how == "put" else {"00.wav": 0, "02.wav": 2}
    )
    if kind == "webdataset":
        found = READERS[kind](store.directory)
        assert {id_: int(some[0, 0, 0]) for id_, some in found.items()} == values
    assert sorted(set(store.layout.ids_of_files())) == sorted(values)
    assert len(list(store.layout.ids_of_files())) == len(values)
    assert {id_: int(store.layout.read(one)[0, 0, 0]) for id_, one in kept.items()} == values
    assert store.layout.has_files("00.wav")
    assert store.layout.has_files("01.wav") == (how == "put")


@pytest.mark.skipif(sys.platform != "linux", reason="open files are found in /proc")
def test_an_archive_is_not_open_when_a_copy_takes_its_place(store, monkeypatch):
    monkeypatch.setattr("extract.files.replace", SEEN["os"].replace)
    for number in range(3):
        store.layout.put(item(number))
    store.layout.close()
    store.layout.discard("01.wav")
    assert sorted(set(store.layout.ids_of_files())) == ["00.wav", "02.wav"]


def test_abandoning_leaves_no_file(store, kind):
    kept = [one for number in range(8) for one in store.layout.put(item(number))]
    assert kept
    assert not list(store.layout.close(abandon=True))
    named = {name for one in kept for name, *_ in one.files}
    assert {f"{path.parent.name}/{path.name}" for path in archives(store.directory, kind)} == named


def test_an_archive_in_progress_is_on_the_disk_and_not_in_memory(store, kind):
    store.layout.put(item(0))
    [path] = archives(store.directory, kind)
    assert path.name.startswith(".tmp-")
    assert path.stat().st_size > 160
    opened(store.directory, kind).layout.sweep()
    assert not archives(store.directory, kind)
    store.layout.close(abandon=True)


def test_a_disk_that_is_full_at_any_write_keeps_what_is_whole(store, kind, monkeypatch):
    write, left = files._write, 0

    def full(descriptor, parts):
        nonlocal left
        size = sum(map(len, parts))
        if size > left:
            if left:  # it takes what still fits
                os.write(descriptor, b"".join(parts)[:left])
                left = 0
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left -= (written := write(descriptor, parts))
        return written

    stopped = set()
    for room in range(0, 24_000, 1_151):
        with monkeypatch.context() as patch:
            patch.setattr(files, "_write", full)
            left, kept = room, []
            try:
                for number in range(8):
                    kept += store.layout.put(item(number))
                kept += store.layout.close()
            except StoreUnusable as error:
                stopped.add((len(kept), "the disk is full" in str(error)))
                kept += store.layout.close(abandon=True)
        named = {name for one in kept for name, *_ in one.files}
        found = {f"{path.parent.name}/{path.name}" for path in archives(store.directory, kind)}
        assert found == named
        assert all(store.layout.intact(one, checksum=True) for one in kept)
        for path in archives(store.directory, kind):
            path.unlink()
        store = opened(store.directory, kind, FIVE[kind])
    assert len(stopped) > 1
    assert all(said for _num, said in stopped)


def test_what_did_not_fit_leaves_the_archive_as_it_was(store, kind, monkeypatch):
    kept = list(store.layout.put(item(0)))
    write = files._write

    def full(descriptor, parts):
        os.write(descriptor, b"".join(parts)[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(files, "_write", full)
        with pytest.raises(StoreUnusable, match="MB needed for the next utterance alone"):
            store.layout.put(item(1))
    assert files._write is write
    kept += [*store.layout.put(item(2)), *store.layout.close()]
    found = finish(store, kept)
    assert {id_: int(values[0, 0, 0]) for id_, values in found.items()} == {
        "00.wav": 0,
        "02.wav": 2,
    }


@pytest.mark.parametrize(
    "change", ["id", "name", "offset", "negative", "huge", "elsewhere", "two files"]
)
def test_a_line_that_no_run_can_have_written_names_nothing(store, change):
    one, two = [*store.layout.put(item(0)), *store.layout.put(item(1)), *store.layout.close()]
    [(name, offset, size, crc)] = one.files
    line = {
        "id": {"id": "00.wave", "files": one.files},
        "name": {"id": "00.wav", "files": [(f"x{name}", offset, size, crc)]},
        "offset": {"id": "00.wav", "files": [(name, offset + 1, size, crc)]},
        "negative": {"id": "00.wav", "files": [(name, -1, size, crc)]},
        "huge": {"id": "00.wav", "files": [(name, 1 << 70, size, crc)]},
        "elsewhere": {"id": "00.wav", "files": [(f"../{name}", offset, size, crc)]},
        "two files": {"id": "00.wav", "files": [*one.files, *two.files]},
    }[change]
    assert store.layout.kept({"id": "00.wav", "files": one.files}) == one
    assert store.layout.kept(line) is None


def test_a_block_that_is_not_its_lines_is_not_read(store, kind):
    one, two = [*store.layout.put(item(0)), *store.layout.put(item(1)), *store.layout.close()]
    with pytest.raises(ValueError, match=r"00\.wav is not where its line says"):
        store.layout.read(Kept("00.wav", two.files))
    [(name, offset, _size, crc)] = one.files
    with pytest.raises(ValueError, match=r"00\.wav is damaged"):
        store.layout.read(
            Kept("00.wav", ((name, offset, {"kaldi": 100, "webdataset": 1200}[kind], crc),))
        )


def test_archives_of_one_store_have_names_of_their_own_however_many_write(tmp_path, kind):
    stores = [opened(tmp_path, kind, part=f"{index}-of-2") for index in range(2)] * 2
    stores += [opened(tmp_path, kind, part="0-of-2")]
    stores[0].create()
    for number, store in enumerate(stores):
        store.layout.put(item(number))
        store.layout.close()
    names = [path.name for path in archives(tmp_path, kind)]
    assert len(names) == 5
    assert [name[:6] for name in names] == ["0-of-2"] * 3 + ["1-of-2"] * 2


def test_seen_ids_are_found_after_they_are_merged():
    seen = Seen()
    seen.add(map(str, range(MERGED_AT + 10)))
    assert all(str(number) in seen for number in range(MERGED_AT + 10))
    assert not any(str(number) in seen for number in range(MERGED_AT + 10, 2 * MERGED_AT))
    assert sys.getsizeof(seen._sorted) < 9 * MERGED_AT


def test_another_programs_archive_loses_only_what_this_run_writes(store, kind):
    theirs = opened(store.directory / "theirs", kind)
    theirs.create()
    kept = [*theirs.layout.put(item(1, 5)), *theirs.layout.put(item(7, 5)), *theirs.layout.close()]
    [path] = archives(theirs.directory, kind)
    path.rename(store.directory / path.relative_to(theirs.directory).parent / f"x{path.suffix}")
    assert sorted(store.layout.ids_of_files()) == ["01.wav", "07.wav"]
    kept = [*store.layout.put(item(1)), *store.layout.put(item(2)), *store.layout.close()]
    assert sorted(store.layout.ids_of_files()) == ["01.wav", "02.wav", "07.wav"]
    assert int(store.layout.read(kept[0])[0, 0, 0]) == 1
    if kind == "webdataset":
        found = READERS[kind](store.directory)
        assert {id_: int(some[0, 0, 0]) for id_, some in found.items()} == {
            "01.wav": 1,
            "02.wav": 2,
            "07.wav": 507,
        }


def test_another_programs_lines_of_feats_scp_stay(tmp_path):
    store = opened(tmp_path, "kaldi")
    store.create()
    lines = "00.wav /there/a.ark:7\nz other.ark:3\n"
    (tmp_path / "feats.scp").write_text(lines)
    (tmp_path / "utt2num_frames").write_text("00.wav 3\nz 4\n")
    assert sorted(store.layout.ids_of_files()) == ["00.wav", "z"]
    kept = [*store.layout.put(item(0)), *store.layout.put(item(1)), *store.layout.close()]
    records = [{"id": one.id, "files": one.files, "num_frames": 10} for one in kept]
    store.layout.finish(lambda: records)
    listed = (tmp_path / "feats.scp").read_text().splitlines()
    assert [line.split(" ")[0] for line in listed] == ["00.wav", "01.wav", "z"]
    assert listed[2] == "z other.ark:3"
    assert "/there/a.ark" not in listed[0]
    assert (tmp_path / "utt2num_frames").read_text() == "00.wav 10\n01.wav 10\nz 4\n"
    store.layout.discard_all(records)
    assert (tmp_path / "feats.scp").read_text() == "z other.ark:3\n"


def test_lines_of_arks_here_stay_if_no_run_of_ours_made_them(tmp_path):
    """Of a store whose ledger is gone, whose utterances are foreign then."""
    store = opened(tmp_path, "kaldi")
    store.create()
    kept = [*store.layout.put(item(0)), *store.layout.close()]
    records = [{"id": one.id, "files": one.files, "num_frames": 10} for one in kept]
    store.layout.finish(lambda: records)
    before = (tmp_path / "feats.scp").read_text()
    store.layout.finish(tuple)
    assert (tmp_path / "feats.scp").read_text() == before
    assert (tmp_path / "utt2num_frames").read_text() == "00.wav 10\n"
    store.layout._archives.runs.note([store.layout._archives.run_of(kept[0].files[0][0])])
    store.layout.finish(tuple)
    assert not (tmp_path / "feats.scp").exists()


def test_a_moved_store_is_read_once_its_lists_are_written_again(tmp_path):
    store = opened(tmp_path / "here", "kaldi")
    store.create()
    kept = [*store.layout.put(item(0)), *store.layout.close()]
    assert finish(store, kept).keys() == {"00.wav"}
    (tmp_path / "here").rename(tmp_path / "there")
    with pytest.raises((FileNotFoundError, UserWarning)):
        kaldi(tmp_path / "there")
    assert finish(opened(tmp_path / "there", "kaldi"), kept).keys() == {"00.wav"}


def test_unfinished_lists_are_swept(tmp_path):
    store = opened(tmp_path, "kaldi")
    store.create()
    (tmp_path / ".tmp-feats.scp-12-0123abcd").touch()
    (tmp_path / "arks" / ".tmp-host-12-0123abcd-3").touch()
    (tmp_path / ".tmp-theirs").touch()
    assert store.layout.sweep() == 2
    assert [path.name for path in Path(tmp_path).glob(".tmp-*")] == [".tmp-theirs"]


@posix.IN_USE
def test_a_reader_of_an_archive_that_is_replaced_goes_on_with_what_it_opened(store, kind):
    kept = [*store.layout.put(item(0)), *store.layout.put(item(1)), *store.layout.close()]
    [path] = archives(store.directory, kind)
    before = path.read_bytes()
    with path.open("rb") as file:
        store.layout.discard("00.wav")
        assert file.read() == before
    assert path.read_bytes() != before
    assert int(store.layout.read(kept[1])[0, 0, 0]) == 1
