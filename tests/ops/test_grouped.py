"""Group-wise work does all of the work, once."""

import pytest
import torch

from negcache.ops.grouped import grouped_dots, groups_of


@pytest.mark.parametrize("at_a_time", [1, 3, 1000])
def test_every_position_is_in_one_group_of_its_own_number(at_a_time):
    which = torch.randint(0, 40, (200,), generator=torch.Generator().manual_seed(0)) ** 2
    seen = torch.zeros(200, dtype=torch.long)
    for numbers, members in groups_of(which, at_a_time):
        assert len(numbers) <= at_a_time
        assert (which[members] == numbers[:, None]).all()
        seen[members] += 1
    assert (seen == 1).all()
    ordered = [groups.numbers for groups in groups_of(which.sort().values, at_a_time)]
    assert torch.equal(torch.cat(ordered).sort().values, which.unique()), "each group comes once"


def test_grouped_products_are_those_of_the_pairs():
    noise = torch.Generator().manual_seed(1)
    queries = torch.randn(7, 5, generator=noise, dtype=torch.float64)
    blocks = torch.randn(30, 4, 5, generator=noise, dtype=torch.float64)
    rows = torch.randint(0, 7, (90,), generator=noise)
    which = torch.randint(0, 6, (90,), generator=noise) ** 2
    dots, place = grouped_dots(queries, lambda numbers: blocks[numbers], 4, rows, which)
    wanted = torch.einsum("pf,pcf->pc", queries[rows], blocks[which])
    torch.testing.assert_close(dots[place], wanted, atol=1e-12, rtol=0)
