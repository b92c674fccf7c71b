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
