"""Who holds which rows, also of a table that grew; and random items that all agree on."""

import pytest
import torch

from negcache.distributed import ALONE
from negcache.errors import InputError
from negcache.ops.shards import Shard, rows_of_each, some_of_all
from negcache.ops.uniform import draw_distinct
from negcache.packing import add_up
from negcache.stores.coordinate_table import CoordinateTable
from negcache.testing.conformance import chi_square_p

CPU = torch.device("cpu")


def shards(total, processes):
    sizes = rows_of_each(total, processes)
    return [Shard(ALONE, sum(sizes[:rank]), sizes[rank], total) for rank in range(processes)]


def tables(total, processes):
    return [CoordinateTable(each, 1, torch.float32, CPU, None) for each in shards(total, processes)]


@pytest.mark.parametrize(("total", "count"), [(40, 3), (40, 20), (13, 3), (5, 9), (0, 4)])
def test_distinct_numbers_are_as_many_as_asked_for_and_uniform(total, count):
    noise, seen = torch.Generator().manual_seed(1), torch.zeros(total, dtype=torch.int64)
    for _ in range(2_000):
        drawn = draw_distinct(total, count, noise)
        assert len(drawn) == min(count, total)
        assert (drawn.diff() > 0).all()
        seen[drawn] += 1
    if count < total:
        assert chi_square_p(seen, torch.full((total,), 2_000 * count / total)) > 1e-4


def test_what_is_chosen_are_ids_and_no_places():
    ids = torch.arange(100, 200)
    chosen = some_of_all(ALONE, ids, 7, torch.Generator().manual_seed(0))
    assert torch.equal(chosen, 100 + draw_distinct(100, 7, torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_a_table_that_grew_takes_parts_that_lay_elsewhere(processes):
    """200,000 rows in parts of 256, dealt out to three; of 300,000 the parts have 384."""
    few, many = 200_000, 300_000
    values, saved = torch.arange(few).float(), []
    for table in tables(few, 3):
        slots = torch.arange(table.shard.size)
        coordinates = torch.stack([values[table.shard.bounds], torch.ones(len(slots))], dim=1)
        table.write(slots, coordinates)
        table.note(slots, values[table.shard.bounds])
        table.removed[table.shard.ids(slots) % 7 == 0] = True
        saved.append(table.state_dict())
    state, grown = add_up(saved), tables(many, processes)
    for table in grown:
        here = {name: each for name, each in state.items() if table.shard.has(name)}
        table.load_state_dict(here)
    stored = torch.cat([table.stored for table in grown]).squeeze(1)
    assert torch.equal(stored[:few], values)
    valid = torch.cat([table.valid for table in grown])
    assert valid[:few].all()
    assert not valid[few:].any()
    removed = torch.cat([table.removed for table in grown]).nonzero().squeeze(1)
    assert torch.equal(removed, torch.arange(0, few, 7))
    kept = torch.stack([table.kept.sum(dim=0) for table in grown]).sum(dim=0)
    torch.testing.assert_close(kept, torch.tensor([values.double().sum(), few]).double())


def test_a_state_without_some_of_the_rows_is_refused():
    first, second = tables(700, 2)
    with pytest.raises(InputError, match=r"rows 384 to 700.*with 0 of them"):
        second.load_state_dict(first.state_dict())
