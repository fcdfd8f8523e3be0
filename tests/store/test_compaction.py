"""What no line names leaves its archive, at whatever moment the run that does it is killed."""

import json
import os
import random
from pathlib import Path

import pytest
import torch

from extract import systems
from extract.shard import Shard
from extract.store import compaction
from extract.store.ledger import ledger_paths, line_of
from extract.store.opening import _sweep_own
from extract.store.settling import finish, settle
from support.archives import READERS, archives, audit, blocks, opened
from support.stores import encoded, ledger

NUM = 12
FIVE = {"kaldi": 0.001, "webdataset": 0.017}  # MB of an archive that holds five utterances
WAV = torch.arange(200, dtype=torch.int16)
ONLY = Shard()


@pytest.fixture(params=list(READERS))
def kind(request) -> str:
    return request.param


def item(number: int):
    return encoded(f"{number:02}.wav", torch.full((1, 10, 4), float(number)), WAV)


def write(directory: Path, kind: str, numbers, shard: Shard = ONLY) -> None:
    """A run that saves some utterances."""
    store = opened(directory, kind, FIVE[kind], part=str(shard))
    store.create()
    (directory / ".extract").mkdir(exist_ok=True)
    kept = [one for number in numbers for one in store.layout.put(item(number))]
    kept += store.layout.close()
    with (directory / shard.ledger_name).open("ab") as file:
        for one in kept:
            known = {"path": "/there", "status": "saved", "num_frames": 10, "extra": {"a": [1]}}
            file.write(line_of({"id": one.id, **known, "files": one.files}))
    finish(store)


def drop(directory: Path, ids: set[str]) -> None:
    for path in ledger_paths(directory):
        lines = path.read_text("utf8").splitlines(keepends=True)
        path.write_text("".join(line for line in lines if json.loads(line)["id"] not in ids))


def names(numbers) -> set[str]:
    return {f"{number:02}.wav" for number in numbers}


def start(directory: Path, kind: str, shard: Shard = ONLY, *, alone: bool = True):
    """The beginning of a run, as far as archives are concerned."""
    store = opened(directory, kind, FIVE[kind], part=str(shard))
    if alone:
        store.layout.sweep()
        _sweep_own(directory)
    settle(store, shard, alone=alone)
    return store


def check(directory: Path, kind: str, numbers) -> None:
    finish(opened(directory, kind, FIVE[kind]))
    found = audit(directory, kind, names(numbers))
    assert {id_: int(values[0, 0, 0]) for id_, values in found.items()} == {
        f"{number:02}.wav": number for number in numbers
    }


def state(directory: Path, kind: str) -> dict[str, tuple[int, int]]:
    found = {path.name: path.stat() for path in archives(directory, kind)}
    return {name: (some.st_ino, some.st_mtime_ns) for name, some in found.items()}


def test_what_was_dropped_leaves_its_archive_and_the_lines_of_the_others_follow(tmp_path, kind):
    write(tmp_path, kind, range(NUM))
    before, whole = state(tmp_path, kind), blocks(tmp_path)
    drop(tmp_path, names([1, 3]))
    start(tmp_path, kind)
    check(tmp_path, kind, [0, 2, *range(4, NUM)])
    after = state(tmp_path, kind)
    assert len(before.keys() & after.keys()) == (2 if kind == "kaldi" else 3)
    assert sum(after.get(name) == some for name, some in before.items()) == 2, "one was rewritten"
    assert {id_: whole[id_] for id_ in blocks(tmp_path)} == blocks(tmp_path)
    assert all(record["extra"] == {"a": [1]} for record in ledger(tmp_path))


def test_a_whole_archive_that_was_dropped_is_gone(tmp_path, kind):
    write(tmp_path, kind, range(NUM))
    drop(tmp_path, names(range(5)))
    start(tmp_path, kind)
    check(tmp_path, kind, range(5, NUM))
    assert len(archives(tmp_path, kind)) == 2


def test_a_start_that_finds_all_in_order_writes_nothing(tmp_path, kind):
    write(tmp_path, kind, range(NUM))
    before = state(tmp_path, kind), (tmp_path / "ledger.jsonl").stat().st_ino
    store = start(tmp_path, kind)
    assert (state(tmp_path, kind), (tmp_path / "ledger.jsonl").stat().st_ino) == before
    assert not list(store.layout.ids_of_files())


def test_a_hundred_dropped_utterances_cost_each_archive_one_rewrite(tmp_path, kind, monkeypatch):
    write(tmp_path, kind, range(200))
    published = []
    replace = systems.replace
    monkeypatch.setattr(
        "extract.files.replace", lambda old, new: (published.append(new), replace(old, new))
    )
    drop(tmp_path, names(range(0, 200, 2)))
    num = len(archives(tmp_path, kind))
    start(tmp_path, kind)
    written = [path for path in published if str(path).endswith(("ark", "tar"))]
    assert len(written) == len(set(written)) == num
    check(tmp_path, kind, range(1, 200, 2))


def test_archives_are_moved_in_portions_that_the_disk_has_room_for(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(compaction, "MOST_MOVED", 1500)
    write(tmp_path, kind, range(60))
    drop(tmp_path, names(range(0, 60, 3)))
    most, replace = 0, systems.replace

    def counted(old, new):
        nonlocal most
        replace(old, new)
        most = max(most, len(archives(tmp_path, kind)))

    monkeypatch.setattr("extract.files.replace", counted)
    start(tmp_path, kind)
    assert most < 2 * 12
    check(tmp_path, kind, [n for n in range(60) if n % 3])


# --- killed --------------------------------------------------------------------------------------


def killed_at(step: int, directory: Path, kind: str) -> bool:
    """Whether a process that settles the store was killed, right before or after its `step`th
    change of a name on the disk; False: it came to its end."""
    child = os.fork()
    if not child:
        done = 0

        def deadly(call):
            def change(*args, **kwargs):
                nonlocal done
                done += 1
                if done == step:
                    os._exit(9)
                result = call(*args, **kwargs)
                done += 1
                if done == step:
                    os._exit(9)
                return result

            return change

        os.replace, os.unlink = deadly(os.replace), deadly(os.unlink)
        try:
            start(directory, kind)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.fault(
    "SIGKILL at any change on the disk while archives lose utterances",
    "at each moment a reader finds every other utterance once; the next run settles the rest",
)
def test_a_kill_at_any_moment_loses_nothing_and_shows_nothing_twice(tmp_path, kind):
    dropped = [1, *range(5, 10)]  # one of an archive, all of the next, none of the last
    left = [number for number in range(NUM) if number not in dropped]
    step = 0
    while True:
        step += 1
        directory = tmp_path / str(step)
        write(directory, kind, range(NUM))
        whole = blocks(directory)
        drop(directory, names(dropped))
        killed = killed_at(step, directory, kind)
        assert names(left) <= found_now(directory, kind) <= names(range(NUM))
        assert {record["id"] for record in ledger(directory)} == names(left)
        start(directory, kind)
        check(directory, kind, left)
        assert {id_: whole[id_] for id_ in blocks(directory)} == blocks(directory)
        if not killed:
            break
    assert step > 4


def found_now(directory: Path, kind: str) -> set[str]:
    """The ids that a reader finds, each once, in a store that is not in order."""
    if kind == "webdataset":
        return set(READERS[kind](directory))
    import kaldiio

    listed = kaldiio.load_scp(str(directory / "feats.scp"))
    for id_ in listed:
        assert int(listed[id_][0, 0]) == int(id_[:2])
    return set(listed)


def test_archives_that_a_killed_run_left_without_lines_are_gone(tmp_path, kind):
    write(tmp_path, kind, range(5))
    store = start(tmp_path, kind)
    for number in range(5, NUM):
        store.layout.put(item(number))
    store.layout.close()
    assert len(archives(tmp_path, kind)) == 3
    start(tmp_path, kind)
    check(tmp_path, kind, range(5))
    assert len(archives(tmp_path, kind)) == 1


def test_an_archive_of_which_a_killed_run_wrote_some_lines_keeps_those(tmp_path, kind):
    write(tmp_path, kind, range(NUM))
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(path.read_bytes()[: path.read_bytes().index(b"08.wav")] + b"torn")
    start(tmp_path, kind)
    check(tmp_path, kind, range(8))


def test_an_archive_without_lines_that_no_run_of_this_store_made_is_left(tmp_path, kind):
    write(tmp_path / "theirs", kind, range(5))
    write(tmp_path / "ours", kind, range(5, NUM))
    [path] = archives(tmp_path / "theirs", kind)
    path.rename(archives(tmp_path / "ours", kind)[0].with_name(path.name))
    store = start(tmp_path / "ours", kind)
    assert set(store.layout.ids_of_files()) == names(range(5))


def test_a_ledger_that_was_lost_costs_no_archive(tmp_path, kind):
    write(tmp_path, kind, range(NUM))
    (tmp_path / "ledger.jsonl").unlink()
    store = start(tmp_path, kind)
    assert len(archives(tmp_path, kind)) == 3
    assert set(store.layout.ids_of_files()) == names(range(NUM))


# --- damaged -------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0.001, 0.3, 0.55, 0.99])
def test_an_archive_that_was_cut_keeps_what_is_whole_and_is_an_archive_again(tmp_path, kind, at):
    write(tmp_path, kind, range(5))
    [path] = archives(tmp_path, kind)
    ends = {record["id"]: sum(record["files"][0][1:3]) for record in ledger(tmp_path)}
    size = int(at * path.stat().st_size)
    os.truncate(path, size)
    start(tmp_path, kind)
    check(tmp_path, kind, [int(id_[:2]) for id_, end in ends.items() if end <= size])


def test_bytes_behind_an_archive_are_cut_off(tmp_path, kind):
    write(tmp_path, kind, range(5))
    [path] = archives(tmp_path, kind)
    before = path.read_bytes()
    path.write_bytes(before + b"more")
    start(tmp_path, kind)
    check(tmp_path, kind, range(5))
    [path] = archives(tmp_path, kind)
    assert path.read_bytes() == before


def test_a_damaged_ending_is_mended(tmp_path):
    write(tmp_path, "webdataset", range(5))
    [path] = archives(tmp_path, "webdataset")
    before = path.read_bytes()
    path.write_bytes(before[:-1] + b"x")
    start(tmp_path, "webdataset")
    check(tmp_path, "webdataset", range(5))
    assert path.read_bytes() == before


@pytest.mark.parametrize("seed", range(6))
def test_lines_whose_places_were_damaged_find_their_blocks_or_go(tmp_path, kind, seed):
    """Each of the lines that are left names the block of its id."""
    write(tmp_path, kind, range(NUM))
    rng, lines = random.Random(seed), [*ledger(tmp_path)]
    damaged = rng.sample(lines, 4)
    for line in damaged:
        [file] = line["files"]
        other = rng.choice(lines)["files"][0]
        file[:] = [file[0], rng.choice([other[1], -7, 1 << 70]), *file[2:]]
    (tmp_path / "ledger.jsonl").write_bytes(b"".join(map(line_of, lines)))
    start(tmp_path, kind)
    left = {int(record["id"][:2]) for record in ledger(tmp_path)}
    assert left >= {int(line["id"][:2]) for line in lines if line not in damaged}
    layout = opened(tmp_path, kind).layout
    whole = [record for record in ledger(tmp_path) if layout.kept(record)]
    drop(tmp_path, names(left) - {record["id"] for record in whole})
    start(tmp_path, kind)
    check(tmp_path, kind, sorted(int(record["id"][:2]) for record in whole))


# --- shards --------------------------------------------------------------------------------------


def shared(directory: Path, kind: str) -> list[Shard]:
    """A store whose archives hold utterances of two shards, as resharding leaves it."""
    write(directory, kind, range(NUM))
    shards = Shard(0, 2).all()
    lines = (directory / "ledger.jsonl").read_text("utf8").splitlines(keepends=True)
    for shard in shards:
        mine = "".join(line for line in lines if shard.owns(json.loads(line)["id"]))
        (directory / shard.ledger_name).write_text(mine)
        assert mine
    (directory / "ledger.jsonl").unlink()
    return shards


@pytest.mark.parametrize("which", ["a shard's only one in its archive", "one of several"])
def test_an_archive_of_two_shards_that_are_at_work_keeps_all_places(tmp_path, kind, which):
    shards = shared(tmp_path, kind)
    gone = 4 if "only" in which else 7
    owned = [number for number in range(10) if shards[0].owns(f"{number:02}.wav")]
    assert owned == [4, 5, 7, 8, 9]  # of archives with five utterances each
    other = (tmp_path / shards[1].ledger_name).read_bytes()
    size = {path.name: path.stat().st_size for path in archives(tmp_path, kind)}
    drop(tmp_path, names([gone]))
    for _again in range(2):
        store = start(tmp_path, kind, shards[0], alone=False)
        before = state(tmp_path, kind)
    start(tmp_path, kind, shards[0], alone=False)
    assert state(tmp_path, kind) == before, "what is blank is not made blank again"
    assert {path.name: path.stat().st_size for path in archives(tmp_path, kind)} == size
    assert (tmp_path / shards[1].ledger_name).read_bytes() == other
    finish(store)
    rest = names(n for n in range(NUM) if n != gone)
    assert found_now(tmp_path, kind) == rest
    assert set(opened(tmp_path, kind).layout.ids_of_files()) == rest
    finish(start(tmp_path, kind, shards[0], alone=True))
    check(tmp_path, kind, [n for n in range(NUM) if n != gone])


def test_what_another_shard_at_work_has_just_finished_is_let_be(tmp_path, kind):
    shards = shared(tmp_path, kind)
    other = start(tmp_path, kind, shards[1], alone=True)
    more = [n for n in range(NUM, 3 * NUM) if shards[1].owns(f"{n:02}.wav")]
    kept = [one for n in more for one in other.layout.put(item(n))]
    assert kept
    before = state(tmp_path, kind)
    start(tmp_path, kind, shards[0], alone=False)
    assert state(tmp_path, kind) == before


def test_a_shard_moves_what_is_in_archives_of_its_own(tmp_path, kind):
    shards = Shard(0, 2).all()
    for shard in shards:
        write(tmp_path, kind, [n for n in range(NUM) if shard.owns(f"{n:02}.wav")], shard)
    gone = next(number for number in range(NUM) if shards[0].owns(f"{number:02}.wav"))
    drop(tmp_path, names([gone]))
    start(tmp_path, kind, shards[0], alone=False)
    finish(opened(tmp_path, kind, part=str(shards[0])))
    check(tmp_path, kind, [n for n in range(NUM) if n != gone])


def test_what_a_killed_shard_left_is_gone_whoever_is_alone_next(tmp_path, kind):
    shards = Shard(0, 2).all()
    write(tmp_path, kind, range(5), shards[0])
    killed = start(tmp_path, kind, shards[1], alone=False)
    for number in range(5, 10):
        killed.layout.put(item(number))
    killed.layout.close()
    assert len(archives(tmp_path, kind)) == 2
    start(tmp_path, kind, shards[0], alone=False)
    assert len(archives(tmp_path, kind)) == 2, "it may be at work"
    finish(start(tmp_path, kind, shards[0], alone=True))
    assert len(archives(tmp_path, kind)) == 1
    check(tmp_path, kind, range(5))


def test_all_that_a_replaced_store_held_is_gone_though_its_ledgers_are(tmp_path, kind):
    """As `overwrite=true` does: also what is damaged, and is not what its lines name."""
    write(tmp_path, kind, range(NUM))
    [path, *_rest] = archives(tmp_path, kind)
    os.truncate(path, path.stat().st_size - 100)
    store = opened(tmp_path, kind)
    store.layout.discard_all(ledger(tmp_path))
    assert len(archives(tmp_path, kind)) == 1
    (tmp_path / "ledger.jsonl").unlink()
    finish(start(tmp_path, kind))
    assert not archives(tmp_path, kind)
    assert not (tmp_path / "feats.scp").exists()
