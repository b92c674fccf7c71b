"""Rows in files of some processes, loaded by another number of them."""

import os
import signal
from contextlib import contextmanager

import pytest
import torch
from full_disk import no_file_larger_than
from pace import slow

import negcache as nc
from negcache.distributed import ALONE
from negcache.ops.shards import Shard, rows_of_each
from negcache.packing import add_up
from negcache.stores import resharding
from negcache.stores.file_table import FileTable
from negcache.stores.row_file import RowFile
from negcache.stores.table import RowTable

N, D = 1_000, 3
"""Eight blocks, the last one short: neither two nor three processes have as many rows each."""


TWO, THREE = (
    ["rows, rows 0 to 512", "rows, rows 512 to 1000"],
    ["rows, rows 0 to 256", "rows, rows 256 to 640", "rows, rows 640 to 1000"],
)
"""Files of so many processes."""


def shards(processes):
    sizes = rows_of_each(N, processes)
    return [Shard(ALONE, sum(sizes[:rank]), sizes[rank], N) for rank in range(processes)]


def tables(folder, processes, dtype=torch.float32):
    """That each process has of one table; the files of those before are let go first."""
    return [FileTable(shard, D, dtype, folder / "rows") for shard in shards(processes)]


def written(every, step, count=400):
    """Some rows in this step, each by who holds it; some are let go."""
    noise = torch.Generator().manual_seed(step)
    rows = torch.randperm(N, generator=noise)[:count]
    values = torch.randn(count, D, generator=noise)
    for table in every:
        slots = table.shard.local(rows)
        here = slots >= 0
        table.write(slots[here], values[here], step)
        gone = slots[::9]
        table.let_go(gone[gone >= 0])


def contents(every):
    """Of the whole table: rows that were written, when, and which are valid."""
    valid = torch.cat([table.valid for table in every])
    rows = torch.cat([table.rows.read(torch.arange(table.shard.size)) for table in every])
    steps = torch.cat([table.written for table in every])
    return rows[valid], steps, valid


def state_of(every):
    return add_up([table.state_dict() for table in every])


def load(every, state):
    for table in every:
        table.load_state_dict(state)
    return every


def same(got, wanted):
    return all(torch.equal(*pair) for pair in zip(got, wanted, strict=True))


def bytes_in(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Many are copied, none of them as large as a table."""
    monkeypatch.setattr(resharding, "COPIED", 50 * 16)


@pytest.mark.parametrize(
    ("before", "after", "dtype"),
    [
        (2, 1, torch.int8),
        (1, 2, torch.float32),
        (2, 3, torch.int8),
        slow(3, 2, torch.float32),
        slow(3, 8, torch.bfloat16),
        slow(8, 3, torch.int8),
    ],
)
def test_rows_are_where_they_belong_and_those_of_before_as_they_were(
    tmp_path, before, after, dtype
):
    old, memory = tables(tmp_path, before, dtype), [RowTable(shards(1)[0], D, dtype, "cpu")]
    states, wanted = [], []
    for step in range(3):
        for every in (old, memory):
            written(every, step)
        states.append(state_of(old))
        wanted.append(contents(memory))
    written(old, 3)
    del old, every
    for turn in (0, 2, 1):
        there = bytes_in(tmp_path)
        new = load(tables(tmp_path, after, dtype), states[turn])
        assert same(contents(new), wanted[turn])
        assert (new[0].valid.sum(), (~new[0].valid).sum()) > (0, 0)
        found = bytes_in(tmp_path)
        kept = {table.file.path.name for table in new}
        of_others = {name for name in there if name.partition(".")[0] not in kept}
        assert of_others or turn, "names are told apart"
        assert all(found[name] == there[name] for name in of_others)
        written(new, 9)
        again, then = state_of(new), contents(new)
        written(new, 10)
        del new
        assert same(contents(load(tables(tmp_path, after, dtype), again)), then)
    assert same(contents(load(tables(tmp_path, before, dtype), states[1])), wanted[1])


def test_a_file_that_both_numbers_of_processes_have_is_led_back(tmp_path):
    """Rows 0 to 256 are one's of three, and of four."""
    old = tables(tmp_path, 3)
    written(old, 0)
    state, wanted = state_of(old), contents(old)
    written(old, 1)
    del old
    new = load(tables(tmp_path, 4), state)
    assert {table.file.path.name for table in new} & set(THREE) == {THREE[0]}
    assert same(contents(new), wanted)
    go_on(new, 3)
    del new
    assert same(contents(load(tables(tmp_path, 3), state)), wanted)


def test_a_copy_takes_a_chunk_at_a_time(tmp_path, monkeypatch):
    old = tables(tmp_path, 2)
    written(old, 0, N)
    state = state_of(old)
    del old
    (new,), read, sizes = tables(tmp_path, 1), RowFile.read, []

    def counted(file, slots, *names):
        sizes.append(len(slots))
        return read(file, slots, *names)

    monkeypatch.setattr(RowFile, "read", counted)
    new.load_state_dict(state)
    assert max(sizes) == 50
    assert sum(sizes) == N


@contextmanager
def forked():
    """What is inside is done by another process, which it kills; then this one goes on."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL
    yield not child
    if not child:
        os._exit(7)


@pytest.mark.parametrize("writes", [1, 9, 30])
def test_a_process_that_is_killed_as_it_copies_loses_nothing(tmp_path, monkeypatch, writes):
    old = tables(tmp_path, 2)
    written(old, 0)
    state, wanted = state_of(old), contents(old)
    written(old, 1)
    later, at_last = state_of(old), contents(old)
    del old
    with forked() as inside:
        if inside:
            write, left = RowFile.write, [writes]

            def killed(file, *what):
                left[0] -= 1
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)
                write(file, *what)

            monkeypatch.setattr(RowFile, "write", killed)
            load(tables(tmp_path, 3), state)
    assert (tmp_path / "rows, rows 0 to 256").exists()
    assert same(contents(load(tables(tmp_path, 2), later)), at_last)
    assert same(contents(load(tables(tmp_path, 3), state)), wanted)
    assert same(contents(load(tables(tmp_path, 2), state)), wanted)


def test_a_disk_without_room_for_both_is_an_error_at_the_start(tmp_path):
    old = tables(tmp_path, 2)
    written(old, 0)
    state, wanted = state_of(old), contents(old)
    del old
    with (
        no_file_larger_than(10_000),
        pytest.raises(nc.InputError, match=r"room for \d+ bytes at .*/rows; got .*File too large"),
    ):
        tables(tmp_path, 1)
    assert not (tmp_path / "rows").exists()
    assert same(contents(load(tables(tmp_path, 2), state)), wanted)


def go_on(every, count, first=20):
    """So many states more."""
    for step in range(first, first + count):
        written(every, step, N)
        state = state_of(every)
    return state, contents(every)


def names(folder):
    return sorted(path.name for path in folder.iterdir() if ".undo-" not in path.name)


def test_files_go_when_no_state_that_can_be_gone_back_to_is_in_them(tmp_path):
    """Two processes, then three, one, and one that is stopped in between."""
    state, _ = go_on(tables(tmp_path, 2), 1)
    state, _ = go_on(load(tables(tmp_path, 3), state), 3)
    assert names(tmp_path) == sorted([*TWO, *THREE])
    state, _ = go_on(load(tables(tmp_path, 1), state), 3)
    assert names(tmp_path) == sorted([*TWO, *THREE, "rows"])
    state, wanted = go_on(load(tables(tmp_path, 1), state), 1, first=30)
    assert names(tmp_path) == ["rows"]
    assert not [path for path in tmp_path.iterdir() if "rows, " in path.name]
    assert same(contents(load(tables(tmp_path, 1), state)), wanted)


def test_files_of_another_run_and_files_in_use_stay(tmp_path):
    state, _ = go_on(tables(tmp_path, 2), 1)
    new = load(tables(tmp_path, 1), state)
    others = tables(tmp_path, 2)
    written(others, 0)
    wanted = contents(others)
    go_on(new, 5)
    assert names(tmp_path) == ["rows", *TWO]
    assert same(contents(others), wanted)


def test_back_and_forth(tmp_path):
    """The files of a number of processes begin anew where another has gone on since."""
    first, _ = go_on(tables(tmp_path, 2), 2)
    second, _ = go_on(load(tables(tmp_path, 1), first), 2)
    third, wanted = go_on(load(tables(tmp_path, 2), second), 1)
    assert same(contents(load(tables(tmp_path, 2), third)), wanted)
    with pytest.raises(nc.InputError, match="of another run"):
        load(tables(tmp_path, 2), first)
    go_on(load(tables(tmp_path, 2), third), 4)
    assert names(tmp_path) == TWO


def test_a_table_that_was_never_written_is_none_for_others_either(tmp_path):
    state = state_of(tables(tmp_path, 2))
    (new,) = tables(tmp_path, 1)
    written([new], 0)
    new.load_state_dict(state)
    assert not new.valid.any()
    assert new.state_dict()["table"]["rows 0 to 1000"]["generation"] == -1
    old = tables(tmp_path, 2)
    written(old[1:], 0)
    state, wanted = state_of(old), contents(old)
    del old
    assert same(contents(load([new], state)), wanted)


def test_what_is_missing_or_in_use_is_named(tmp_path):
    old = tables(tmp_path, 2)
    written(old, 0)
    state, of_first = state_of(old), old[0].state_dict()
    (new,) = tables(tmp_path, 1)
    written([new], 5)
    before = contents([new])
    with pytest.raises(nc.InputError, match=r"refers to rows 0 to 1000 .* one of rows 0 to 512;?"):
        new.load_state_dict(of_first)
    memory = RowTable(shards(1)[0], D, torch.float32, "cpu")
    with pytest.raises(nc.InputError, match=r"got one of rows 0 to 128, rows 128 to 256"):
        new.load_state_dict(memory.state_dict())
    with pytest.raises(nc.InputError, match="without rows 0 to 128"):
        memory.load_state_dict(state)
    child = os.fork()
    if not child:  # both files are open here, and there
        signal.pause()
    try:
        del old
        with pytest.raises(nc.InputError, match="no other process has open"):
            new.load_state_dict(state)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    (tmp_path / TWO[1]).rename(tmp_path / "elsewhere")
    with pytest.raises(nc.InputError, match=r"488 rows at .*rows 512 to 1000; got none.*restore"):
        new.load_state_dict(state)
    assert same(contents([new]), before), "nothing has been touched"
