"""Exclusions against sets, with ids of any size."""

from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from negcache.exclusion import Exclusion

ROWS = 4
IDS = st.builds(int.__add__, st.sampled_from([0, 2**31, 2**62, 2**63 - 11]), st.integers(0, 9))
PAIRS = st.lists(st.tuples(st.integers(0, ROWS - 1), IDS), max_size=20)


def columns(pairs):
    return (torch.tensor([pair[i] for pair in pairs], dtype=torch.int64) for i in (0, 1))


@settings(deadline=None)
@given(PAIRS, PAIRS, st.lists(IDS, max_size=8, unique=True))
def test_ids_of_63_bits(pairs, asked, some):
    """A row beside an id near 2^62 does not fit into one number."""
    table = Exclusion.from_pairs(*columns(pairs), ROWS)
    model = [{item for owner, item in pairs if owner == row} for row in range(ROWS)]
    found = [table.ids[first:last].tolist() for first, last in pairwise(table.offsets)]
    assert found == [sorted(row) for row in model]
    wanted = [item in model[row] for row, item in asked]
    assert table.contains(*columns(asked)).tolist() == wanted
    wanted = [[item in row for item in some] for row in model]
    ids = torch.tensor(some, dtype=torch.int64)
    assert table.mask(ids).tolist() == wanted
    assert table.hits(ids.expand(ROWS, -1)).tolist() == wanted


@settings(deadline=None)
@given(PAIRS, st.lists(IDS, max_size=8, unique=True), st.permutations(range(20)))
def test_entries_by_other_numbers(pairs, some, numbers):
    """By their places among some ids, and by any numbers; those that have none are left out."""
    table, ids = Exclusion.from_pairs(*columns(pairs), ROWS), torch.tensor(sorted(some)).long()
    found = table.within(ids)
    assert torch.equal(found.mask(torch.arange(len(ids))), table.mask(ids))
    _check_rows_ascend(found)
    named = torch.tensor(numbers[: len(table.ids)]).long() - 3
    named[named > 9] += 2**62
    named = named.where(named >= 0, -1)
    found, kept = table.renumbered(named), named >= 0
    assert torch.equal(found.ids, Exclusion.from_pairs(table.rows[kept], named[kept], ROWS).ids)
    assert torch.equal(found.rows.bincount(minlength=ROWS), table.rows[kept].bincount(minlength=4))
    _check_rows_ascend(found)


def _check_rows_ascend(table):
    for first, last in pairwise(table.offsets):
        assert (table.ids[first:last].diff() > 0).all()
