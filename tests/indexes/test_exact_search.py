"""Exact search equals sorting the whole score matrix, and says what it cannot do."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from negcache import DotScore, InputError
from negcache.indexes import top_k

score = DotScore(temperature=1.0, normalize=False)


def blocks(items, size):
    return ((first, items[first : first + size]) for first in range(0, len(items), size))


@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 30), st.integers(1, 12))
def test_equals_a_stable_sort_also_with_ties(seed, num_queries, num_items, size):
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randint(-1, 2, (num_queries, 3), generator=generator).float()
    items = torch.randint(-1, 2, (num_items, 3), generator=generator).float()  # ties everywhere
    k = int(torch.randint(1, num_items + 1, (), generator=generator))

    scores, ids = top_k(queries, blocks(items, size), score, k)

    wanted = score(queries, items).sort(dim=1, descending=True, stable=True)
    assert torch.equal(ids, wanted.indices[:, :k])
    assert torch.equal(scores, wanted.values[:, :k])


def test_k_beyond_the_items_is_refused():
    with pytest.raises(InputError, match=r"at most the 5 items.*k = 6"):
        top_k(torch.ones(2, 3), blocks(torch.ones(5, 3), 2), score, 6)
    with pytest.raises(InputError, match=r"k >= 1.*k = 0"):
        top_k(torch.ones(2, 3), blocks(torch.ones(5, 3), 2), score, 0)
