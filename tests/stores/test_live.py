"""A table that trains, as a store: read in place, changes told once."""

import pytest
import torch

import negcache as nc
from negcache.distributed import ALONE
from negcache.ops.shards import Shard


class Ear:
    """An observer that keeps what it hears."""

    def __init__(self):
        self.heard = []

    def rows_changed(self, change):
        self.heard.append(change)

    def invalidate(self):
        self.heard = None

    def state_dict(self):
        return {"heard": len(self.heard)}

    def load_state_dict(self, state):
        self.loaded = state["heard"]


def build():
    weight = torch.nn.Parameter(torch.arange(12.0).view(6, 2))
    table, ear = nc.LiveTable(weight), Ear()
    table.observe(ear)
    return weight, table, ear


def encode(table, ids):
    """What a training step does: look rows up, then have them written back."""
    ids = torch.tensor(ids)
    table.write(ids, table.rows(ids))


def test_rows_are_the_parameters_as_they_are():
    weight, table, _ = build()
    with torch.no_grad():
        weight[4] = 100.0
    assert (table.rows(torch.tensor([4])) == 100).all()
    assert torch.equal(torch.cat([block for _, block in table.chunks(4)]), weight.detach())
    assert table.valid.all()
    assert not len(table.plan())
    assert not table.rows(torch.tensor([0])).requires_grad


def test_observers_hear_nothing_before_the_optimizer_has_stepped():
    _, table, ear = build()
    encode(table, [1, 3])
    table.flush()
    encode(table, [3, 5])
    table.flush()
    assert ear.heard == []


def test_after_the_step_each_row_is_told_once_with_what_it_was():
    weight, table, ear = build()
    encode(table, [1, 3])
    encode(table, [3, 5])
    optimizer = torch.optim.SGD([weight], lr=1.0)
    weight.grad = torch.ones_like(weight)
    before = weight.detach().clone()
    optimizer.step()
    table.flush()
    table.flush()
    (change,) = ear.heard
    assert change.slots.tolist() == [1, 3, 5]
    assert torch.equal(change.old, before[change.slots])
    assert torch.equal(change.new, before[change.slots] - 1)
    assert change.was_valid.all()
    assert change.is_valid.all()


@pytest.mark.parametrize("kind", [torch.optim.SparseAdam, torch.optim.Adagrad, torch.optim.SGD])
def test_every_optimizer_with_sparse_gradients_is_noticed(kind):
    weight, table, ear = build()
    optimizer = kind([weight], lr=0.1)
    encode(table, [1])
    torch.nn.functional.embedding(torch.tensor([1]), weight, sparse=True).sum().backward()
    with torch.sparse.check_sparse_tensor_invariants(enable=True):
        optimizer.step()
    table.step()
    assert len(ear.heard) == 1


@pytest.mark.parametrize("fused", [False, True])
def test_fused_optimizers_and_writes_to_data_are_noticed(fused):
    weight, table, ear = build()
    optimizer = torch.optim.Adam([weight], lr=0.1, fused=fused)
    encode(table, [1])
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    table.flush()
    encode(table, [2])
    weight.data.add_(1.0)
    table.flush()
    assert [change.slots.tolist() for change in ear.heard] == [[1], [2]]


def test_a_frozen_table_remembers_nothing_and_a_waiting_one_each_row_once():
    weight, table, ear = build()
    for _ in range(5):
        encode(table, [1, 2])
        table.flush()
    assert sum(len(ids) for ids, _ in table.touched) == 2
    weight.requires_grad_(False)
    table.invalidate()
    encode(table, [1, 2])
    assert table.touched == []
    assert ear.heard is None


def test_a_table_that_is_replaced_is_read_anew():
    module = torch.nn.Embedding(6, 2)
    table, ear = nc.LiveTable(module), Ear()
    table.observe(ear)
    module.weight = torch.nn.Parameter(torch.ones(6, 2))
    assert (table.rows(torch.tensor([4])) == 1).all()
    table.load_state_dict({})
    assert ear.heard is None, "a state without observers leaves nothing of the old rows"


def test_only_rows_that_have_moved_are_told():
    weight, table, ear = build()
    encode(table, [1, 3, 5])
    with torch.no_grad():
        weight[3, 1] += 1
        weight[5, 0] = torch.nan
    table.flush()
    (change,) = ear.heard
    assert change.slots.tolist() == [3, 5]
    assert change.old.tolist() == [[6, 7], [10, 11]]
    assert torch.equal(change.new, weight.detach()[[3, 5]]) or change.new[1, 0].isnan()


def test_where_other_rows_move_too_observers_start_anew_every_so_many_steps():
    """Counted in steps that moved the table; the count is saved."""
    weight = torch.nn.Parameter(torch.zeros(6, 2))

    def heard(table, steps):
        ear = Ear()
        table.observe(ear, "ear")
        for step in range(steps):
            encode(table, [step])
            table.flush()  # nothing has moved: no step
            with torch.no_grad():
                weight.add_(1.0)
            table.flush()
            if ear.heard is None:
                return step + 1
        return None

    assert heard(nc.LiveTable(weight, renew_every=3), 6) == 3
    assert heard(nc.LiveTable(weight), 6) is None
    table = nc.LiveTable(weight, renew_every=4)
    assert heard(table, 3) is None
    saved, other = table.state_dict(), nc.LiveTable(weight, renew_every=4)
    other.load_state_dict(saved)
    assert heard(other, 6) == 1


def test_saving_flushes_first():
    weight, table, ear = build()
    encode(table, [1])
    with torch.no_grad():
        weight[1] += 1
    saved = table.state_dict()
    assert saved == {"observers": {"rows 0 to 6": {"Ear": {"kind": "Ear", "state": {"heard": 1}}}}}
    table.load_state_dict(saved)
    assert ear.loaded == 1


def test_a_table_of_one_row_is_refused():
    with pytest.raises(nc.InputError, match="at least 2 rows"):
        nc.LiveTable(torch.nn.Parameter(torch.zeros(1, 2)))


def test_steps_of_other_processes_count_for_the_observers():
    """Every second step of any process they start anew, here too."""
    weight = torch.nn.Parameter(torch.arange(12.0).view(6, 2))
    table, ear = nc.LiveTable(weight, renew_every=2), Ear()
    table.observe(ear)
    table.catch_up(1)
    assert ear.heard == []
    encode(table, [1])
    table.catch_up(2)
    assert ear.heard is None
    assert not table.touched
    table.catch_up(3)
    ear.heard = []
    assert table.state_dict()["steps_seen"] == {"rows 0 to 6": 3}


def test_a_table_has_the_rows_that_it_says():
    shard = Shard(ALONE, 128, 6, 200)
    weight = torch.nn.Parameter(torch.arange(12.0).view(6, 2))
    table = nc.LiveTable(weight, shard=shard)
    assert (len(table), table.num_rows) == (200, 6)
    assert table.slots(torch.tensor([3, 128, 133, 134])).tolist() == [-1, 0, 5, -1]
    assert table.ids(torch.tensor([0, 5])).tolist() == [128, 133]
    with pytest.raises(nc.InputError, match="the 7 rows of rows 128 to 135; got 6"):
        nc.LiveTable(weight, shard=Shard(ALONE, 128, 7, 200))
