"""Rows in a file: the laws of stores, what is refused, and the way back to a checkpoint."""

import copy
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from full_disk import no_file_larger_than

import negcache as nc
from negcache.draws import draw
from negcache.exclusion import Exclusion
from negcache.messages import Request
from negcache.ops.shards import Shard
from negcache.stores import row_file, undo_journal
from negcache.stores.file_table import FileTable
from negcache.stores.row_file import Column, RowFile
from negcache.testing.conformance import check_store

ROUNDING = {torch.float32: 0.0, torch.bfloat16: 2**-8, torch.int8: 1 / 254}


def cache(path, dtype=torch.float32, num_items=300, **settings):
    return nc.DenseCache(num_items, 3, dtype=dtype, path=path, **settings)


def written(store, step, count=40):
    """Some random rows in this step."""
    random = torch.Generator().manual_seed(step)
    ids = torch.randperm(len(store), generator=random)[:count]
    store.write(ids, torch.randn(count, 3, generator=random))
    store.step()


def contents(store):
    rows = store.rows(torch.arange(len(store)))
    return rows, store.table.written.clone(), store.valid.clone(), store.clock


def assert_same(got, wanted):
    assert all(torch.equal(*map(torch.as_tensor, pair)) for pair in zip(got, wanted, strict=True))


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("rho", [0.0, 0.05])
def test_laws(tmp_path, dtype, rho):
    build = lambda: cache(tmp_path / "rows", dtype, refresh=rho)  # noqa: E731
    check_store(build, rho, ROUNDING[dtype])


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("window", [1, 1 << 22])
def test_rows_are_those_of_a_table_in_memory(tmp_path, monkeypatch, dtype, window):
    monkeypatch.setattr(row_file, "WINDOW", window)
    stores = cache(tmp_path / "rows", dtype), nc.DenseCache(300, 3, dtype=dtype)
    for store in stores:
        for step in range(6):
            written(store, step)
    assert_same(*(contents(store) for store in stores))
    assert torch.equal(stores[0].plan(), stores[1].plan())
    slots = torch.tensor([7, 3, 3, 299, 0, 4, 5])
    assert torch.equal(stores[0].rows(slots), stores[1].rows(slots))
    for size in (7, 128, 1000):
        for (first, block), (other, wanted) in zip(
            *(list(store.chunks(size)) for store in stores), strict=True
        ):
            assert first == other
            assert torch.equal(block, wanted)


def test_rows_that_stand_together_are_read_at_once_however_often_they_are_asked_for(
    tmp_path, monkeypatch
):
    store = cache(tmp_path / "rows")
    written(store, 0, 300)
    calls, read = [], os.preadv

    def counted(*arguments):
        calls.append(arguments)
        return read(*arguments)

    monkeypatch.setattr(os, "preadv", counted)
    found = store.rows(torch.tensor([8, 7, 9, 7, 200, 8, 8]))
    assert len(calls) == 2
    assert torch.equal(found[[1, 3]], store.rows(torch.tensor([7, 7])))


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8])
def test_draws_are_those_of_a_table_in_memory(tmp_path, dtype):
    stores = cache(tmp_path / "rows", dtype), nc.DenseCache(300, 3, dtype=dtype)
    score = nc.DotScore(0.1).requires_grad_(False)
    queries = torch.nn.functional.normalize(torch.randn(4, 3), dim=1)
    positives = torch.arange(4)
    exclude = Exclusion.from_pairs(torch.arange(4), positives, 4)
    request = Request(queries, score, positives, exclude)
    found = []
    for store in stores:
        written(store, 0, 300)
        found.append(draw(nc.CachedSoftmax(store, 9), request, torch.Generator().manual_seed(1)))
    assert torch.equal(found[0].ids, found[1].ids)
    assert torch.equal(found[0].log_weight, found[1].log_weight)


def test_a_file_of_other_rows_or_cut_short_is_refused(tmp_path):
    path = tmp_path / "rows"
    written(cache(path), 0)
    with pytest.raises(nc.InputError, match=r'"rows": 200.*got .*"rows": 300'):
        cache(path, num_items=200)
    with pytest.raises(nc.InputError, match=r'"torch.int8".*got .*"embeddings": ."torch.float32"'):
        cache(path, torch.int8)
    os.truncate(path, 5000)
    with pytest.raises(nc.InputError, match="got 5000 bytes at"):
        cache(path)
    path.write_bytes(b"not yours")
    with pytest.raises(nc.InputError, match="got 9 bytes at"):
        cache(path)
    assert path.read_bytes() == b"not yours"


def test_a_file_that_is_cut_while_it_is_open(tmp_path):
    store = cache(tmp_path / "rows")
    written(store, 0)
    os.truncate(tmp_path / "rows", 5000)
    with pytest.raises(nc.InputError, match=r"more bytes in .*its end"):
        store.rows(torch.arange(300))


def test_no_room_and_no_folder_are_errors_at_the_start(tmp_path, monkeypatch):
    with pytest.raises(nc.InputError, match="a folder with room"):
        cache(tmp_path / "no" / "rows")

    def full(handle, start, size):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(nc.InputError, match="No space left"):
        cache(tmp_path / "rows")
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_space_is_taken_at_once(tmp_path):
    RowFile(tmp_path / "rows", 100_000, {"embeddings": Column(torch.float32, 8)})
    assert (tmp_path / "rows").stat().st_blocks * 512 >= 3_200_000


def test_another_process_is_refused(tmp_path):
    store = cache(tmp_path / "rows")
    script = f"import negcache as nc; nc.DenseCache(300, 3, path={str(tmp_path / 'rows')!r})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "no other process has open" in done.stderr
    assert len(store) == 300


def test_states_lead_back_also_several_at_once(tmp_path):
    store, states, wanted = cache(tmp_path / "rows", torch.int8), [], []
    for step in range(3):
        written(store, step)
        states.append(copy.deepcopy(store.state_dict()))
        wanted.append(contents(store))
    written(store, 5)
    written(store, 6)
    for turn in (2, 2, 0):
        again = cache(tmp_path / "rows", torch.int8)
        assert not again.valid.any(), "until a state is loaded"
        again.load_state_dict(states[turn])
        assert_same(contents(again), wanted[turn])
        written(again, 7)
        again.load_state_dict(states[turn])
        assert_same(contents(again), wanted[turn])
    with pytest.raises(nc.InputError, match=r"generation 3\).*generations \[0, 1\]"):
        again.load_state_dict(states[2])


def test_a_state_without_changes_begins_nothing(tmp_path):
    store = cache(tmp_path / "rows")
    empty = store.state_dict()
    written(store, 0)
    first = store.state_dict()
    assert first == store.state_dict()
    store.load_state_dict(empty)
    assert not store.valid.any()
    store.load_state_dict(store.state_dict())
    assert not store.valid.any(), "nor does loading one of nothing"


def test_rows_of_another_run_and_states_too_old_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(undo_journal, "KEPT", 2)
    store = cache(tmp_path / "rows")
    states = []
    for step in range(4):
        written(store, step)
        states.append(store.state_dict())
    names = sorted(each.name for each in tmp_path.iterdir())
    assert names == ["rows", "rows.undo-3", "rows.undo-4"], "older ones are gone"
    with pytest.raises(nc.InputError, match=r"generation 2\).*one of the 2 newest"):
        store.load_state_dict(states[1])
    new = cache(tmp_path / "rows")
    written(new, 9)
    with pytest.raises(nc.InputError, match="of another run"):
        cache(tmp_path / "rows").load_state_dict(states[3])
    with pytest.raises(nc.InputError, match=r"refers to rows 0 to 300 in"):
        new.load_state_dict(nc.DenseCache(300, 3).state_dict())


def test_a_record_that_is_not_whole_is_passed_over(tmp_path):
    store = cache(tmp_path / "rows")
    written(store, 0)
    state, wanted = store.state_dict(), contents(store)
    written(store, 1)
    with (tmp_path / "rows.undo-1").open("ab") as journal:
        journal.write(undo_journal.RECORD.pack(3, 77) + bytes(50))
    store.load_state_dict(state)
    assert_same(contents(store), wanted)


def test_a_disk_that_fills_up_in_the_middle_of_a_run_loses_nothing(tmp_path):
    store = cache(tmp_path / "rows", num_items=2000)
    written(store, 0, 2000)
    state, wanted = store.state_dict(), contents(store)
    with no_file_larger_than((tmp_path / "rows").stat().st_size):
        written(store, 1, 1500)
        before = contents(store)
        with pytest.raises(
            nc.InputError, match=r"room for \d+ bytes at .*File too large.*go on from"
        ):
            store.write(torch.arange(2000), torch.ones(2000, 3))
        assert_same(contents(store), before)
        written(store, 1, 1500)  # what is kept already needs no room
    written(store, 2, 2000)
    store.load_state_dict(state)
    assert_same(contents(store), wanted)


def test_a_generation_without_room_is_an_error_of_that_checkpoint(tmp_path):
    store = cache(tmp_path / "rows")
    written(store, 0)
    state, wanted = store.state_dict(), contents(store)
    written(store, 1)
    with (
        no_file_larger_than(20),
        pytest.raises(nc.InputError, match=r"bytes at .*rows\.undo-2; got"),
    ):
        store.state_dict()
    written(store, 2)
    store.load_state_dict(state)
    assert_same(contents(store), wanted)


def test_a_table_that_is_filled_is_written_once(tmp_path):
    """Nobody goes back to before there were rows; where somebody may, that is kept."""
    store = cache(tmp_path / "rows")
    written(store, 0, 300)
    assert (tmp_path / "rows.undo-0").stat().st_size < 100
    again = cache(tmp_path / "again")
    again.write(torch.empty(0, dtype=torch.long), torch.empty(0, 3))
    state = again.state_dict()
    written(again, 0, 300)
    assert again.state_dict() != state
    again.load_state_dict(state)
    assert not again.valid.any()


def test_each_process_has_a_file_of_its_share(tmp_path):
    shard = Shard(Shard.whole(300).mesh, 128, 172, 300)
    table = FileTable(shard, 3, torch.float32, tmp_path / "rows")
    table.write(torch.arange(172), torch.ones(172, 3), 0)
    assert (tmp_path / "rows, rows 128 to 300").exists()
    assert list(table.state_dict()["table"]) == ["rows", "dim", "rows 128 to 300"]


def test_rows_in_a_file_are_on_the_host(tmp_path):
    with pytest.raises(nc.InputError, match="on the host"):
        cache(tmp_path / "rows", device="meta")


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "kills"), [("int8", 5), ("float32", 40)])
def test_a_run_that_is_killed_is_the_run_that_never_was(tmp_path, dtype, kills):
    script = Path(__file__).parent.parent / "killed_training.py"
    words = [sys.executable, script, tmp_path, str(kills), "4", dtype]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == kills
    straight, killed = (torch.load(tmp_path / name / "learned") for name in ("straight", "killed"))
    assert all(torch.equal(*pair) for pair in zip(straight, killed, strict=True))
