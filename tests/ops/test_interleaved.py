"""Rows of several tables as one: the same order and grid for any number of processes."""

import pytest
import torch
from pace import slow

from negcache.distributed import ALONE
from negcache.ops.drawn_blocks import BLOCK
from negcache.ops.interleaved import Interleaved
from negcache.ops.shards import Shard, rows_of_each

TABLES = [
    ([300, 520], 3),
    ([700, 700, 701], 6),
    slow([128, 5, 2_000], 1),
    slow([131_072 + 1, 500], 4),
]


def dealt_out(totals, processes):
    """What each process has of these tables."""
    sizes = [rows_of_each(total, processes) for total in totals]
    return [
        Interleaved(
            [
                Shard(ALONE, sum(its[:rank]), its[rank], total)
                for its, total in zip(sizes, totals, strict=True)
            ]
        )
        for rank in range(processes)
    ]


def whole_rows(order, slots):
    """(table, row of the table) of these rows here."""
    which, rows = order.rows(slots)
    firsts = torch.tensor([table.first for table in order.shard.tables])
    return torch.stack([which, rows + firsts[which]])


@pytest.mark.parametrize(("totals", "most"), TABLES)
def test_the_order_is_that_of_one_process(totals, most):
    (one,) = dealt_out(totals, 1)
    wanted = whole_rows(one, torch.arange(sum(totals)))
    for processes in range(2, most + 1):
        every = dealt_out(totals, processes)
        slots = [torch.arange(order.shard.size) for order in every]
        found = [whole_rows(*pair) for pair in zip(every, slots, strict=True)]
        assert torch.equal(torch.cat(found, dim=1), wanted)
        firsts = torch.tensor([order.shard.first for order in every])
        assert torch.equal(firsts[1:], torch.tensor([len(each) for each in slots]).cumsum(0)[:-1])
        assert not (firsts % BLOCK).any(), "a block is with one process"


@pytest.mark.parametrize(("totals", "most"), TABLES)
def test_rows_come_back_as_they_were_asked_for(totals, most):
    for order in dealt_out(totals, most):
        slots = torch.arange(order.shard.size)
        which, rows = order.rows(slots.view(1, -1))
        columns = []
        for table, shard in enumerate(order.shard.tables):
            own = which == table
            assert torch.equal(order.slots(table, rows[own]), slots[own[0]])
            assert torch.equal(rows[own], torch.arange(shard.size)), "in the order of their table"
            columns.append(order.slots(table, torch.arange(shard.size)))
            assert order.slots(table, torch.tensor([-1])).tolist() == [-1]
        assert torch.equal(order.merged(columns), slots)


@pytest.mark.parametrize("size", [1, 7, 128, 200, 5_000])
def test_blocks_are_of_the_size_that_is_asked_for(size):
    order = dealt_out([300, 520], 2)[1]
    rows = [torch.arange(table.size) for table in order.shard.tables]
    columns = [order.slots(table, each) for table, each in enumerate(rows)]
    tables = [enumerate(column.split(size)) for column in columns]
    found = list(order.chunks(tables, size))
    assert [first for first, _ in found] == list(range(0, order.shard.size, size))
    assert {len(block) for _, block in found[:-1]} <= {size}
    assert torch.equal(torch.cat([block for _, block in found]), torch.arange(order.shard.size))


def test_what_any_table_wants_of_a_state_is_read():
    first, second = (order.shard for order in dealt_out([300, 520], 2))
    assert first.has("rows 128 to 256"), "of the larger table"
    assert not second.has("rows 0 to 128")
    assert second.has("rows 128 to 256"), "of the smaller"
    assert first.has("clock")
